//! One file a subcommand.

pub mod adopt;
pub mod agent;
pub mod backtest;
pub mod backup;
pub mod check;
pub mod doctor;
pub mod explain;
pub mod freeze;
pub mod group;
mod report;
pub mod restore;
pub mod rule;
pub mod serve;
pub mod simulate;
pub mod sql;
pub mod token;
