//! The whole loop over a real store: samples in, ticks on a virtual clock, limits out.
#![allow(clippy::unwrap_used)]

mod world;

mod arrival;
mod backtest;
mod cache_pack;
mod conformance;
mod deadline_pack;
mod default_pack;
mod disk_pack;
mod documented;
mod freeze;
mod groups;
mod hosts;
mod hybrid_pack;
mod knobs;
mod laws;
mod network_pack;
mod options;
mod rebalance_pack;
mod remember;
mod safety;
mod serverless;
mod simulated;
mod statements;
mod watch;
