//! The whole product, from outside: the real binary, spoken to as its users do, on real cgroups.
//!
//! One test binary, since each linked one is a few hundred megabytes. What a machine cannot run is reported through
//! [`support::skip`], which `tests/run` counts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod agents;
mod bandwidth;
mod cli;
mod clients;
mod conformance;
mod dashboard;
mod demo;
mod disk;
mod disks;
mod durability;
mod keep;
mod network;
mod page_cache;
mod scaling;
mod support;
mod trust;
mod vm;
