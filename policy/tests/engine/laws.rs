//! The plain laws on demands whose figures can be worked out by hand.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_actuator::simulated::Member;
use tidegate_model::{CgroupVersion, Limit, Resource};
use tidegate_policy::PolicyConfig;
use tidegate_policy::backtest::{Figures, Trace, Traced, Wanted, laws};

use crate::world::{MIB, START};

/// A trace of one container with a sample a minute.
fn trace(resource: Resource, limit: f64, demand: &[f64]) -> Trace {
    let mut wanted = Wanted::default();
    for (minute, value) in demand.iter().enumerate() {
        assert!(wanted.push(START.plus(Duration::from_secs(60 * minute as u64)), *value, None));
    }
    let (cpu, memory) = match resource {
        Resource::Cpu => (wanted, Wanted::default()),
        _ => (Wanted::default(), wanted),
    };
    let limits = match resource {
        Resource::Cpu => (Limit::At(limit), Limit::Unlimited),
        _ => (Limit::Unlimited, Limit::At(limit)),
    };
    let member = Member {
        host: "node0".to_owned(),
        cgroup: CgroupVersion::V2,
        name: "web".to_owned(),
        app: None,
        user: None,
        labels: BTreeMap::new(),
        bounds: BTreeMap::new(),
        cpu: limits.0,
        memory: limits.1,
    };
    Trace { containers: vec![Traced { member, cpu, memory }], ..Trace::default() }
}

fn of(law: &str, resource: Resource, limit: f64, demand: &[f64]) -> Figures {
    let scores = laws(&trace(resource, limit, demand), &PolicyConfig::default());
    assert_eq!(scores.len(), 4, "only laws for what the trace has");
    scores.into_iter().find(|score| score.law == law).unwrap().figures
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-5, "{found} rather than {expected}");
}

/// The upper end of the bucket that a value is counted in.
fn bucket(value: f64) -> f64 {
    1.05_f64.powf((value.ln() / 1.05_f64.ln()).floor() + 1.0)
}

#[test]
fn the_hybrid_steps_down_by_a_twentieth_each_minute_and_up_by_half_when_saturated() {
    // 1.10 of the newest, 1.05 of the peak and 1.05 of the bucket of 1 core are all below 1.9, so it steps: 2, 1.9, 1.805.
    let figures = of("hybrid", Resource::Cpu, 2.0, &[1.0, 1.0, 1.0]);
    close(figures.slack, (1.0 / 2.0 + 0.9 / 1.9 + 0.805 / 1.805) / 3.0);
    close(figures.changes_per_day, 3.0 / 180.0 * 86_400.0);
    // Held at 1 core it grows to 1.5 and 2.25. Of these 2.2 are 97.8 %, which is saturated still, so it grows once more.
    let figures = of("hybrid", Resource::Cpu, 1.0, &[2.2, 2.2, 2.2, 2.2]);
    close(figures.over_limit, 0.5);
    close(figures.unmet, (1.2 + 0.7) / 8.8);
    close(figures.slack, (0.05 / 2.25 + 1.175 / 3.375) / 4.0);
}

#[test]
fn the_boundary_takes_two_windows_to_grow_and_eight_to_shrink() {
    // 1.9 of 2 cores is above 1.8: after two windows to max(2.2, 1.9 / 0.85).
    let figures = of("boundary", Resource::Cpu, 2.0, &[1.9, 1.9, 1.9]);
    let grown = 1.9 / 0.85;
    close(figures.slack, (0.1 / 2.0 * 2.0 + (grown - 1.9) / grown) / 3.0);
    assert_eq!(figures.changes, 1);
    // 0.5 of 2 cores is below 1.6: after eight to 0.5 / 0.85, and there it stays: 0.5 is between the thresholds.
    let figures = of("boundary", Resource::Cpu, 2.0, &[0.5; 30]);
    let fit = 0.5 / 0.85;
    close(figures.slack, (8.0 * 0.75 + 22.0 * (fit - 0.5) / fit) / 30.0);
    assert_eq!(figures.changes, 1);
}

#[test]
fn the_vertical_pod_autoscaler_waits_for_confidence_and_then_for_half_a_day() {
    // Of a single bucket p50, p90 and p95 are the same, so the first recommendation stands.
    let figures = of("VPA", Resource::Cpu, 2.0, &[1.0; 600]);
    let target = 1.15 * 1.05;
    close(figures.slack, (0.5 + 599.0 * (target - 1.0) / target) / 600.0);
    assert_eq!((figures.changes, figures.over_limit), (1, 0.0));
}

#[test]
fn autopilot_holds_the_peak_of_an_hour_after_its_percentile_fell() {
    // 2 cores for a minute are the 95th percentile of what was used until they are less than a twentieth of it (2 of 40 core
    // minutes); what it was then holds for an hour more.
    let demand: Vec<f64> = [2.0].into_iter().chain([1.0; 200]).collect();
    let figures = of("Autopilot window", Resource::Cpu, 4.0, &demand);
    let (high, low) = (1.12 * bucket(2.0), 1.12 * bucket(1.0));
    let share = |limit: f64| (limit - 1.0) / limit;
    let mut held = 0;
    let mut best = f64::INFINITY;
    for minutes in 30..150 {
        let slack = (0.5 + f64::from(minutes) * share(high) + f64::from(200 - minutes) * share(low)) / 201.0;
        if (slack - figures.slack).abs() < best {
            (best, held) = ((slack - figures.slack).abs(), minutes);
        }
    }
    assert!(best < 1e-5 && (97..=101).contains(&held), "{held} minutes, {best}");
    assert_eq!(figures.changes, 2);
}

#[test]
fn the_hard_memory_limit_waits_an_hour_and_goes_down_by_a_hundredth_a_minute() {
    let figures = of("peak and percentile", Resource::Memory, 1_000.0 * MIB, &[500.0 * MIB; 120]);
    // Lowered at the end of minute 60 for the first time, and then each minute down to 1.15 times the bucket of its usage.
    let lowest = 1.15 * bucket(500.0 * MIB) / (1_000.0 * MIB);
    let limit = |minute: i32| 0.99_f64.powi((minute - 60).max(0)).max(lowest);
    close(figures.slack, (0..120).map(|minute| 1.0 - 0.5 / limit(minute)).sum::<f64>() / 120.0);
    let changes = (0..120).filter(|minute| limit(*minute) != limit(minute + 1)).count() as u64;
    assert_eq!((figures.changes, figures.oom_kills), (changes, 0));
}

#[test]
fn a_kill_raises_a_memory_limit_by_a_hundred_mebibytes_once() {
    for law in ["peak and percentile", "VPA"] {
        let figures = of(law, Resource::Memory, 200.0 * MIB, &[190.0 * MIB, 250.0 * MIB, 250.0 * MIB, 250.0 * MIB]);
        assert_eq!(figures.oom_kills, 1, "{law}");
    }
}

#[test]
fn no_law_leaves_the_bounds() {
    let mut trace = trace(Resource::Cpu, 2.0, &[0.001; 50]);
    let config = PolicyConfig { floor_cpu_cores: 0.5, ..PolicyConfig::default() };
    for score in laws(&trace, &config) {
        let figures = score.figures;
        assert!(figures.mean_limit >= 0.5, "{} went to {}", score.law, figures.mean_limit);
    }
    trace.containers[0].member.bounds = [(Resource::Cpu, tidegate_model::Bounds { min: 1.5, max: 3.0 })].into();
    for score in laws(&trace, &config) {
        assert!(score.figures.mean_limit >= 1.5, "{} went to {}", score.law, score.figures.mean_limit);
    }
}
