//! Plain laws of the field to measure rules against: what would the vertical pod autoscaler have done with the same demand?
//!
//! A law is one container's limit as a function of what was measured so far, and nothing else: no guards but the bounds, no
//! dead band, no cooldown that is not its own. It is played to the same demand as the rules, with the same
//! figures out of it (see [`super::score`]). The formulas stand with each law.

mod boundary;
mod cpu;
mod memory;
mod window;

use serde::Serialize;
use tidegate_actuator::simulated::Reading;
use tidegate_model::{Resource, TimeMs};

use super::score::{Figures, Sums};
use super::trace::{Trace, Traced};
use crate::config::PolicyConfig;

const HOUR_S: f64 = 3_600.0;
const DAY_S: f64 = 86_400.0;
/// Quotas that a core has.
const QUOTA_STEPS: f64 = 1e5;

/// What was measured of one limit in the time since the sample before it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    /// When, in seconds.
    at_s: f64,
    /// How long the sample stands for, in seconds.
    step_s: f64,
    /// What was used, in cores or bytes: never more than the limit. Of memory the highest value, also of a process that was
    /// killed.
    used: f64,
    /// What was wanted. Only laws that have no way to grow out of a limit look at it: what they do on their own is to stay
    /// below it for ever, which is true but says little.
    wanted: f64,
    /// The limit that was in force.
    limit: f64,
    /// Share of the periods that were throttled.
    throttled: f64,
    /// Whether the process was killed for memory.
    killed: bool,
}

/// A rule for one limit.
trait Law {
    /// The limit from now on, which may be the one in force.
    fn next(&mut self, seen: &Seen) -> f64;
}

/// What one law came to with all containers of a trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LawScore {
    /// Its name.
    pub law: &'static str,
    /// What it limits.
    pub resource: Resource,
    /// The figures of all containers together.
    #[serde(flatten)]
    pub figures: Figures,
}

/// A law's name, what it limits, and a new one.
type Known = (&'static str, Resource, fn() -> Box<dyn Law>);

const LAWS: [Known; 8] = [
    ("VPA", Resource::Cpu, || Box::new(cpu::Vpa::new())),
    ("Autopilot window", Resource::Cpu, || Box::new(cpu::Autopilot::new())),
    ("boundary", Resource::Cpu, || Box::new(cpu::boundary())),
    ("hybrid", Resource::Cpu, || Box::new(cpu::Hybrid::new())),
    ("VPA", Resource::Memory, || Box::new(memory::Vpa::new())),
    ("Autopilot window", Resource::Memory, || Box::new(memory::Autopilot::new())),
    ("boundary", Resource::Memory, || Box::new(memory::boundary())),
    ("peak and percentile", Resource::Memory, || Box::new(memory::Hard::new())),
];

/// What each plain law would have done to the containers of a trace, at the trace's own samples. Of `config` the floors count,
/// as they do for rules; the capacity of hosts does not.
pub fn laws(trace: &Trace, config: &PolicyConfig) -> Vec<LawScore> {
    let played = |(law, resource, new): Known| {
        let mut all = Sums::default();
        for traced in &trace.containers {
            all.merge(&play(traced, resource, new().as_mut(), config));
        }
        (all.samples > 0).then(|| LawScore { law, resource, figures: all.figures() })
    };
    LAWS.into_iter().filter_map(played).collect()
}

/// Plays what one container wanted of a resource to a law.
fn play(traced: &Traced, resource: Resource, law: &mut dyn Law, config: &PolicyConfig) -> Sums {
    let mut sums = Sums::default();
    let wanted = traced.wanted(resource);
    let is_cpu = resource == Resource::Cpu;
    let (first, floor) = (if is_cpu { traced.member.cpu } else { traced.member.memory }, config.floor(resource));
    let bounds = traced.member.bounds.get(&resource);
    let (min, max) = bounds.map_or((floor, f64::INFINITY), |bounds| (bounds.min, bounds.max));
    // A quota is whole microseconds of a period of 100 ms, as on the host that rules are played to.
    let written = |limit: f64| if is_cpu { (limit * QUOTA_STEPS).round() / QUOTA_STEPS } else { limit };
    let mut limit = first.value().map_or(f64::INFINITY, written);
    let mut killed_at: Option<TimeMs> = None;
    let step_s = wanted.spacing() as f64 / 1e3;
    for (sample, at) in wanted.instants() {
        let reading = if is_cpu {
            Reading::of_cpu(wanted.value(sample), limit)
        } else {
            let held = wanted.held(sample, killed_at.map(|killed| at.since(killed)));
            Reading::of_memory(held, limit, f64::INFINITY)
        };
        if reading.killed {
            killed_at = Some(at);
        }
        sums.add(&reading, step_s);
        let seen = Seen {
            at_s: at.0 as f64 / 1e3,
            step_s,
            used: if reading.killed { limit } else { reading.used },
            wanted: reading.wanted,
            limit,
            throttled: reading.throttled,
            killed: reading.killed,
        };
        // As for rules: where there is no limit, there is none to move.
        let next = written(law.next(&seen).max(min).min(max));
        if next > 0.0 && next.is_finite() && limit.is_finite() && next != limit {
            sums.changed(at, next > limit);
            limit = next;
        }
    }
    sums
}
