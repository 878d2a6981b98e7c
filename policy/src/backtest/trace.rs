//! What containers wanted over a span of time, and how it is played to a simulated host.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tidegate_actuator::simulated::{AFTER_KILL, Demand, Held, Life, Member, Workload};
use tidegate_model::{Host, Limit, Resource, TimeMs};

use super::pushed::Pushed;

/// A sample stands for the time since the one before it, but for no more than so many times the usual distance: behind
/// that, the container was not there or not measured.
const LONGEST_GAP: i64 = 3;
/// The distance of samples where there is but one.
const USUAL_SPACING_MS: i64 = 1_000;
/// How many samples further on the next one is looked for one by one.
const STEPS_AHEAD: usize = 8;
/// How long a process that was killed takes until it holds again what it held.
const RESTART: Duration = Duration::from_secs(30);

/// What one container wanted of one resource, sample by sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// In ms UTC, ascending.
    times: Vec<i64>,
    /// In cores or bytes.
    values: Vec<f64>,
    /// Memory that could not be reclaimed; empty where it is not known of any sample, NaN where not of that one. All of it
    /// counts as such then.
    anon: Vec<f64>,
    /// Samples of times at which the limit was reached: the demand was that or more.
    pub saturated: usize,
}

impl Wanted {
    /// Appends a sample. One that is not finite, negative or not later than the one before it is left out; false then.
    pub fn push(&mut self, time: TimeMs, value: f64, anon: Option<f64>) -> bool {
        let later = self.times.last().is_none_or(|last| *last < time.0);
        let fits = later && value.is_finite() && value >= 0.0;
        if fits {
            let anon = anon.filter(|anon| anon.is_finite() && *anon >= 0.0);
            if anon.is_some() && self.anon.is_empty() {
                self.anon = vec![f64::NAN; self.times.len()];
            }
            if anon.is_some() || !self.anon.is_empty() {
                self.anon.push(anon.unwrap_or(f64::NAN));
            }
            self.times.push(time.0);
            self.values.push(value);
        }
        fits
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The highest demand.
    pub fn peak(&self) -> Option<f64> {
        self.values.iter().copied().reduce(f64::max)
    }

    /// The number of the sample that stands for the interval which ends at `now`. The first one stands for no more than the
    /// usual distance.
    ///
    /// `near` is what was found last; time goes on in small steps, so it is looked for from there on.
    fn at(&self, now: TimeMs, spacing: i64, near: &AtomicUsize) -> Option<usize> {
        let known = near.load(Ordering::Relaxed);
        let starts = if known > 0 && self.times.get(known - 1).is_some_and(|time| *time < now.0) { known } else { 0 };
        let mut ahead = self.times[starts..].iter().take(STEPS_AHEAD);
        let at = match ahead.position(|time| *time >= now.0) {
            Some(steps) => starts + steps,
            None => starts + self.times[starts..].partition_point(|time| *time < now.0),
        };
        near.store(at, Ordering::Relaxed);
        let reach = if at == 0 { spacing } else { spacing.saturating_mul(LONGEST_GAP) };
        (*self.times.get(at)? - now.0 < reach).then_some(at)
    }

    /// The memory that could not be reclaimed at a sample.
    fn anon(&self, at: usize) -> Option<f64> {
        self.anon.get(at).copied().filter(|anon| !anon.is_nan())
    }

    /// The instants at which a host that is measured as often as the samples are apart would see which sample: each at its
    /// time, and those that stand for a longer time also before it.
    pub(crate) fn instants(&self) -> impl Iterator<Item = (usize, TimeMs)> {
        let spacing = self.spacing();
        let mut before = None;
        self.times.iter().enumerate().flat_map(move |(at, time)| {
            let since = before.replace(*time).map_or(spacing, |before| time - before);
            let times = ((since + spacing / 2) / spacing.max(1)).clamp(1, LONGEST_GAP);
            (0..times).rev().map(move |earlier| (at, TimeMs(time - earlier * spacing)))
        })
    }

    /// What memory is held by a process that has been running for `age` since it was killed, or was not, at a sample.
    pub(crate) fn held(&self, at: usize, after_kill: Option<Duration>) -> Held {
        let share = after_kill.map_or(1.0, |age| {
            let grown = (age.as_secs_f64() / RESTART.as_secs_f64()).min(1.0);
            AFTER_KILL + (1.0 - AFTER_KILL) * grown
        });
        let working_set = self.values[at] * share;
        let anon = self.anon(at).map_or(working_set, |anon| (anon * share).min(working_set));
        Held { anon, working_set }
    }

    /// The demand of a sample.
    pub(crate) fn value(&self, at: usize) -> f64 {
        self.values[at]
    }

    /// The usual distance between two samples, in ms: the median of the first ones.
    pub(crate) fn spacing(&self) -> i64 {
        let mut distances: Vec<i64> = self.times.windows(2).take(1_024).map(|pair| pair[1] - pair[0]).collect();
        let middle = distances.len() / 2;
        if distances.is_empty() { USUAL_SPACING_MS } else { *distances.select_nth_unstable(middle).1 }
    }

    /// The first and the last time.
    fn span(&self) -> Option<(i64, i64)> {
        Some((*self.times.first()?, *self.times.last()?))
    }
}

/// A container of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced {
    /// Its names, its bounds and its first limits.
    pub member: Member,
    /// CPU demand, in cores.
    pub cpu: Wanted,
    /// Memory demand, in bytes: the working set.
    pub memory: Wanted,
}

impl Traced {
    /// Gives a resource without a first limit its highest demand as one: what an operator who knew the future would have
    /// set by hand, and so the limit that a rule has to be better than.
    pub(crate) fn limit_at_peak(&mut self) {
        for (limit, wanted) in [(&mut self.member.cpu, &self.cpu), (&mut self.member.memory, &self.memory)] {
            if let (Limit::Unlimited, Some(peak)) = (*limit, wanted.peak().filter(|peak| *peak > 0.0)) {
                *limit = Limit::At(peak);
            }
        }
    }

    pub(crate) fn wanted(&self, resource: Resource) -> &Wanted {
        if resource.of() == Resource::Cpu { &self.cpu } else { &self.memory }
    }
}

/// The demand of some containers over a span of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Hosts whose capacity is known; on others nothing but its own limit holds a container.
    pub hosts: Vec<Host>,
    /// The containers.
    pub containers: Vec<Traced>,
    /// Pushed metrics that rules read.
    pub pushed: Vec<Pushed>,
    /// What was left out or is doubtful, for a person.
    pub problems: Vec<String>,
}

impl Trace {
    /// The times of the first and the last sample; `None` when there is none.
    pub fn span(&self) -> Option<(TimeMs, TimeMs)> {
        let spans = self.series().filter_map(Wanted::span);
        let (first, last) = spans.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
        Some((TimeMs(first), TimeMs(last)))
    }

    /// The time of the first sample that is later than `time`.
    pub(crate) fn next_after(&self, time: TimeMs) -> Option<TimeMs> {
        let next = |wanted: &Wanted| wanted.times.get(wanted.times.partition_point(|known| *known <= time.0)).copied();
        self.series().filter_map(next).min().map(TimeMs)
    }

    /// The usual distance between two samples of a series: the median over all series.
    pub fn spacing(&self) -> Duration {
        let mut all: Vec<i64> = self.series().filter(|wanted| wanted.len() > 1).map(Wanted::spacing).collect();
        let middle = all.len() / 2;
        let median = if all.is_empty() { USUAL_SPACING_MS } else { *all.select_nth_unstable(middle).1 };
        Duration::from_millis(median.max(1) as u64)
    }

    /// Samples, and those of them whose demand is only known to be that or more.
    pub fn samples(&self, resource: Resource) -> (usize, usize) {
        let all = self.containers.iter().map(|traced| traced.wanted(resource));
        all.fold((0, 0), |(samples, saturated), wanted| (samples + wanted.len(), saturated + wanted.saturated))
    }

    fn series(&self) -> impl Iterator<Item = &Wanted> {
        self.containers.iter().flat_map(|traced| [&traced.cpu, &traced.memory])
    }

    /// The containers as members of a simulated host, and their demand as its workload.
    pub(crate) fn play(self: &Arc<Self>) -> (Vec<Member>, Played) {
        let members = self.containers.iter().map(|traced| traced.member.clone()).collect();
        let spacing = self.containers.iter().map(|traced| (traced.cpu.spacing(), traced.memory.spacing())).collect();
        let near = self.containers.iter().map(|_| Default::default()).collect();
        (members, Played { trace: Arc::clone(self), spacing, near })
    }
}

/// A trace as the workload of a simulated host.
#[derive(Debug)]
pub(crate) struct Played {
    trace: Arc<Trace>,
    /// Of each container, that of its CPU and its memory samples, in ms.
    spacing: Vec<(i64, i64)>,
    /// Of each container, which of them were played last.
    near: Vec<[AtomicUsize; 2]>,
}

impl Workload for Played {
    fn demand(&self, container: usize, now: TimeMs, life: Life) -> Demand {
        let (Some(traced), Some(spacing), Some([near_cpu, near_memory])) =
            (self.trace.containers.get(container), self.spacing.get(container), self.near.get(container))
        else {
            return Demand::default();
        };
        let Traced { cpu, memory, .. } = traced;
        let held = |at: usize| memory.held(at, life.killed.then_some(life.age));
        let cpu = cpu.at(now, spacing.0, near_cpu).map(|at| cpu.values[at]);
        Demand { cpu, memory: memory.at(now, spacing.1, near_memory).map(held), io: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_model::CgroupVersion;

    const YOUNG: Life = Life { age: Duration::ZERO, killed: false };

    fn wanted(samples: &[(i64, f64)]) -> Wanted {
        let mut wanted = Wanted::default();
        samples.iter().for_each(|(time, value)| assert!(wanted.push(TimeMs(*time), *value, None)));
        wanted
    }

    fn played(cpu: Wanted, memory: Wanted) -> Played {
        let member = Member {
            host: String::new(),
            cgroup: CgroupVersion::V2,
            name: String::new(),
            app: None,
            user: None,
            labels: Default::default(),
            bounds: Default::default(),
            cpu: Limit::Unlimited,
            memory: Limit::Unlimited,
        };
        let trace = Trace { containers: vec![Traced { member, cpu, memory }], ..Trace::default() };
        Arc::new(trace).play().1
    }

    #[test]
    fn a_sample_stands_for_the_time_before_it_and_a_gap_for_nothing() {
        let samples = [(1_000, 1.0), (2_000, 2.0), (3_000, 2.5), (9_000, 3.0)];
        let played = played(wanted(&samples), wanted(&[]));
        let cpu = |now| played.demand(0, TimeMs(now), YOUNG).cpu;
        assert_eq!(
            [cpu(0), cpu(1), cpu(1_000), cpu(1_001), cpu(2_000)],
            [None, Some(1.0), Some(1.0), Some(2.0), Some(2.0)]
        );
        assert_eq!([cpu(3_001), cpu(6_000), cpu(6_001), cpu(9_001)], [None, None, Some(3.0), None]);
        assert_eq!(played.demand(0, TimeMs(1_000), YOUNG).memory, None);
        assert_eq!(played.demand(7, TimeMs(1_000), YOUNG), Demand::default());
    }

    #[test]
    fn a_killed_process_grows_back_in_half_a_minute() {
        let played = played(wanted(&[]), wanted(&[(60_000, 100.0)]));
        let held = |age, killed| {
            let life = Life { age: Duration::from_secs(age), killed };
            played.demand(0, TimeMs(60_000), life).memory.unwrap().working_set.round()
        };
        assert_eq!((held(0, false), held(0, true), held(15, true), held(40, true)), (100.0, 20.0, 60.0, 100.0));
    }

    #[test]
    fn samples_that_make_no_sense_are_left_out() {
        let mut wanted = Wanted::default();
        assert!(wanted.push(TimeMs(5), 1.0, Some(f64::NAN)));
        for (time, value) in [(5, 1.0), (4, 1.0), (6, f64::NAN), (6, -1.0)] {
            assert!(!wanted.push(TimeMs(time), value, None), "{time} {value}");
        }
        assert_eq!((wanted.len(), wanted.anon(0)), (1, None));
        assert!(wanted.push(TimeMs(7), 1.0, Some(0.5)));
        assert_eq!((wanted.anon(0), wanted.anon(1)), (None, Some(0.5)));
    }
}
