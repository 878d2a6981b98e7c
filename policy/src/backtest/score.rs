//! Adding up what a replay did: idle, missing, restless.
//!
//! With limit L, use u, demand d, of samples of length dt (formulas of the field, as in Autopilot and VASIM):
//! slack = mean over time of (L - u) / L; utilisation = integral of u / integral of L; over limit = share of time with d > L;
//! unmet = integral of max(0, d - L) / integral of d; throttled = integral of the throttled share of time. The three of
//! slack, over limit and changes only mean something together: each alone is easily had at the cost of the others.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use tidegate_actuator::simulated::Reading;
use tidegate_model::{ContainerKey, Decision, GuardAction, OutcomeStatus, Resource, TimeMs};

use super::course::{CONTAINERS, Course, Drawn};
use crate::tick::TickReport;

/// A change back within this time of the one before it, in ms, is a flap.
const FLAP_MS: i64 = 5 * 60 * 1000;
const DAY_S: f64 = 86_400.0;

/// What one limit, or all limits of a resource, came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// How long they were measured, in seconds, added up over containers.
    pub seconds: f64,
    /// Mean share of the limit that was not used, 0..=1.
    pub slack: f64,
    /// Used over allocated, as integrals.
    pub utilisation: f64,
    /// Share of the time in which more than the limit was wanted.
    pub over_limit: f64,
    /// Demand that was not met over all demand, as integrals.
    pub unmet: f64,
    /// Seconds that were throttled away.
    pub throttled_s: f64,
    /// Processes that the kernel would have killed for memory.
    pub oom_kills: u64,
    /// The same per container and day.
    pub oom_kills_per_day: f64,
    /// Changes of a limit.
    pub changes: u64,
    /// The same per container and day.
    pub changes_per_day: f64,
    /// Changes that took back, within five minutes, the direction of the one before.
    pub flaps: u64,
    /// Mean limit of a container, in cores or bytes.
    pub mean_limit: f64,
    /// Mean use of a container.
    pub mean_used: f64,
}

/// What one limit came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ContainerScore {
    /// Its host.
    pub host: String,
    /// Its container.
    pub container: String,
    /// Its resource.
    pub resource: Resource,
    /// The figures.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What one rule came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RuleScore {
    /// Its name.
    pub rule: String,
    /// How often it ran.
    pub runs: u64,
    /// How often it failed.
    pub errors: u64,
    /// The last failure.
    pub last_error: Option<String>,
    /// Mean time of its query, in ms of this machine.
    pub mean_ms: f64,
    /// Rows that proposed a limit.
    pub proposals: u64,
    /// Proposals that changed a limit.
    pub applied: u64,
    /// Proposals that were refused, whoever refused them.
    pub refused: u64,
    /// How often each guard refused or changed one of its proposals.
    pub guards: BTreeMap<String, u64>,
}

/// What a replay came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Its first instant.
    pub from: TimeMs,
    /// Its last instant.
    pub to: TimeMs,
    /// The distance of its instants, in ms.
    pub step_ms: u64,
    /// How many there were.
    pub ticks: u64,
    /// How long it took, in ms.
    pub took_ms: u64,
    /// How many containers.
    pub containers: usize,
    /// By resource, all containers together.
    pub resources: BTreeMap<Resource, Figures>,
    /// By rule.
    pub rules: Vec<RuleScore>,
    /// By container and resource.
    pub limits: Vec<ContainerScore>,
    /// What the reader should know: samples that are a lower bound, failures, what was left out.
    pub problems: Vec<String>,
    /// What the limits of the first containers looked like over time; asked for one by one.
    #[serde(skip)]
    pub courses: Vec<Course>,
}

/// Sums of one limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) samples: u64,
    seconds: f64,
    slack: f64,
    over: f64,
    used: f64,
    limit: f64,
    wanted: f64,
    unmet: f64,
    throttled: f64,
    kills: u64,
    changes: u64,
    flaps: u64,
    /// When it was last changed, and whether upwards.
    last: Option<(i64, bool)>,
}

impl Sums {
    pub(super) fn add(&mut self, reading: &Reading, dt: f64) {
        let Reading { wanted, limit, used, throttled, killed } = *reading;
        self.samples += 1;
        self.seconds += dt;
        self.used += used * dt;
        self.wanted += wanted * dt;
        self.throttled += throttled * dt;
        self.kills += u64::from(killed);
        if limit.is_finite() {
            self.limit += limit * dt;
            // By time, not by sample: of two containers the one that is measured more often is not worth more.
            self.slack += if limit > 0.0 { (limit - used) / limit * dt } else { 0.0 };
            self.over += if wanted > limit { dt } else { 0.0 };
            self.unmet += (wanted - limit).max(0.0) * dt;
        }
    }

    pub(super) fn changed(&mut self, at: TimeMs, up: bool) {
        self.changes += 1;
        self.flaps += u64::from(self.last.is_some_and(|(last, was_up)| was_up != up && at.0 - last <= FLAP_MS));
        self.last = Some((at.0, up));
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        self.seconds += other.seconds;
        self.slack += other.slack;
        self.over += other.over;
        self.used += other.used;
        self.limit += other.limit;
        self.wanted += other.wanted;
        self.unmet += other.unmet;
        self.throttled += other.throttled;
        self.kills += other.kills;
        self.changes += other.changes;
        self.flaps += other.flaps;
    }

    pub(super) fn figures(&self) -> Figures {
        let over = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        let days = self.seconds / DAY_S;
        Figures {
            seconds: self.seconds,
            slack: over(self.slack, self.seconds),
            utilisation: over(self.used, self.limit),
            over_limit: over(self.over, self.seconds),
            unmet: over(self.unmet, self.wanted),
            throttled_s: self.throttled,
            oom_kills: self.kills,
            oom_kills_per_day: over(self.kills as f64, days),
            changes: self.changes,
            changes_per_day: over(self.changes as f64, days),
            flaps: self.flaps,
            mean_limit: over(self.limit, self.seconds),
            mean_used: over(self.used, self.seconds),
        }
    }
}

/// Adds up a replay as it goes.
pub(crate) struct Score {
    keys: Vec<ContainerKey>,
    numbers: HashMap<ContainerKey, usize, ahash::RandomState>,
    /// For each container, CPU and memory.
    sums: Vec<[Sums; 2]>,
    /// The same of the first of them.
    drawn: Vec<[Drawn; 2]>,
    /// Few, in the order in which they were first heard of; with how long their queries took, in ms.
    rules: Vec<(RuleScore, f64)>,
    problems: BTreeMap<String, u64>,
    pub ticks: u64,
}

/// A knob counts with the resource that it belongs to.
fn slot(resource: Resource) -> usize {
    usize::from(resource.of() == Resource::Memory)
}

impl Score {
    /// Of a replay from one instant to another.
    pub fn new(keys: Vec<ContainerKey>, from: TimeMs, to: TimeMs) -> Self {
        let numbers = keys.iter().cloned().enumerate().map(|(number, key)| (key, number)).collect();
        let sums = vec![[Sums::default(); 2]; keys.len()];
        let drawn = keys.iter().take(CONTAINERS).map(|_| [Drawn::new(from, to), Drawn::new(from, to)]).collect();
        Self { keys, numbers, sums, drawn, rules: Vec::new(), problems: BTreeMap::new(), ticks: 0 }
    }

    /// A measurement of an interval of `dt` seconds that ends at `now`.
    pub fn measured(&mut self, now: TimeMs, container: usize, resource: Resource, reading: &Reading, dt: f64) {
        if let Some(sums) = self.sums.get_mut(container) {
            sums[slot(resource)].add(reading, dt);
        }
        if let Some(drawn) = self.drawn.get_mut(container) {
            drawn[slot(resource)].add(now, reading);
        }
    }

    /// What a tick did.
    pub fn ticked(&mut self, report: &TickReport) {
        self.ticks += 1;
        for run in &report.runs {
            let (score, ms) = self.rule(&run.rule);
            score.runs += 1;
            *ms += run.took.as_secs_f64() * 1e3;
            if let Some(error) = &run.error {
                score.errors += 1;
                score.last_error = Some(error.clone());
            }
        }
        for decision in &report.decisions {
            self.decided(decision);
        }
        for problem in &report.problems {
            *self.problems.entry(problem.clone()).or_default() += 1;
        }
    }

    fn rule(&mut self, name: &str) -> &mut (RuleScore, f64) {
        let known = self.rules.iter().position(|(score, _)| score.rule == name);
        let at = known.unwrap_or_else(|| {
            self.rules.push((RuleScore { rule: name.to_owned(), ..RuleScore::default() }, 0.0));
            self.rules.len() - 1
        });
        &mut self.rules[at]
    }

    fn decided(&mut self, decision: &Decision) {
        let (score, _) = self.rule(&decision.rule);
        score.proposals += 1;
        for report in decision.guards.iter().filter(|report| report.action != GuardAction::Passed) {
            match score.guards.get_mut(&report.guard) {
                Some(count) => *count += 1,
                None => drop(score.guards.insert(report.guard.clone(), 1)),
            }
        }
        match decision.outcome.status {
            OutcomeStatus::Applied => score.applied += 1,
            OutcomeStatus::Refused | OutcomeStatus::Infeasible => score.refused += 1,
            _ => {}
        }
        // Nobody measures disks or networks in a replay.
        if decision.outcome.status == OutcomeStatus::Applied
            && !decision.resource.is_rate()
            && let Some(number) = self.numbers.get(&decision.container)
        {
            let up = match (decision.limit_before, decision.outcome.limit_after) {
                (Some(before), Some(after)) => after > before,
                (before, after) => after.is_none() && before.is_some(),
            };
            self.sums[*number][slot(decision.resource)].changed(decision.time, up);
        }
    }

    /// The figures of all.
    pub fn report(mut self, from: TimeMs, to: TimeMs, step_ms: u64, took_ms: u64) -> Report {
        let mut resources = BTreeMap::new();
        let (mut limits, mut courses) = (Vec::new(), Vec::new());
        for resource in Resource::ALL {
            let drawn = self.keys.iter().zip(&self.drawn).zip(&self.sums);
            let drawn = drawn.filter(|(_, sums)| sums[slot(resource)].samples > 0);
            courses.extend(drawn.map(|((key, drawn), _)| drawn[slot(resource)].course(&key.host, &key.name, resource)));
            let mut all = Sums::default();
            for (key, sums) in self.keys.iter().zip(&self.sums) {
                let sums = &sums[slot(resource)];
                if sums.samples == 0 {
                    continue;
                }
                all.merge(sums);
                let (host, container) = (key.host.clone(), key.name.clone());
                limits.push(ContainerScore { host, container, resource, figures: sums.figures() });
            }
            if all.samples > 0 {
                resources.insert(resource, all.figures());
            }
        }
        limits.sort_by(|a, b| (&a.host, &a.container, a.resource).cmp(&(&b.host, &b.container, b.resource)));
        self.rules.sort_by(|(a, _), (b, _)| a.rule.cmp(&b.rule));
        let rules = self.rules.into_iter().map(|(score, ms)| {
            let mean_ms = if score.runs > 0 { ms / score.runs as f64 } else { 0.0 };
            RuleScore { mean_ms, ..score }
        });
        let problems = self.problems.into_iter().map(|(problem, times)| match times {
            1 => problem,
            _ => format!("{problem} ({times} times)"),
        });
        Report {
            from,
            to,
            step_ms,
            ticks: self.ticks,
            took_ms,
            containers: self.keys.len(),
            resources,
            rules: rules.collect(),
            limits,
            problems: problems.collect(),
            courses,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(wanted: f64, limit: f64) -> Reading {
        Reading { wanted, limit, used: wanted.min(limit), throttled: 0.0, killed: false }
    }

    #[test]
    fn figures_are_those_of_their_formulas() {
        let mut sums = Sums::default();
        for (wanted, limit) in [(1.0, 4.0), (3.0, 2.0), (2.0, 2.0)] {
            sums.add(&reading(wanted, limit), 10.0);
        }
        let figures = sums.figures();
        assert!((figures.slack - (0.75 + 0.0 + 0.0) / 3.0).abs() < 1e-12);
        assert!((figures.utilisation - 5.0 / 8.0).abs() < 1e-12);
        assert!((figures.over_limit - 1.0 / 3.0).abs() < 1e-12);
        assert!((figures.unmet - 1.0 / 6.0).abs() < 1e-12);
        assert_eq!((figures.seconds, figures.mean_limit), (30.0, 80.0 / 30.0));
    }

    #[test]
    fn a_change_back_within_five_minutes_is_a_flap() {
        let mut sums = Sums::default();
        for (at, up) in [(0, true), (60_000, true), (120_000, false), (420_001, true), (480_000, false)] {
            sums.changed(TimeMs(at), up);
        }
        assert_eq!((sums.changes, sums.flaps), (5, 2));
    }

    #[test]
    fn no_limit_at_all_has_neither_slack_nor_overrun() {
        let mut sums = Sums::default();
        sums.add(&reading(1.0, f64::INFINITY), 1.0);
        let figures = sums.figures();
        assert_eq!((figures.slack, figures.over_limit, figures.utilisation, figures.mean_used), (0.0, 0.0, 0.0, 1.0));
    }
}
