//! What happened to limits before the program started, read back from `decisions`.

use std::collections::HashMap;
use std::time::Duration;

use arrow::array::Array;
use arrow::record_batch::RecordBatch;
use serde_json::Value;
use tidegate_model::{Decision, GuardReport, Mode, Outcome, OutcomeStatus, TimeMs};
use tidegate_store::{OnLimit, QueryOptions, QueryPool};

use crate::engine::Engine;
use crate::explain::WATCH;
use crate::history::{Applied, EXPIRED, Foreign, History, Lease, RETURNS_TO, Track};
use crate::options::LONGEST_WATCH;
use crate::proposal::{Keys, LimitKey, numbers, text_at, texts};
use crate::tick::GRACE;
use crate::watch::{Regression, waits};

/// How far back `decisions` is read at least, so that most changes of a cooldown need no other read.
const SHORTEST_REACH: Duration = Duration::from_secs(600);

/// Most rows of what is read: a change a second for each of a thousand containers, over the breaker's window.
const MOST_ROWS: usize = 1_000_000;

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
        // Half of what was done would be worse than nothing: the rest would seem not to have happened.
        let on_limit = OnLimit::Fail;
        let options = QueryOptions {
            timeout,
            pool: QueryPool::Rules,
            max_rows: MOST_ROWS,
            on_limit,
            ..self.store.default_query_options(now)
        };
        let rows = async |sql: String| {
            let answer = self.store.query(&sql, &options).await;
            answer
                .map(|answer| answer.batches)
                .map_err(|error| format!("decisions could not be read: {}", error.message))
        };
        let first = self.restored.lock().is_none();
        let leased = self.leased_rules();
        let all = async {
            tokio::try_join!(
                rows(changes_query(reach)),
                rows(foreign_query(hold)),
                rows(regressions_query(Duration::from_secs(2 * self.config.backoff_max_s))),
                rows(decreases_query(Duration::from_secs(self.config.breaker_window_s))),
                rows(leases_query(&leased, reach)),
            )
        };
        let answers = tokio::time::timeout(timeout + GRACE, all).await;
        let (changes, foreign, regressions, decreases, leases) =
            answers.map_err(|_| format!("decisions could not be read within {timeout:?}"))??;
        let mut history = self.history.lock();
        for (key, track) in restored_changes(&changes).chain(restored_foreign(&foreign, hold)) {
            history.restore(&key, track);
        }
        for (key, lease) in restored_leases(&leases) {
            // Whoever changed the limit since then took it over.
            let changed = history.get(&key).and_then(|track| track.last().map(|applied| applied.at).max(track.drifted));
            if changed.is_none_or(|changed| changed <= lease.renewed) {
                history.restore(&key, Track { lease: Some(lease), ..Track::default() });
            }
        }
        // What was seen since the start is known already, and would count twice.
        if first {
            self.restore_watches(&mut history, &regressions, &decreases, now);
        }
        history.unknown_past = false;
        *self.restored.lock() = Some(reach);
        Ok(Restored::Done)
    }

    /// The rules whose changes stand only as long as they ask for them.
    fn leased_rules(&self) -> Vec<String> {
        let rules = self.active();
        let leased = rules.iter().map(|rule| &rule.definition).filter(|rule| rule.resolved.ttl.is_some());
        leased.map(|rule| rule.name.clone()).collect()
    }

    /// Back-offs, the circuit breaker's counts, and decreases whose watch is not over. What a rule did before its last change
    /// does not count against it.
    fn restore_watches(
        &self,
        history: &mut History,
        regressions: &[RecordBatch],
        decreases: &[RecordBatch],
        now: TimeMs,
    ) {
        let changed: HashMap<String, TimeMs> =
            self.store.rules().into_iter().map(|rule| (rule.name, rule.updated_at)).collect();
        let counts = |rule: &str, at: TimeMs| changed.get(rule).is_some_and(|changed| at >= *changed);
        // By the decrease: when it was found out about, and whether it is still to be put back.
        let mut found_out: HashMap<String, (TimeMs, bool)> = HashMap::new();
        let mut told: Vec<Told> = restored_regressions(regressions).collect();
        for Told { regression, time, waiting } in &told {
            found_out.entry(regression.decision.clone()).or_insert((*time, true)).1 = *waiting;
        }
        // The first decision about a decrease tells it; those that try again repeat it.
        told.retain(|one| found_out[&one.regression.decision].0 == one.time);
        for Told { regression, time, .. } in told {
            let number = |name: &str| regression.inputs.get(name).and_then(Value::as_f64);
            if let (Some(level), Some(until), true) =
                (number("regressions"), number("backoff_until"), counts(&regression.rule, time))
            {
                let killed = number("oom_kills_after").is_some_and(|kills| kills > 0.0);
                let (key, rule) = (&regression.key, &regression.rule);
                history.watches.note(key, rule, time, level as u32, TimeMs(until as i64), killed);
            }
            if found_out[&regression.decision].1 {
                history.watches.resume_restoring(regression, time);
            }
        }
        let rules = self.active();
        for decision in restored_decreases(decreases) {
            let rule = rules.iter().map(|rule| &rule.definition).find(|rule| rule.name == decision.rule);
            let watch = rule.map_or(Duration::ZERO, |rule| rule.resolved.watch);
            if !counts(&decision.rule, decision.time) || watch.is_zero() {
                continue;
            }
            let over = found_out.contains_key(&decision.id) || decision.outcome.at.plus(watch) < now;
            history.watches.resume(&(decision.container.clone(), decision.resource), &decision, watch, over);
        }
    }

    /// How long ago a change may be that a rule still counts a cooldown from.
    fn reach(&self) -> Duration {
        let rules = self.active();
        let options = rules.iter().map(|rule| &rule.definition.resolved);
        let longest = options.map(|options| {
            let cooldown = options.cooldown_up.max(options.cooldown_down);
            cooldown.max(options.hold_max).max(options.ttl.unwrap_or_default())
        });
        longest
            .max()
            .unwrap_or_default()
            .max(self.config.min_change_interval())
            .max(self.config.drift_hold())
            .max(SHORTEST_REACH)
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
           max(time) FILTER (WHERE outcome IN ('infeasible', 'failed', 'rolled_back')) AS failed,
           last_value(limit_after ORDER BY time) FILTER (WHERE outcome = 'applied') AS stands,
           last_value(rule ORDER BY time) FILTER (WHERE outcome = 'applied' AND rule <> '{WATCH}') AS changed_by,
           max(time) FILTER (WHERE outcome = 'drifted') AS drifted
         FROM decisions WHERE mode <> 'shadow' AND time > now() - INTERVAL '{seconds} seconds'
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

/// What was found out about decreases.
fn regressions_query(reach: Duration) -> String {
    let seconds = reach.as_secs();
    format!(
        "SELECT host, container, resource, time, inputs, reason, outcome, guards FROM decisions
         WHERE rule = '{WATCH}' AND time > now() - INTERVAL '{seconds} seconds' ORDER BY time"
    )
}

/// Decreases within the breaker's window, and what was known at those that may still be watched.
fn decreases_query(window: Duration) -> String {
    let seconds = window.max(LONGEST_WATCH).as_secs();
    format!(
        "SELECT time, read_at, id, rule, version, host, container, resource, limit_before,
           coalesce(limit_after, decided) AS limit_after, inputs
         FROM decisions
         WHERE outcome = 'applied' AND coalesce(limit_after, decided) < limit_before
           AND time > now() - INTERVAL '{seconds} seconds' ORDER BY time"
    )
}

/// The last that rules with a `ttl` said of each limit.
fn leases_query(rules: &[String], reach: Duration) -> String {
    let seconds = reach.as_secs() + 1;
    // Names have letters, digits and underscores only. No rule has an empty one.
    let names = rules.iter().map(|rule| format!("'{rule}'")).chain(["''".to_owned()]).collect::<Vec<_>>().join(", ");
    format!(
        "SELECT host, container, resource, rule, max(time) AS time, last_value(inputs ORDER BY time) AS inputs
         FROM decisions WHERE rule IN ({names}) AND mode <> 'shadow' AND time > now() - INTERVAL '{seconds} seconds'
           AND inputs LIKE '%\"{RETURNS_TO}\":%' AND inputs NOT LIKE '%\"{EXPIRED}\":true%'
         GROUP BY host, container, resource, rule HAVING count(*) FILTER (WHERE outcome = 'applied') > 0"
    )
}

/// One decision about a decrease that made things worse.
struct Told {
    regression: Regression,
    time: TimeMs,
    /// Whether what kept the limit from being put back passes.
    waiting: bool,
}

fn restored_regressions(batches: &[RecordBatch]) -> impl Iterator<Item = Told> + '_ {
    batches.iter().flat_map(|batch| {
        let time = times(batch, "time");
        let columns = ["inputs", "reason", "outcome", "guards"].map(|name| texts(batch, name));
        keys(batch).into_iter().enumerate().filter_map(move |(row, key)| {
            let [inputs, reason, outcome, guards] = columns.each_ref().map(|column| text_at(column.as_ref()?, row));
            let mut inputs: Value = serde_json::from_str(inputs?).ok()?;
            let Value::Object(inputs) = inputs["row"].take() else { return None };
            let status = serde_json::from_value(Value::from(outcome?)).ok()?;
            let guards: Vec<GuardReport> = serde_json::from_str(guards?).ok()?;
            let text = |name: &str| inputs.get(name).and_then(Value::as_str).map(str::to_owned);
            let number = |name: &str| inputs.get(name).and_then(Value::as_f64);
            let regression = Regression {
                key: key?,
                rule: text("rule")?,
                version: number("version")? as u32,
                decision: text("lowered_by")?,
                from: number("lowered_from")?,
                reason: reason?.to_owned(),
                inputs,
            };
            Some(Told { regression, time: time.as_ref()?[row]?, waiting: waits(status, &guards) })
        })
    })
}

/// As much of the decisions as a watch begins with.
fn restored_decreases(batches: &[RecordBatch]) -> impl Iterator<Item = Decision> + '_ {
    batches.iter().flat_map(|batch| {
        let (time, read_at) = (times(batch, "time"), times(batch, "read_at"));
        let [id, rule, inputs] = ["id", "rule", "inputs"].map(|name| texts(batch, name));
        let [version, before, after] = ["version", "limit_before", "limit_after"].map(|name| numbers(batch, name));
        keys(batch).into_iter().enumerate().filter_map(move |(row, key)| {
            let text = |column: &Option<arrow::array::StringArray>| text_at(column.as_ref()?, row).map(str::to_owned);
            let number = |column: &Option<arrow::array::Float64Array>| {
                column.as_ref().filter(|column| column.is_valid(row)).map(|column| column.value(row))
            };
            let (container, resource) = key?;
            let (before, after) = (number(&before), number(&after)?);
            Some(Decision {
                id: text(&id)?,
                time: time.as_ref()?[row]?,
                rule: text(&rule)?,
                version: number(&version)? as u32,
                container,
                resource,
                limit_before: before,
                proposed: after,
                decided: Some(after),
                guards: Vec::<GuardReport>::new(),
                reason: String::new(),
                mode: Mode::On,
                inputs: serde_json::from_str(&text(&inputs)?).ok()?,
                outcome: Outcome {
                    status: OutcomeStatus::Applied,
                    limit_after: Some(after),
                    writes: Vec::new(),
                    message: String::new(),
                    at: read_at.as_ref()?[row]?,
                    took_us: 0,
                },
            })
        })
    })
}

fn restored_leases(batches: &[RecordBatch]) -> impl Iterator<Item = (LimitKey, Lease)> + '_ {
    batches.iter().flat_map(|batch| {
        let [rule, inputs] = ["rule", "inputs"].map(|name| texts(batch, name));
        let time = times(batch, "time");
        keys(batch).into_iter().enumerate().filter_map(move |(row, key)| {
            let inputs: Value = serde_json::from_str(text_at(inputs.as_ref()?, row)?).ok()?;
            let rule = text_at(rule.as_ref()?, row)?.to_owned();
            let (returns_to, renewed) = (inputs[RETURNS_TO].as_f64()?, time.as_ref()?[row]?);
            Some((key?, Lease { rule, returns_to, renewed }))
        })
    })
}

fn restored_changes(batches: &[RecordBatch]) -> impl Iterator<Item = (LimitKey, Track)> + '_ {
    batches.iter().flat_map(|batch| {
        let columns = ["up", "down", "failed", "drifted"].map(|name| times(batch, name));
        let (stands, changed_by) = (numbers(batch, "stands"), texts(batch, "changed_by"));
        keys(batch).into_iter().enumerate().filter_map(move |(row, key)| {
            let [up, down, failed, drifted] =
                columns.each_ref().map(|column| column.as_ref().and_then(|times| times[row]));
            let stands = stands.as_ref().filter(|stands| stands.is_valid(row)).map(|stands| stands.value(row));
            let changed_by = changed_by.as_ref().and_then(|rules| text_at(rules, row)).map(str::to_owned);
            // Only of the later one it is known what stood there after it.
            let last = up.max(down);
            // Somebody else has taken the limit over since.
            let changed_by = changed_by.filter(|_| drifted <= last);
            let applied = |at: TimeMs| Applied { at, read_at: at, to: stands.filter(|_| Some(at) == last) };
            let (up, down) = (up.map(applied), down.map(applied));
            Some((key?, Track { up, down, failed, changed_by, drifted, ..Track::default() }))
        })
    })
}

fn restored_foreign(batches: &[RecordBatch], hold: Duration) -> impl Iterator<Item = (LimitKey, Track)> + '_ {
    batches.iter().flat_map(move |batch| {
        let (time, found) = (times(batch, "time"), numbers(batch, "limit_after"));
        keys(batch).into_iter().enumerate().filter_map(move |(row, key)| {
            let at = time.as_ref()?[row]?;
            let found = found.as_ref().filter(|found| found.is_valid(row)).map(|found| found.value(row));
            let foreign = Foreign { at, until: at.plus(hold), found, owed: None };
            Some((key?, Track { foreign: Some(foreign), ..Track::default() }))
        })
    })
}

fn keys(batch: &RecordBatch) -> Vec<Option<LimitKey>> {
    let keys = Keys::of(batch);
    (0..batch.num_rows()).map(|row| keys.at(row).ok()).collect()
}

fn times(batch: &RecordBatch, name: &str) -> Option<Vec<Option<TimeMs>>> {
    Some(crate::proposal::times(batch, name)?.iter().map(|time| time.map(TimeMs)).collect())
}
