//! The engine as its users see it: append, crash, reopen, flush, scan. Here are the fixtures.

mod compact;
mod crash;
mod damage;
mod durability;
mod facts;
mod faults;
mod flush;
mod format_1;
mod keep;
mod killed_merge;
mod ledger;
mod many_series;
mod model;
mod refusal;
mod remote;
mod retention;
mod size;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_model::{
    ContainerKey, Decision, Event, Mode, Outcome, OutcomeStatus, Resource, SampleBatch, SeriesKey, TimeMs,
};

use crate::scan::Wanted;
use crate::{Durability, Store, StoreConfig};

const NOW: TimeMs = TimeMs(1_800_000_000_000);

fn config(dir: &Path) -> StoreConfig {
    StoreConfig { dir: dir.to_owned(), durability: Durability::None, ..StoreConfig::default() }
}

fn open(dir: &Path) -> Arc<Store> {
    Store::open(config(dir), NOW).unwrap()
}

fn key(metric: &str, host: &str) -> SeriesKey {
    SeriesKey::new(metric, [("host".to_owned(), host.to_owned())])
}

/// Samples of `cpu`: host, time after [`NOW`] in ms, value.
fn batch(rows: &[(&str, i64, f64)]) -> SampleBatch {
    let mut batch = SampleBatch::new();
    for &(host, time, value) in rows {
        batch.push(key("cpu", host), TimeMs(NOW.0 + time), value);
    }
    batch
}

type Stored = BTreeMap<(String, i64), f64>;

/// All stored samples of a metric between two times after [`NOW`]; checks order and uniqueness on the way.
fn stored(store: &Store, metric: &str, from: i64, to: i64) -> Stored {
    let mut rows = BTreeMap::new();
    let mut last = None;
    for chunk in store.scan(&Wanted { metric, series: None, from: NOW.0 + from, to: NOW.0 + to }).unwrap() {
        for at in 0..chunk.times.len() {
            let (series, time) = (chunk.series.value(at), chunk.times.value(at));
            assert!(last < Some((series, time)), "out of order or twice: {last:?}, then {series} {time}");
            last = Some((series, time));
            let host = store.series_key(series).unwrap().tag("host").unwrap_or_default().to_owned();
            rows.insert((host, time - NOW.0), chunk.values.value(at));
        }
    }
    rows
}

fn everything(store: &Store) -> Vec<(String, i64, f64)> {
    let rows = stored(store, "cpu", -1_000_000_000_000, 1_000_000);
    rows.into_iter().map(|((host, time), value)| (host, time, value)).collect()
}

fn expected(rows: &[(&str, i64, f64)]) -> Vec<(String, i64, f64)> {
    rows.iter().map(|&(host, time, value)| (host.to_owned(), time, value)).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn event(name: &str, time: i64) -> Event {
    Event {
        time: TimeMs(NOW.0 + time),
        rule: "bottleneck".to_owned(),
        container: ContainerKey { host: "h".to_owned(), name: "web".to_owned() },
        resource: Resource::Memory,
        name: name.to_owned(),
        value: 1.0,
    }
}

fn decision(id: &str, time: i64, proposed: f64) -> Decision {
    Decision {
        id: id.to_owned(),
        time: TimeMs(NOW.0 + time),
        rule: "headroom".to_owned(),
        version: 2,
        container: ContainerKey { host: "h".to_owned(), name: "web".to_owned() },
        resource: Resource::Cpu,
        limit_before: Some(1.0),
        proposed,
        decided: None,
        guards: Vec::new(),
        reason: "peak".to_owned(),
        mode: Mode::Shadow,
        inputs: serde_json::json!({"usage": 0.5, "age": null}),
        outcome: Outcome {
            status: OutcomeStatus::Shadow,
            limit_after: None,
            writes: Vec::new(),
            message: String::new(),
            at: NOW,
            took_us: 3,
        },
    }
}
