//! What compaction changes, and what it must not.

use proptest::prelude::*;

use super::*;
use crate::hot::Row;
use crate::segment::rollup::{Figures, RollupRow, Step};

const HOUR: i64 = 3_600_000;

fn rows(store: &Store, metric: &str, series: Option<&[u32]>, from: i64, to: i64) -> Vec<(u32, i64, u64)> {
    let chunks = store.scan(&Wanted { metric, series, from, to }).unwrap();
    let rows = chunks.iter().flat_map(|chunk| {
        (0..chunk.times.len())
            .map(|at| (chunk.series.value(at), chunk.times.value(at), chunk.values.value(at).to_bits()))
    });
    rows.collect()
}

async fn append(store: &Store, rows: &[(&str, i64, f64)]) {
    assert_eq!(store.append(&batch(rows), NOW).await.unwrap().rejected, vec![]);
}

#[tokio::test]
async fn every_partition_becomes_one_segment_and_the_last_write_still_wins() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { partition_s: 3_600, ..config(dir.path()) };
    let store = Store::open(config.clone(), NOW).unwrap();
    for (round, value) in [(0, 1.0), (1, 2.0), (2, 0.1 + 0.2)] {
        // One sample either side of a border, and a late one that is written again each time.
        append(&store, &[("a", -2 * HOUR, value), ("a", round - 1, value), ("b", -HOUR - round, 0.25)]).await;
        store.flush(NOW).await.unwrap();
    }
    let (before, size) = (everything(&store), store.stats().segments);
    let report = store.compact().await.unwrap();
    assert_eq!((size, store.stats().segments), (3, 3), "{report:?}");
    assert_eq!(everything(&store), before);
    assert_eq!(before[0], ("a".to_owned(), -2 * HOUR, 0.1 + 0.2));
    assert_eq!(store.compact().await.unwrap(), Default::default());
    drop(store);
    let store = Store::open(config, NOW).unwrap();
    assert_eq!(everything(&store), before);
    // No file is left over.
    let named = store.data.read().segments.0.iter().map(|segment| segment.meta.files().count()).sum::<usize>();
    assert_eq!(files(&dir.path().join("segments")).len(), named);
}

#[tokio::test]
async fn a_crash_between_the_new_segment_and_the_catalog_leaves_what_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for time in 0..3 {
        append(&store, &[("a", time, time as f64)]).await;
        store.flush(NOW).await.unwrap();
    }
    let before = everything(&store);
    let kept: Vec<_> = files(&dir.path().join("segments"))
        .into_iter()
        .chain([dir.path().join("catalog.json")])
        .map(|path| (fs::read(&path).unwrap(), path))
        .collect();
    store.compact().await.unwrap();
    assert_eq!(store.stats().segments, 1);
    drop(store);
    for (bytes, path) in &kept {
        fs::write(path, bytes).unwrap();
    }
    let store = open(dir.path());
    assert_eq!(everything(&store), before);
    assert_eq!(files(&dir.path().join("segments")).len(), 3);
    store.compact().await.unwrap();
    assert_eq!(everything(&store), before);
}

#[tokio::test]
async fn a_scan_that_began_before_can_still_read_and_a_compaction_that_is_told_to_stop_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for time in 0..2 {
        append(&store, &[("a", time, 1.0)]).await;
        store.flush(NOW).await.unwrap();
    }
    let stop = std::sync::atomic::AtomicBool::new(true);
    let pace = crate::segment::merge::Pace::new(1.0, &stop);
    let error = store.compact_now(crate::segment::compact::Due::Everything, &pace).unwrap_err();
    assert!(error.to_string().contains("compaction was interrupted"), "{error}");
    assert_eq!(files(&dir.path().join("segments")).len(), 2);

    let segments = store.data.read().segments.clone();
    store.compact().await.unwrap();
    let mut rows: Vec<Row> = Vec::new();
    let all = Wanted { metric: "cpu", series: None, from: 0, to: i64::MAX };
    for segment in &segments.0 {
        assert!(segment.read_samples(&all, &mut rows).unwrap());
    }
    assert_eq!(rows.len(), 2);
    drop(segments);
    assert_eq!(files(&dir.path().join("segments")).len(), 1);
}

#[tokio::test]
async fn decisions_and_events_are_merged_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for time in 0..3 {
        store
            .append_decisions(&[decision("1", time, time as f64), decision(&format!("d{time}"), time, 0.5)])
            .await
            .unwrap();
        store.append_events(&[event("x", time)]).await.unwrap();
        store.flush(NOW).await.unwrap();
    }
    let read = |store: &Store| (store.scan_decisions(0, i64::MAX).unwrap(), store.scan_events(0, i64::MAX).unwrap());
    let before = read(&store);
    assert_eq!(store.stats().segments, 6);
    store.compact().await.unwrap();
    assert_eq!(store.stats().segments, 2);
    assert_eq!(read(&store), before);
    drop(store);
    assert_eq!(read(&open(dir.path())), before);
}

/// With odd values among the decimals, which the general reader reads, and without; at even times and at uneven ones.
#[tokio::test]
async fn a_few_series_among_many_are_read_by_page_and_by_time() {
    for (odd, uneven) in [(false, false), (false, true), (true, false), (true, true)] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for part in 0..2 {
            let mut batch = SampleBatch::new();
            for host in 0..150 {
                for step in 0..200 {
                    // Scales differ from series to series, and some values are no decimals.
                    let scale = if odd { [1.0, 100.0, 3.0][host % 3] } else { 100.0 };
                    let value = f64::from(step * 7 % 200 + step) / scale;
                    let value = value + if odd && step == 7 { 1.0 / 3.0 } else { 0.0 };
                    let jitter = if uneven { i64::from(step) * 7_919 % 1_000 } else { 0 };
                    let gap = if step > 100 { 50_000 } else { 0 };
                    let time = (i64::from(step) * 2 + part) * 1_000 + jitter + gap - 1_000_000;
                    batch.push(key("cpu", &format!("h{host}")), TimeMs(NOW.0 + time), value);
                }
            }
            assert_eq!(store.append(&batch, NOW).await.unwrap().rejected, vec![]);
            store.flush(NOW).await.unwrap();
        }
        let all = rows(&store, "cpu", None, 0, i64::MAX);
        assert_eq!(all.len(), 150 * 400);
        store.compact().await.unwrap();
        assert_eq!(rows(&store, "cpu", None, 0, i64::MAX), all);
        for series in [&[0][..], &[149], &[3, 4, 77, 148], &[], &[7, 1_000]] {
            let ranges = [(0, i64::MAX), (NOW.0 - 800_000, NOW.0 - 700_000), (NOW.0, NOW.0), (0, NOW.0 - 755_555)];
            for (from, to) in ranges {
                let wanted: Vec<_> =
                    all.iter().copied().filter(|row| series.contains(&row.0) && (from..=to).contains(&row.1)).collect();
                assert_eq!(
                    rows(&store, "cpu", Some(series), from, to),
                    wanted,
                    "{series:?} {from} {to} {odd} {uneven}"
                );
            }
        }
    }
}

fn value() -> impl Strategy<Value = f64> {
    let finite = any::<u64>().prop_map(f64::from_bits).prop_filter("samples are finite", |value| value.is_finite());
    prop_oneof![
        4 => (-100_000i64..100_000).prop_map(|n| n as f64 / 100.0),
        1 => Just(-0.0),
        1 => any::<i64>().prop_map(|n| n as f64),
        2 => finite,
    ]
}

fn plain_rollups(rows: &[(u32, i64, u64)], step: Step) -> Vec<RollupRow> {
    let mut bins: BTreeMap<(u32, i64), Vec<f64>> = BTreeMap::new();
    for &(series, time, bits) in rows {
        bins.entry((series, time.div_euclid(step.ms()) * step.ms())).or_default().push(f64::from_bits(bits));
    }
    let roll_up = |((series, time), values): ((u32, i64), Vec<f64>)| RollupRow {
        series,
        time,
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        sum: values.iter().sum(),
        count: values.len() as u32,
        last: *values.last().unwrap(),
    };
    bins.into_iter().map(roll_up).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever the values: segments give their bits back, and roll-ups are what the samples come to.
    #[test]
    fn values_keep_their_bits_and_rollups_are_plain_aggregation(
        samples in prop::collection::vec((0u8..3, -2 * HOUR..HOUR / 60, value()), 1..300),
        from in -2 * HOUR..HOUR / 60,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig { rollup_min_samples: 1, ..config(dir.path()) };
        let store = Store::open(config, NOW).unwrap();
        for part in samples.chunks(100) {
            let names = ["a", "b", "c"];
            let rows: Vec<_> = part.iter().map(|&(host, time, value)| (names[usize::from(host)], time, value)).collect();
            runtime.block_on(store.append(&batch(&rows), NOW)).unwrap();
            if part.len() < 100 {
                runtime.block_on(store.flush(NOW)).unwrap();
            }
        }
        let before = rows(&store, "cpu", None, 0, i64::MAX);
        runtime.block_on(store.flush(NOW)).unwrap();
        prop_assert_eq!(rows(&store, "cpu", None, 0, i64::MAX), before.clone());
        runtime.block_on(store.compact()).unwrap();
        prop_assert_eq!(rows(&store, "cpu", None, 0, i64::MAX), before.clone());

        let segments = store.data.read().segments.clone();
        for step in Step::ALL {
            let wanted = Wanted { metric: "cpu", series: None, from: NOW.0 + from, to: i64::MAX };
            let mut kept = Vec::new();
            for segment in &segments.0 {
                prop_assert!(segment.read_rollups(&wanted, step, Figures::ALL, &mut kept).unwrap());
            }
            kept.sort_by_key(|row| (row.series, row.time));
            let plain: Vec<_> = plain_rollups(&before, step).into_iter().filter(|row| row.time >= wanted.from).collect();
            prop_assert_eq!(kept.len(), plain.len());
            for (kept, plain) in kept.iter().zip(&plain) {
                // Sums of decimals are exact, so they may differ from a running sum in the last digits.
                let size = plain.min.abs().max(plain.max.abs()) * f64::from(plain.count);
                prop_assert!(kept.sum == plain.sum || (kept.sum - plain.sum).abs() <= size * 1e-12, "{kept:?} {plain:?}");
                prop_assert_eq!(&RollupRow { sum: 0.0, ..*kept }, &RollupRow { sum: 0.0, ..*plain });
                prop_assert_eq!(kept.last.to_bits(), plain.last.to_bits());
            }
        }
    }
}

#[tokio::test]
async fn rollups_are_kept_where_they_save_enough_rows_and_sums_of_decimals_are_exact() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let rows: Vec<_> = (0..720).map(|step| ("a", step * 10_000 - 2 * HOUR, 0.1)).collect();
    append(&store, &rows).await;
    store.flush(NOW).await.unwrap();
    store.compact().await.unwrap();
    let segments = store.data.read().segments.clone();
    let mut kept = Vec::new();
    let wanted = Wanted { metric: "cpu", series: Some(&[0]), from: 0, to: i64::MAX };
    // Six samples a minute save too little, 360 an hour enough.
    assert!(!segments.0[0].read_rollups(&wanted, Step::Minute, Figures::ALL, &mut kept).unwrap());
    assert_eq!(kept, []);
    assert!(segments.0[0].read_rollups(&wanted, Step::Hour, Figures::ALL, &mut kept).unwrap());
    assert_eq!(kept.iter().map(|row| (row.count, row.sum)).collect::<Vec<_>>(), [(360, 36.0), (360, 36.0)]);
    let other = Wanted { metric: "unknown", ..wanted };
    assert!(segments.0[0].read_rollups(&other, Step::Minute, Figures::ALL, &mut kept).unwrap());
    assert_eq!(kept.len(), 2);
}
