//! The store against a map, over random schedules.

use proptest::prelude::*;

use std::sync::atomic::AtomicBool;

use super::*;
use crate::segment::compact::Due;
use crate::segment::merge::Pace;

#[derive(Clone, Debug)]
enum Step {
    /// Metric, host, time, value.
    Append(Vec<(u8, u8, i64, i32)>),
    Flush,
    FlushAged,
    /// Those that are due, or all that make anything smaller.
    Compact(bool),
    Wait(i64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let sample = (0u8..3, 0u8..3, -40i64..40, -1000i32..1000);
    prop_oneof![
        6 => prop::collection::vec(sample, 1..20).prop_map(Step::Append),
        1 => Just(Step::Flush),
        2 => Just(Step::FlushAged),
        2 => any::<bool>().prop_map(Step::Compact),
        2 => (1i64..2_000).prop_map(Step::Wait),
        1 => Just(Step::Wait(2 * 3_600_000)),
        2 => Just(Step::Reopen),
    ]
}

/// Decimals of several scales and values that are none.
fn divisor(value: i32) -> f64 {
    [1.0, 10.0, 1_000.0, 7.0][value.rem_euclid(4) as usize]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whatever is appended, flushed and interrupted in whatever order: the store holds what a map would hold.
    #[test]
    fn the_store_is_a_map_from_series_and_time_to_the_last_value(
        steps in prop::collection::vec(step(), 1..40),
        from in -50i64..50,
        length in 0i64..60,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        // The times lie around a border between partitions, and little memory makes many batches.
        let config = StoreConfig { hot_s: 1, partition_s: 3_600, compaction_memory_bytes: 1, ..config(dir.path()) };
        let mut store = Store::open(config.clone(), NOW).unwrap();
        let mut now = NOW;
        let mut model: BTreeMap<u8, Stored> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Append(rows) => {
                    let mut batch = SampleBatch::new();
                    for (metric, host, time, value) in rows {
                        let (name, value) = (format!("h{host}"), f64::from(value) / divisor(value));
                        batch.push(key(&format!("m{metric}"), &name), TimeMs(NOW.0 + time), value);
                        model.entry(metric).or_default().insert((name, time), value);
                    }
                    let report = runtime.block_on(store.append(&batch, now)).unwrap();
                    prop_assert_eq!(report.rejected, vec![]);
                }
                Step::Flush => drop(runtime.block_on(store.flush(now)).unwrap()),
                Step::FlushAged => drop(runtime.block_on(store.flush_aged(now)).unwrap()),
                Step::Compact(everything) => {
                    let due = if everything { Due::Everything } else { Due::Now(now) };
                    let never = AtomicBool::new(false);
                    store.compact_now(due, &Pace::new(1.0, &never)).unwrap();
                    if everything {
                        prop_assert!(store.stats().segments <= 2, "{:?}", store.stats());
                    }
                }
                Step::Wait(ms) => now = TimeMs(now.0 + ms),
                Step::Reopen => {
                    drop(store);
                    store = Store::open(config.clone(), now).unwrap();
                }
            }
            for metric in 0..3u8 {
                let all = model.get(&metric).cloned().unwrap_or_default();
                prop_assert_eq!(stored(&store, &format!("m{metric}"), -1_000, 1_000), all);
            }
        }
        for (metric, all) in model {
            let wanted: Stored = all.into_iter().filter(|((_, t), _)| (from..=from + length).contains(t)).collect();
            prop_assert_eq!(stored(&store, &format!("m{metric}"), from, from + length), wanted);
        }
    }
}
