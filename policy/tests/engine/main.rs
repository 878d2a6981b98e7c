//! The whole loop over a real store: samples in, ticks on a virtual clock, limits out.
#![allow(clippy::unwrap_used)]

mod world;

mod backtest;
mod default_pack;
mod documented;
mod freeze;
mod hosts;
mod laws;
mod options;
mod safety;
mod simulated;
mod statements;
mod watch;
