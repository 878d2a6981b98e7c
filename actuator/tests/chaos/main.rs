//! A day of a host in a minute: containers come and go, people and Docker change limits, Docker answers late, clocks jump, the
//! disk is full, and the agent is killed at any instant. Whatever happens, no limit is lowered below what is used, none is
//! written that stands there already, and each change of one has a cause.
//!
//! The agent is a process of its own on a made-up tree of cgroups, whose time is told to it. Seeds: `TIDEGATE_CHAOS_SEED`.
#![allow(clippy::unwrap_used)]

mod agent;
#[path = "../daemon/mod.rs"]
mod daemon;
mod files;
#[path = "../tree/mod.rs"]
mod tree;
mod world;

use std::time::{Duration, Instant};

use crate::tree::Kind;
use crate::world::World;

/// So many steps of three quarters of a minute are a day.
const STEPS: usize = 1_920;
/// However slow the machine is.
const LONGEST: Duration = Duration::from_secs(70);

fn day(kind: Kind) {
    let seed = std::env::var("TIDEGATE_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    println!("seed {seed}");
    let mut world = World::new(kind, seed);
    let (began, started) = (world.now, Instant::now());
    for step in 0..STEPS {
        if started.elapsed() > LONGEST {
            println!("the machine is slow: ended after {step} steps");
            break;
        }
        world.disturb();
        world.collect();
        for _ in 0..world.dice.below(3) {
            world.act();
        }
        if world.dice.chance(0.003) {
            world.kill(None);
        }
        if world.dice.chance(0.003) {
            world.restore();
        }
        if step % 600 == 599 && world.books.late < 3 {
            world.late();
        }
    }
    world.end();
    println!("{} hours in {:?}: {:?}", (world.now - began) / 3_600_000, started.elapsed(), world.books);
    let books = &world.books;
    for (what, count) in
        [("decisions", books.decisions), ("kills", books.kills), ("late", books.late), ("full", books.full)]
    {
        assert!(count > 0, "no {what}");
    }
}

#[test]
fn a_day_of_chaos_on_v1_leaves_no_change_without_a_cause() {
    day(Kind::V1Separate);
}

#[test]
fn a_day_of_chaos_on_v2_leaves_no_change_without_a_cause() {
    day(Kind::V2);
}
