//! The packs hybrid and memory, and those beside them, with a sample a second and with samples further apart.

use std::time::Duration;

use tidegate_model::{Clock, Resource, metrics};

use crate::world::{MIB, World, cpu};

#[tokio::test(flavor = "multi_thread")]
async fn a_starving_container_gets_what_it_needs_within_three_seconds() {
    let world = World::new().await;
    world.apply_packs(&["hybrid", "memory"], "on").await;
    world.set_limit("web", Resource::Cpu, 0.3);
    let mut limits = vec![0.3];
    for _ in 0..3 {
        world.second(&[("web", cpu(1.5))]).await;
        limits.push(world.limit("web", Resource::Cpu));
    }
    assert!(limits[3] >= 1.5, "{limits:?}");
    assert!(limits[1] > 0.45 && limits[1] < 0.98, "the more it is throttled the larger the step: {limits:?}");
    assert!(limits.windows(2).all(|pair| pair[1] <= pair[0] * 3.4 + 1e-9), "{limits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_container_gives_back_within_seconds_and_is_never_throttled_for_it() {
    let world = World::new().await;
    world.apply_packs(&["hybrid", "memory"], "on").await;
    world.set_limit("web", Resource::Cpu, 2.0);
    for second in 0..60 {
        let demand = if second < 10 { 1.0 } else { 0.2 };
        world.second(&[("web", cpu(demand))]).await;
        let limit = world.limit("web", Resource::Cpu);
        assert!(limit > demand, "throttled in second {second}");
        // Three seconds of each are what it needs for either.
        assert!(!(5..10).contains(&second) || (limit - 1.05).abs() < 1e-9, "{limit} in second {second}");
        assert!(second < 14 || (limit - 0.21).abs() < 1e-9, "{limit} in second {second}");
    }
    assert_eq!(world.actuator.changes.lock().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_waits_for_more_than_it_has_gets_all_it_may_have() {
    let world = World::new().await;
    world.apply_packs(&["hybrid", "memory"], "on").await;
    world.set_limit("web", Resource::Cpu, 1.0);
    let mut limits = Vec::new();
    for second in 0..30 {
        world.second(&[("web", cpu(if second < 10 { 0.2 } else { 1.9 }))]).await;
        limits.push(world.limit("web", Resource::Cpu));
    }
    // Three times the limit each second, since no bound says how much it may have; then back to what it uses.
    assert!((limits[9] - 0.21).abs() < 1e-9 && (limits[10] - 0.63).abs() < 1e-9 && limits[11] > 1.88, "{limits:?}");
    assert!((limits[29] - 1.05 * 1.9).abs() < 1e-9, "{limits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bursty_container_keeps_what_its_bursts_need() {
    let world = World::new().await;
    world.apply_packs(&["hybrid", "memory"], "on").await;
    world.set_limit("web", Resource::Cpu, 2.0);
    let (mut throttled, mut lowered) = (0, 0);
    let mut former = 2.0;
    for second in 0..240 {
        let demand = if second % 10 < 2 { 1.8 } else { 0.2 };
        throttled += usize::from(second >= 120 && demand > world.limit("web", Resource::Cpu));
        world.second(&[("web", cpu(demand))]).await;
        let limit = world.limit("web", Resource::Cpu);
        lowered += usize::from(second >= 120 && limit < former);
        former = limit;
    }
    assert!(throttled <= 8, "throttled in {throttled} of 24 bursts");
    assert!(lowered <= 8, "lowered {lowered} times");
    assert!(world.engine.rules().iter().all(|rule| rule.note.is_none()), "a rule gave up");
}

/// A second of work that comes in bursts: its mean is below the limit, and unless the limit is what a burst needs, it is
/// throttled all the same. Returns the limit and the share of throttled periods.
async fn second_of_bursts(world: &World, mean: f64, need: f64) -> (f64, f64) {
    world.clock.advance(Duration::from_secs(1));
    let limit = world.limit("web", Resource::Cpu);
    let throttled = (10.0 * (need - limit).max(0.0) / (need - mean)).ceil().min(10.0) / 10.0;
    let tags = [("host", "node0"), ("container", "web"), ("resource", "cpu")];
    for (metric, value) in [(metrics::USAGE, mean.min(limit)), (metrics::LIMIT, limit), (metrics::THROTTLED, throttled)]
    {
        world.push(metric, &tags, value).await;
    }
    let report = world.engine.tick(world.clock.now()).await;
    assert_eq!(report.problems, Vec::<String>::new());
    (limit, throttled)
}

#[tokio::test(flavor = "multi_thread")]
async fn work_in_bursts_gets_the_headroom_that_it_needs() {
    for factor in [1.2, 2.0, 3.0] {
        let world = World::new().await;
        world.apply_packs(&["hybrid"], "on").await;
        world.set_limit("web", Resource::Cpu, 4.0);
        let need = 0.4 * factor;
        let (mut held, mut throttled) = (0.0, 0.0);
        for second in 0..240 {
            let (limit, share) = second_of_bursts(&world, 0.4, need).await;
            if second >= 120 {
                (held, throttled) = (held + limit / 120.0, throttled + share / 120.0);
            }
        }
        assert!(throttled <= 0.05, "{factor}: throttled in {throttled} of the periods");
        assert!(held < 1.15 * need, "{factor}: {held} of {need}");
        let changes = world.actuator.changes.lock().len();
        assert!(world.engine.rules().iter().all(|rule| rule.note.is_none()), "{factor}: a rule gave up");
        // The bursts are over, and so is what they needed.
        for _ in 0..600 {
            second_of_bursts(&world, 0.4, 0.41).await;
        }
        let limit = world.limit("web", Resource::Cpu);
        assert!(limit < 0.45, "{factor}: {limit} for an even 0.4");
        println!("{factor}: {held:.3} of {need:.3}, throttled {throttled:.3}, {changes} changes, then {limit:.3}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_held_back_no_more_than_bursts_is_not_come_back_to() {
    let world = World::new().await;
    world.apply_packs(&["hybrid"], "on").await;
    world.set_limit("web", Resource::Cpu, 0.42);
    // Stretched by its limit the work fills all of it; freed, it uses no more.
    let mut held = 0;
    for second in 0..300 {
        let stretched = world.limit("web", Resource::Cpu) < 0.8;
        world.clock.advance(Duration::from_secs(1));
        let limit = world.limit("web", Resource::Cpu);
        let tags = [("host", "node0"), ("container", "web"), ("resource", "cpu")];
        let usage = if stretched { limit } else { 0.4 };
        let throttled = if stretched { 0.8 } else { 0.0 };
        for (metric, value) in [(metrics::USAGE, usage), (metrics::LIMIT, limit), (metrics::THROTTLED, throttled)] {
            world.push(metric, &tags, value).await;
        }
        world.engine.tick(world.clock.now()).await;
        held += usize::from(second >= 100 && stretched);
    }
    assert!(held <= 10, "held in {held} of 200 seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_more_than_he_has_learns_no_headroom() {
    let world = World::new().await;
    world.apply_packs(&["hybrid"], "on").await;
    world.set_limit("web", Resource::Cpu, 0.3);
    for second in 0..120 {
        world.second(&[("web", cpu(if second / 10 % 2 == 0 { 1.5 } else { 0.2 }))]).await;
    }
    assert_eq!(world.count("SELECT 1 FROM params WHERE value > 1.05").await, 0);
}

/// What a container with a sample a minute and a limit of 2 cores or GiB comes to; the limits after each minute.
async fn minutes(pack: &str, resource: Resource, demand: &[f64]) -> Vec<f64> {
    let world = World::new().await;
    world.apply_packs(&[pack], "on").await;
    let unit = if resource == Resource::Cpu { 1.0 } else { 1_024.0 * MIB };
    world.set_limit("web", resource, 2.0 * unit);
    let mut limits = Vec::new();
    for value in demand {
        world.clock.advance(Duration::from_secs(60));
        world.measure(&[("web", crate::world::Second { resource, demand: value * unit })]).await;
        let report = world.engine.tick(world.clock.now()).await;
        assert_eq!(report.problems, Vec::<String>::new());
        limits.push(world.limit("web", resource) / unit);
    }
    limits
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_sample_a_minute_cpu_keeps_what_its_history_asks_for() {
    let demand: Vec<f64> = (0..90).map(|minute| if minute == 40 { 1.2 } else { 0.5 }).collect();
    let limits = minutes("hybrid", Resource::Cpu, &demand).await;
    // By three tenths and to 1.06 times 0.5, five minutes apart.
    assert!(limits[1..6].iter().all(|limit| (limit - 0.6).abs() < 1e-9), "{limits:?}");
    assert!(limits[6..40].iter().all(|limit| (limit - 0.53).abs() < 1e-9), "{limits:?}");
    // Throttled in 90 % of the periods for a minute it gets 3.23 times as much, and goes back to 1.06 of what it could use.
    let grown = 0.53 * (1.7 + 1.7 * 0.9);
    assert!(limits[40..45].iter().all(|limit| (limit - grown).abs() < 1e-9), "{limits:?}");
    assert!(limits[51..].iter().all(|limit| (limit - 1.06 * 0.53).abs() < 1e-9), "{limits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_sample_a_minute_memory_comes_down_after_two_hours_of_it() {
    let limits = minutes("memory", Resource::Memory, &[1.0; 240]).await;
    assert!(limits[..119].iter().all(|limit| *limit == 2.0), "{limits:?}");
    let changes = limits.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!((1.0 / 0.87..1.3).contains(&limits[239]) && changes <= 4, "{changes}: {limits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn percentiles_want_an_hour_of_data_and_grow_when_saturated() {
    let limits = minutes("percentile", Resource::Cpu, &[0.5; 200]).await;
    assert!(limits[9] == 2.0 && limits[199] < 0.6 && limits[199] > 0.55, "{limits:?}");
    let limits = minutes("percentile", Resource::Cpu, &[3.0; 10]).await;
    assert!(limits[9] >= 3.0, "{limits:?}");
    let limits = minutes("percentile", Resource::Memory, &[1.0; 300]).await;
    assert!((1.1..1.3).contains(&limits[299]), "{limits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn captain_answers_throttling_in_proportion_and_gives_back_after_a_minute() {
    let world = World::new().await;
    world.apply_packs(&["captain"], "on").await;
    world.set_limit("web", Resource::Cpu, 1.0);
    world.second(&[("web", cpu(1.5))]).await;
    // Throttled in 90 % of the periods, 9 % of which are allowed.
    assert!((world.limit("web", Resource::Cpu) - 1.81).abs() < 1e-9);
    for _ in 0..90 {
        world.second(&[("web", cpu(0.5))]).await;
    }
    let limit = world.limit("web", Resource::Cpu);
    assert!((0.5..0.6).contains(&limit), "{limit}");
}
