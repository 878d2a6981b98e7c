//! Bytes a point. Not part of the suite, since it takes minutes: names a file of the fleet generator, containers of ten
//! metrics at steps of 10 s as doubles, and prints what each column takes.
//!
//! `TIDEGATE_TEST_FLEET=fleet.bin:CONTAINERS cargo nextest run --workspace --run-ignored only --no-capture -E 'test(size::)'`

use std::io::Read;
use std::time::Instant;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::statistics::Statistics;

use super::*;
use crate::hot::Row;

const METRICS: [&str; 10] = [
    "cpu_user",
    "cpu_kernel",
    "cpu_limit",
    "mem_resident",
    "mem_limit",
    "disk_read",
    "disk_write",
    "net_in",
    "net_out",
    "threads",
];
/// Midnight UTC.
const START: i64 = 1_799_971_200_000;
const STEP_MS: i64 = 10_000;
/// A flush every 15 min of data.
const FLUSH_STEPS: i64 = 90;

#[tokio::test]
#[ignore = "measures, and takes minutes"]
async fn what_a_point_takes() {
    let given = std::env::var("TIDEGATE_TEST_FLEET").expect("TIDEGATE_TEST_FLEET=FILE:CONTAINERS");
    let (path, containers) = given.rsplit_once(':').unwrap();
    let containers: usize = containers.parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    define_series(&store, containers);
    let mut file = std::io::BufReader::new(fs::File::open(path).unwrap());
    let mut bytes = vec![0; containers * METRICS.len() * 8];
    let (began, mut step) = (Instant::now(), 0);
    while file.read_exact(&mut bytes).is_ok() {
        let time = START + step * STEP_MS;
        let values = bytes.chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap()));
        let metric = |at: usize| store.index.read().metric_id(METRICS[at]).unwrap();
        let metrics: Vec<u32> = (0..METRICS.len()).map(metric).collect();
        let rows = (0_u32..)
            .zip(values)
            .map(|(series, value)| (metrics[series as usize % METRICS.len()], Row { series, time, value }));
        store.data.write().active.push(time, rows);
        step += 1;
        if step % FLUSH_STEPS == 0 {
            store.flush(TimeMs(time)).await.unwrap();
        }
    }
    store.flush(TimeMs(START + step * STEP_MS)).await.unwrap();
    let points = step as u64 * containers as u64 * METRICS.len() as u64;
    let flushed = store.stats();
    println!("{points} points, {} segments after {:.1?}", flushed.segments, began.elapsed());
    println!("flushed: {:.4} bytes a point", flushed.segment_bytes as f64 / points as f64);
    let began = Instant::now();
    let report = store.compact().await.unwrap();
    println!("{report:?} in {:.1?}", began.elapsed());
    for segment in &store.data.read().segments.0 {
        for name in segment.meta.files() {
            print_columns(&dir.path().join("segments").join(name), points);
        }
    }
    let began = Instant::now();
    let read: usize = store
        .data
        .read()
        .segments
        .0
        .iter()
        .map(|segment| {
            let (mut rows, series) = (Vec::new(), [10]);
            let wanted = Wanted { metric: METRICS[0], series: Some(&series), from: 0, to: i64::MAX };
            segment.read_samples(&wanted, &mut rows).unwrap();
            rows.len()
        })
        .sum();
    println!("first read of one series: {read} rows in {:.1?}", began.elapsed());
    let all = dir_bytes(dir.path());
    println!("everything: {all} bytes, {:.4} bytes a point", all as f64 / points as f64);
    for path in files(dir.path()) {
        println!("  {}: {}", path.file_name().unwrap().display(), dir_bytes(&path));
    }
}

fn define_series(store: &Store, containers: usize) {
    let per_host = containers / 50;
    for container in 0..containers {
        for (at, metric) in METRICS.iter().enumerate() {
            let host = format!("host{:03}", container / per_host);
            let name = format!("{host}-c{:02}", container % per_host);
            let tags = [("host", host), ("container", name), ("app", format!("app{:02}", container % 25))];
            let key = SeriesKey::new(*metric, tags.map(|(tag, value)| (tag.to_owned(), value)));
            let id = (container * METRICS.len() + at) as u32;
            store.index.write().insert(id, key);
        }
    }
    store.series_log.add(store.index.read().all());
}

fn dir_bytes(path: &Path) -> u64 {
    if path.is_file() {
        return fs::metadata(path).unwrap().len();
    }
    files(path).iter().map(|path| dir_bytes(path)).sum()
}

/// What each metric's columns take, in bytes for each of that metric's points.
fn print_columns(path: &Path, points: u64) {
    let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
    let size = fs::metadata(path).unwrap().len();
    println!("{}: {size} bytes, {:.4} bytes a point", path.display(), size as f64 / points as f64);
    let per_metric = points as f64 / METRICS.len() as f64;
    let mut columns_bytes = 0;
    for group in reader.metadata().row_groups() {
        let metric = match group.column(0).statistics() {
            Some(Statistics::ByteArray(names)) => names.min_opt().map(|name| name.as_utf8().unwrap().to_owned()),
            _ => None,
        };
        print!("{:>12} {:>8} rows", metric.unwrap_or_default(), group.num_rows());
        for column in group.columns() {
            columns_bytes += column.compressed_size();
            let bytes = column.compressed_size() as f64 / per_metric;
            if bytes >= 0.000_05 {
                let encodings: Vec<_> = column.encodings().map(|encoding| format!("{encoding:?}")).collect();
                print!(" {}={bytes:.4}[{}]", column.column_path(), encodings.join("+"));
            }
        }
        println!(" sum={:.4}", group.compressed_size() as f64 / per_metric);
    }
    println!("footer and indexes: {:.4} bytes a point", (size as i64 - columns_bytes) as f64 / points as f64);
}
