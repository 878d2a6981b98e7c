//! What the engine owes to changes that it has made: a look at what decreases did, the way back from what nobody asks for any
//! more or somebody else has changed, and the baseline of containers of which nothing is known.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Map;
use tidegate_model::{ContainerKey, Limit, TimeMs};
use tidegate_store::{PressureSample, QueryOptions, QueryPool};

use crate::canary;
use crate::engine::Engine;
use crate::history::Track;
use crate::proposal::{LimitKey, Origin, Proposal};
use crate::readings::Figure;
use crate::rule::RuleDefinition;
use crate::snapshot::Snapshot;
use crate::tick::{GRACE, TickReport};
use crate::watch::{Regression, Sample, Tuning};

/// How far back the samples of a look lie at least, and beyond the look before.
const SHORTEST_REACH: Duration = Duration::from_secs(5);
const LATE: Duration = Duration::from_secs(2);
/// How often limits without data, and knobs without a rule, are looked for.
const SILENCE_EVERY: Duration = Duration::from_secs(10);
/// Within which fraction of it a knob stands at its baseline; kernels round to pages.
const SAME: f64 = 0.001;

impl Engine {
    /// Whether a tick has something to do for changes that were made, also when no rule is due.
    pub(crate) fn owes(&self, now: TimeMs) -> bool {
        let history = self.history.lock();
        history.watches.is_busy()
            || history.has_leases()
            || history.owes_restores()
            || (now.aligned(SILENCE_EVERY) == now && history.moved_knobs().next().is_some())
    }

    /// What the engine proposes by itself at a tick.
    pub(crate) async fn own_proposals(&self, snapshot: &Snapshot, report: &mut TickReport) -> Vec<Proposal> {
        self.look_at_decreases(snapshot, report).await;
        let now = snapshot.now;
        let worse = self.history.lock().watches.unrestored(now);
        let mut proposals: Vec<Proposal> =
            worse.into_iter().map(|regression| Proposal::put_back(&self.own.watch, regression)).collect();
        if now.aligned(SILENCE_EVERY) == now {
            proposals.extend(self.baselines(snapshot));
            proposals.extend(self.forsaken(snapshot));
        }
        proposals.extend(self.undrift(snapshot));
        proposals
    }

    /// What stood before somebody else changed it, where that is to be put back. Hands were kept off for a while first, so
    /// that two controllers do not fight at full speed; the actuator says when it gives up.
    fn undrift(&self, snapshot: &Snapshot) -> Vec<Proposal> {
        let due = self.history.lock().due_restores(snapshot.now, self.config.drift_hold());
        let proposal = |(key, limit, found): (LimitKey, f64, Option<f64>)| {
            if !snapshot.containers.contains_key(&key.0) {
                return None;
            }
            // Without a limit it had what the host has.
            let target = if limit.is_finite() { limit } else { snapshot.capacity(&key)? };
            let found = found.map_or_else(|| "unlimited".to_owned(), |found| key.1.display(found));
            let reason = format!("somebody else had set the limit to {found}");
            let (rule, origin) = (self.own.drift.clone(), Origin::Undrift);
            Some(Proposal { rule, origin, key, target, reason, columns: Map::new(), nth: 0 })
        };
        due.into_iter().filter_map(proposal).collect()
    }

    /// Compares what was measured after decreases with what was measured before them.
    async fn look_at_decreases(&self, snapshot: &Snapshot, report: &mut TickReport) {
        let now = snapshot.now;
        let Some(reach) = self.history.lock().watches.reach(now) else { return };
        let samples = match self.samples_since(now, reach).await {
            Ok(samples) => samples,
            // The next look reaches as far back as this one would have.
            Err(error) => {
                tracing::warn!(error, "decreases are not watched at this tick");
                report.problems.push(error);
                return;
            }
        };
        let kills = |key: &LimitKey| snapshot.reading(key)?.get(Figure::OomKills);
        let tuning = Tuning::of(&self.config);
        let worse = self.history.lock().watches.look(now, &samples, kills, &tuning);
        for regression in &worse {
            let Regression { rule, key, reason, decision, .. } = regression;
            tracing::warn!(rule, container = %key.0, resource = %key.1, reason, decision, "a decrease is taken back");
        }
        self.break_circuits(&worse, now, &tuning, report).await;
    }

    async fn samples_since(&self, now: TimeMs, reach: Duration) -> Result<Vec<Sample>, String> {
        let watched = self.history.lock().watches.watched();
        // Some seconds on top, for samples that arrive a little late.
        let since = now.minus((reach + LATE).max(SHORTEST_REACH));
        // What was counted of all of them is not read again.
        let since = since.max(watched.iter().map(|(_, seen)| *seen).min().unwrap_or(since));
        let timeout = self.config.rule_timeout();
        let options = QueryOptions { timeout, pool: QueryPool::Rules, ..self.store.default_query_options(now) };
        let (limits, seen): (Vec<LimitKey>, Vec<TimeMs>) = watched.into_iter().unzip();
        // What a knob does shows in the pressure of its resource.
        let of = limits.iter().map(|(container, resource)| (container.clone(), resource.of())).collect();
        let rows = self.store.pressure_of(of, since, &options);
        let rows = tokio::time::timeout(timeout + GRACE, rows).await;
        let rows = rows.map_err(|_| format!("pressure could not be read within {timeout:?}"))?;
        let rows = rows.map_err(|error| format!("pressure could not be read: {}", error.message))?;
        let sample = |row: PressureSample| Sample {
            key: limits[row.limit].clone(),
            at: row.time,
            throttled: row.throttled,
            pressure: row.some_share,
        };
        Ok(rows.into_iter().filter(|row| row.time > seen[row.limit]).map(sample).collect())
    }

    /// The way back from changes that their rules have not asked for lately: of those that have just `answered`, after what
    /// they ask for is noted. A rule that failed, or is still at it, has not said that it does not ask any more.
    pub(crate) fn expired(&self, snapshot: &Snapshot, answered: &[Arc<RuleDefinition>]) -> Vec<Proposal> {
        let mut proposals = Vec::new();
        let mut history = self.history.lock();
        for rule in answered {
            let Some(ttl) = rule.resolved.ttl else { continue };
            for (key, lease) in history.expired(&rule.name, ttl, rule.resolved.dead_band, snapshot) {
                if !canary::acts(rule.mode, &key.0) {
                    continue;
                }
                let ago = snapshot.now.since(lease.renewed).as_secs();
                let ttl = humantime::format_duration(ttl);
                let reason = format!("the rule last asked for a limit {ago} s ago, and what it sets stands for {ttl}");
                proposals.push(Proposal {
                    rule: rule.clone(),
                    origin: Origin::Expiry,
                    key,
                    target: lease.returns_to,
                    reason,
                    columns: Map::new(),
                    nth: 0,
                });
            }
        }
        proposals
    }

    /// The way back for knobs whose rule was dropped or turned off, or does not hold there any more. A limit stays where it
    /// was left, since a container has to have some; a `memory.high` that nobody moves any more would only slow it down.
    fn forsaken(&self, snapshot: &Snapshot) -> Vec<Proposal> {
        let rules = self.active();
        let acts = |name: &str, container: &ContainerKey| {
            let rule = rules.iter().map(|rule| &rule.definition).find(|rule| rule.name == name);
            rule.is_some_and(|rule| canary::acts(rule.mode, container) && rule.is_for(container, &snapshot.containers))
        };
        let proposal = |(key, track, rule): (&LimitKey, &Track, &str)| {
            let target = match snapshot.containers.get(&key.0)?.baseline.get(&key.1)? {
                Limit::At(value) => *value,
                Limit::Unlimited => {
                    let of = (key.0.clone(), key.1.of());
                    snapshot.reading(&of)?.get(Figure::Allocated).or_else(|| snapshot.capacity(key))?
                }
            };
            let stands = track.limit(&*snapshot.reading(key)?, snapshot.now)?;
            if (stands - target).abs() <= SAME * target {
                return None;
            }
            let reason = format!("rule {rule} set it, which does not act here any more");
            let (rule, origin, key) = (self.own.give_back.clone(), Origin::Undrift, key.clone());
            Some(Proposal { rule, origin, key, target, reason, columns: Map::new(), nth: 0 })
        };
        let history = self.history.lock();
        let mut proposals: Vec<Proposal> = history.forsaken_knobs(acts).filter_map(proposal).collect();
        proposals.sort_by(|a, b| a.key.cmp(&b.key));
        proposals
    }

    /// The baselines of containers whose limits were changed and of which nothing has been known for too long.
    fn baselines(&self, snapshot: &Snapshot) -> Vec<Proposal> {
        let rules = self.active();
        let hold_max = |name: &str| {
            let rule = rules.iter().map(|rule| &rule.definition).find(|rule| rule.name == name);
            rule.map_or(Duration::from_secs(self.config.hold_max_s), |rule| rule.resolved.hold_max)
        };
        let silent = self.history.lock().silent(snapshot.now, hold_max);
        let proposal = |(key, silence): (LimitKey, Duration)| {
            // A container that is gone has no limit to put back.
            let container = snapshot.containers.get(&key.0)?;
            let target = match container.baseline.get(&key.1)? {
                Limit::At(value) => *value,
                // As good as none, and a value that can be compared and shown.
                Limit::Unlimited => snapshot.capacity(&key)?,
            };
            let reason = format!("nothing was measured for {} s, so its baseline is put back", silence.as_secs());
            let (rule, origin) = (self.own.hold.clone(), Origin::Restore);
            Some(Proposal { rule, origin, key, target, reason, columns: Map::new(), nth: 0 })
        };
        silent.into_iter().filter_map(proposal).collect()
    }
}
