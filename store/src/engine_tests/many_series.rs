//! Many series that all have samples: what each takes in memory, and what becomes of those beyond the limit.

use tidegate_model::SeriesRef;

use super::*;

const METRIC: &str = "proc.cpu.user";
/// Series in one push.
const PUSHED: u32 = 5_000;

/// A process of one of a thousand containers.
fn process(number: u32) -> SeriesKey {
    let (host, pid) = (format!("cont{:04}", number % 1_000), number.to_string());
    SeriesKey::from_parts(METRIC, [("command", "java"), ("host", &host), ("pid", &pid)])
}

/// Memory that the process takes, in bytes.
fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Pushes a sample of each of the series at a time after [`NOW`].
async fn push(store: &Store, numbers: std::ops::Range<u32>, time: i64) -> crate::AppendReport {
    let mut batch = SampleBatch::new();
    numbers.for_each(|number| batch.push(process(number), TimeMs(NOW.0 + time), f64::from(number)));
    store.append(&batch, NOW).await.unwrap()
}

/// Fills a store up to its limit. Returns the bytes that each series takes, with one sample in memory.
async fn up_to_the_limit_and_beyond(series: u32) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { max_series: series as usize, ..config(dir.path()) };
    let mut store = Store::open(config.clone(), NOW).unwrap();
    let before = resident();
    for first in (0..series).step_by(PUSHED as usize) {
        let report = push(&store, first..series.min(first + PUSHED), 0).await;
        assert_eq!(report.refused(), 0, "{:?}", report.rejected);
    }
    let bytes = resident().saturating_sub(before) / series as usize;
    println!("{series} series, {bytes} bytes each");

    for (time, reopened) in [(1, false), (3, true)] {
        if reopened {
            drop(store);
            store = Store::open(config.clone(), NOW).unwrap();
        }
        // The last ten that there are, and ten more.
        let report = push(&store, series - 10..series + 10, time).await;
        assert_eq!((report.accepted, report.refused()), (10, 10));
        assert!(report.refused_rows().eq(10..20));
        let host = format!("cont{:04}", series % 1_000);
        let reason = format!(
            "new series {METRIC}{{command=java, host={host}, pid={series}}} is beyond the limit of {series} series \
             (store.max_series)"
        );
        assert_eq!(report.rejected[0].reason, reason);
        let mut by_id = SampleBatch::new();
        by_id.push_row(SeriesRef::Id(report.ids[0].unwrap()), TimeMs(NOW.0 + time + 1), 7.0);
        assert_eq!(store.append(&by_id, NOW).await.unwrap().accepted, 1);
        assert_eq!(store.stats().series, series as usize);
    }
    let newest = store.newest_of(METRIC, &all_ids(&store), NOW.0, NOW.0 + 10, || Ok::<_, crate::StoreError>(()));
    let newest = newest.unwrap();
    assert_eq!(newest.len(), series as usize);
    assert_eq!(newest.iter().filter(|(_, time, _)| *time == NOW.0 + 3).count(), 9);
    assert_eq!(newest.iter().filter(|(_, time, value)| (*time, *value) == (NOW.0 + 4, 7.0)).count(), 1);
    bytes
}

fn all_ids(store: &Store) -> Vec<u32> {
    store.series_of(METRIC, i64::MIN).into_iter().map(|(id, _)| id).collect()
}

#[tokio::test]
async fn beyond_the_limit_new_series_are_refused_by_name_and_the_others_go_on() {
    // What the store takes without any series is a good part of this.
    let bytes = up_to_the_limit_and_beyond(100_000).await;
    assert!(bytes < 1_000, "{bytes}");
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn a_million_series_fit_into_less_than_half_a_gigabyte() {
    let bytes = up_to_the_limit_and_beyond(1_000_000).await;
    assert!(bytes < 400, "{bytes}");
}
