//! What happened to limits before the program started, read back from `decisions`.

use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit, TimestampMillisecondType};
use arrow::record_batch::RecordBatch;
use tidegate_model::{ContainerKey, Resource, TimeMs};

use crate::engine::Engine;
use crate::explain::OUTSIDE;
use crate::history::{Applied, Foreign, Track};
use crate::proposal::{LimitKey, numbers, text_at, texts};

impl Engine {
    /// Reads once from `decisions` what happened before the start. Repeated until it succeeds.
    pub(crate) async fn restore_history(&self, now: TimeMs) -> Result<(), String> {
        let mut restored = self.restored.lock().await;
        if *restored {
            return Ok(());
        }
        let hold = self.config.drift_hold();
        let options = self.store.default_query_options(now);
        let rows = async |sql: &str| {
            let answer = self.store.query(sql, &options).await;
            answer
                .map(|answer| answer.batches)
                .map_err(|error| format!("decisions could not be read: {}", error.message))
        };
        let changes = rows(&changes_query()).await?;
        let foreign = rows(&foreign_query(hold)).await?;
        let mut history = self.history.lock();
        for (key, track) in restored_changes(&changes).chain(restored_foreign(&foreign, hold)) {
            history.restore(&key, track);
        }
        *restored = true;
        Ok(())
    }
}

/// The last change of each limit in each direction, and the last attempt that came to nothing.
fn changes_query() -> String {
    let increase = "coalesce(limit_after, decided) > limit_before";
    format!(
        "SELECT host, container, resource,
           max(time) FILTER (WHERE outcome = 'applied' AND {increase}) AS up,
           max(time) FILTER (WHERE outcome = 'applied' AND NOT coalesce({increase}, false)) AS down,
           max(time) FILTER (WHERE outcome IN ('infeasible', 'failed', 'rolled_back')) AS failed
         FROM decisions WHERE mode = 'on' AND rule <> '{OUTSIDE}' AND time > now() - INTERVAL '7 days'
         GROUP BY host, container, resource"
    )
}

/// Foreign changes that are still to be left alone.
fn foreign_query(hold: Duration) -> String {
    let seconds = hold.as_secs();
    format!(
        "SELECT host, container, resource, time, limit_after FROM decisions
         WHERE outcome = 'drifted' AND time > now() - INTERVAL '{seconds} seconds' ORDER BY time DESC"
    )
}

fn restored_changes(batches: &[RecordBatch]) -> impl Iterator<Item = (LimitKey, Track)> + '_ {
    batches.iter().flat_map(|batch| {
        let columns = ["up", "down", "failed"].map(|name| times(batch, name));
        keys(batch).into_iter().enumerate().filter_map(move |(row, key)| {
            let [up, down, failed] = columns.each_ref().map(|column| column.as_ref().and_then(|times| times[row]));
            // What stood there after it is known better from the samples by now.
            let applied = |at: TimeMs| Applied { at, read_at: at, to: None };
            Some((key?, Track { up: up.map(applied), down: down.map(applied), failed, ..Track::default() }))
        })
    })
}

fn restored_foreign(batches: &[RecordBatch], hold: Duration) -> impl Iterator<Item = (LimitKey, Track)> + '_ {
    batches.iter().flat_map(move |batch| {
        let (time, found) = (times(batch, "time"), numbers(batch, "limit_after"));
        keys(batch).into_iter().enumerate().filter_map(move |(row, key)| {
            let at = time.as_ref()?[row]?;
            let found = found.as_ref().filter(|found| found.is_valid(row)).map(|found| found.value(row));
            Some((key?, Track { foreign: Some(Foreign { at, until: at.plus(hold), found }), ..Track::default() }))
        })
    })
}

fn keys(batch: &RecordBatch) -> Vec<Option<LimitKey>> {
    let columns = ["host", "container", "resource"].map(|name| texts(batch, name));
    let key = |row: usize| -> Option<LimitKey> {
        let [host, name, resource] = columns.each_ref().map(|column| text_at(column.as_ref()?, row));
        let resource: Resource = resource?.parse().ok()?;
        Some((ContainerKey { host: host?.to_owned(), name: name?.to_owned() }, resource))
    };
    (0..batch.num_rows()).map(key).collect()
}

fn times(batch: &RecordBatch, name: &str) -> Option<Vec<Option<TimeMs>>> {
    let column = cast(batch.column_by_name(name)?, &DataType::Timestamp(TimeUnit::Millisecond, None)).ok()?;
    Some(column.as_primitive::<TimestampMillisecondType>().iter().map(|time| time.map(TimeMs)).collect())
}
