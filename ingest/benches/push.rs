//! What a pushed sample costs on its way into memory and log: bodies of 100 containers with 10 metrics, 1,000 points each,
//! as clients of each protocol send them.
//!
//!     cargo bench --bench push
//!
//! `decode` is bytes to columns, with every series known and with none; `push` is decoding and appending to a store with
//! `durability = "interval"`, without HTTP. A thousand elements are a thousand points, so 1 / (elements per second) is the
//! CPU time of a point.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidegate_ingest::{Known, Learnt, Spellings, influx, opentsdb, prometheus};
use tidegate_model::{SampleBatch, TimeMs};
use tidegate_store::{Store, StoreConfig};

const NOW: i64 = 1_795_291_200_000;
const CONTAINERS: usize = 100;
const METRICS: usize = 10;

fn points(round: usize) -> impl Iterator<Item = (usize, usize, f64)> {
    (0..CONTAINERS).flat_map(move |container| {
        (0..METRICS).map(move |metric| {
            (container, metric, ((container * 37 + metric * 11 + round * 7) % 10_000) as f64 / 100.0)
        })
    })
}

/// As BDWatchdog's feeder writes them: every field is a text.
fn opentsdb_body(round: usize) -> Vec<u8> {
    let time = NOW / 1000 - 1000 + round as i64;
    let point = |(container, metric, value): (usize, usize, f64)| {
        format!(
            r#"{{"metric": "proc.m{metric}.usage", "timestamp": "{time}", "value": "{value:.2}", "tags": {{"host": "cont{container:04}", "pid": "{}", "command": "java"}}}}"#,
            4000 + container
        )
    };
    format!("[{}]", points(round).map(point).collect::<Vec<_>>().join(", ")).into_bytes()
}

/// A line a container, a field a metric.
fn influx_body(round: usize) -> Vec<u8> {
    let time = (NOW - 1_000_000 + round as i64 * 1000) * 1_000_000;
    let points: Vec<_> = points(round).collect();
    let line = |fields: &[(usize, usize, f64)]| {
        let container = fields[0].0;
        let fields: Vec<_> = fields.iter().map(|(_, metric, value)| format!("m{metric}={value:.2}")).collect();
        format!("proc,host=cont{container:04},pid={},command=java {} {time}\n", 4000 + container, fields.join(","))
    };
    points.chunks(METRICS).map(line).collect::<String>().into_bytes()
}

fn prometheus_body(round: usize) -> Vec<u8> {
    let varint = |mut left: u64| {
        let mut bytes = Vec::new();
        while left >= 0x80 {
            bytes.push(left as u8 | 0x80);
            left >>= 7;
        }
        bytes.push(left as u8);
        bytes
    };
    let field = |number: u8, bytes: &[u8]| [&[(number << 3) | 2][..], &varint(bytes.len() as u64), bytes].concat();
    let label = |name: &str, value: &str| field(1, &[field(1, name.as_bytes()), field(2, value.as_bytes())].concat());
    let mut body = Vec::new();
    for (container, metric, value) in points(round) {
        let time = varint((NOW - 1_000_000 + round as i64 * 1000) as u64);
        let sample = [&[0x09][..], &value.to_le_bytes(), &[0x10], &time].concat();
        let series = [
            label("__name__", &format!("proc_m{metric}_usage")),
            label("command", "java"),
            label("host", &format!("cont{container:04}")),
            label("pid", &(4000 + container).to_string()),
            field(2, &sample),
        ];
        body.extend(field(1, &series.concat()));
    }
    body
}

type Decode = fn(&[u8], &Known) -> (SampleBatch, Learnt);

fn decode_opentsdb(body: &[u8], known: &Known) -> (SampleBatch, Learnt) {
    let decoded = opentsdb::decode(body, known).unwrap();
    (decoded.batch, decoded.learnt)
}

fn decode_influx(body: &[u8], known: &Known) -> (SampleBatch, Learnt) {
    let decoded = influx::decode(body, influx::Precision::Nanoseconds, TimeMs(NOW), known);
    (decoded.batch, decoded.learnt)
}

fn decode_prometheus(body: &[u8], known: &Known) -> (SampleBatch, Learnt) {
    let decoded = prometheus::decode(body, prometheus::Version::V1, known).unwrap();
    (decoded.batch, decoded.learnt)
}

/// Its name, how a body is made, and how it is read.
type Protocol = (&'static str, fn(usize) -> Vec<u8>, Decode);

const PROTOCOLS: [Protocol; 3] = [
    ("opentsdb", opentsdb_body, decode_opentsdb),
    ("influx", influx_body, decode_influx),
    ("prometheus", prometheus_body, decode_prometheus),
];

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements((CONTAINERS * METRICS) as u64));
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    for (name, body, decode) in PROTOCOLS {
        let spellings = Spellings::for_series(CONTAINERS * METRICS);
        let (batch, learnt) = decode(&body(0), &spellings.read());
        assert_eq!(batch.len(), CONTAINERS * METRICS);
        let ids: Vec<_> = (0..batch.keys().len() as u32).map(Some).collect();
        spellings.learn(&learnt, &ids);
        let body = body(1);
        group.bench_function(format!("{name} known"), |bencher| {
            bencher.iter(|| decode(black_box(&body), &spellings.read()));
        });
        group.bench_function(format!("{name} unknown"), |bencher| {
            bencher.iter(|| decode(black_box(&body), &Known::default()));
        });
    }
}

fn push(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut group = criterion.benchmark_group("push");
    group.throughput(Throughput::Elements((CONTAINERS * METRICS) as u64));
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    for (name, body, decode) in PROTOCOLS {
        let dir = tempfile::tempdir().unwrap();
        let store =
            Store::open(StoreConfig { dir: dir.path().join("data"), ..StoreConfig::default() }, TimeMs(NOW)).unwrap();
        let spellings = Spellings::for_series(CONTAINERS * METRICS);
        let bodies: Vec<_> = (0..500).map(body).collect();
        let mut round = 0;
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || {
                    round += 1;
                    &bodies[round % bodies.len()]
                },
                |body| {
                    let (batch, learnt) = decode(body, &spellings.read());
                    let report = runtime.block_on(store.append(&batch, TimeMs(NOW))).unwrap();
                    spellings.learn(&learnt, &report.ids);
                    assert_eq!(report.accepted, CONTAINERS * METRICS);
                },
                BatchSize::SmallInput,
            );
            // What has come together would otherwise fill memory.
            runtime.block_on(store.flush(TimeMs(NOW))).unwrap();
        });
    }
}

criterion_group!(benches, decode, push);
criterion_main!(benches);
