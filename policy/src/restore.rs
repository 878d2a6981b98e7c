//! What happened to limits before the program started, read back from `decisions`.

use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit, TimestampMillisecondType};
use arrow::record_batch::RecordBatch;
use tidegate_model::{ContainerKey, Resource, TimeMs};
use tidegate_store::{QueryOptions, QueryPool};

use crate::engine::Engine;
use crate::explain::OUTSIDE;
use crate::history::{Applied, Foreign, Track};
use crate::proposal::{LimitKey, numbers, text_at, texts};
use crate::tick::GRACE;

/// How far back `decisions` is read at least, so that most changes of a cooldown need no other read.
const SHORTEST_REACH: Duration = Duration::from_secs(600);

/// Whether the history can be judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restored {
    /// It holds all that a rule can ask for.
    Done,
    /// Somebody else is reading it.
    UnderWay,
}

impl Engine {
    /// Reads from `decisions` what happened before the start, and again after a rule got a cooldown that reaches further
    /// back. After a failure the next caller tries again. Never waits for another caller's read: ticks that queued up
    /// behind a slow one would act on instants long past.
    pub(crate) async fn restore_history(&self, now: TimeMs) -> Result<Restored, String> {
        let reach = self.reach();
        // `None` is less than any reach.
        if *self.restored.lock() >= Some(reach) {
            return Ok(Restored::Done);
        }
        let Ok(_restoring) = self.restoring.try_lock() else { return Ok(Restored::UnderWay) };
        let hold = self.config.drift_hold();
        // No longer than a rule may take: a tick whose restore has failed can still act on its instant.
        let timeout = self.config.rule_timeout();
        let options = QueryOptions { timeout, pool: QueryPool::Rules, ..self.store.default_query_options(now) };
        let rows = async |sql: String| {
            let answer = self.store.query(&sql, &options).await;
            answer
                .map(|answer| answer.batches)
                .map_err(|error| format!("decisions could not be read: {}", error.message))
        };
        let both = async { tokio::try_join!(rows(changes_query(reach)), rows(foreign_query(hold))) };
        let answers = tokio::time::timeout(timeout + GRACE, both).await;
        let (changes, foreign) = answers.map_err(|_| format!("decisions could not be read within {timeout:?}"))??;
        let mut history = self.history.lock();
        for (key, track) in restored_changes(&changes).chain(restored_foreign(&foreign, hold)) {
            history.restore(&key, track);
        }
        *self.restored.lock() = Some(reach);
        Ok(Restored::Done)
    }

    /// How long ago a change may be that a rule still counts a cooldown from.
    fn reach(&self) -> Duration {
        let rules = self.active();
        let cooldowns = rules.iter().map(|rule| &rule.definition.resolved);
        let longest = cooldowns.map(|options| options.cooldown_up.max(options.cooldown_down)).max().unwrap_or_default();
        longest.max(self.config.min_change_interval()).max(self.config.drift_hold()).max(SHORTEST_REACH)
    }
}

/// The last change of each limit in each direction, and the last attempt that came to nothing.
fn changes_query(reach: Duration) -> String {
    // Rounded up: a change as old as the reach is past every cooldown, one a little younger is not.
    let seconds = reach.as_secs() + 1;
    let increase = "coalesce(limit_after, decided) > limit_before";
    format!(
        "SELECT host, container, resource,
           max(time) FILTER (WHERE outcome = 'applied' AND {increase}) AS up,
           max(time) FILTER (WHERE outcome = 'applied' AND NOT coalesce({increase}, false)) AS down,
           max(time) FILTER (WHERE outcome IN ('infeasible', 'failed', 'rolled_back')) AS failed
         FROM decisions WHERE mode = 'on' AND rule <> '{OUTSIDE}' AND time > now() - INTERVAL '{seconds} seconds'
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
