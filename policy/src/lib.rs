//! Evaluates rules at each tick and turns what they propose into decisions.
//!
//! Owns the rule statements (`CREATE RULE` and its kin), the ticks, the guards between a proposal and the kernel, the choice
//! between rules, and the wording of explanations. Never reads the wall clock to decide (the tick's instant is a parameter),
//! never touches a cgroup file or the data directory (the actuator and the store do), and never plans SQL itself.
//!
//! SQL proposes, the engine disposes. At an instant all due rules run at once, each bounded in time, memory and rows. What
//! they propose for one limit passes the guards in [`guard`] and the choice in [`arbiter`], both pure functions; what is
//! left goes to the [`tidegate_actuator::Actuator`], and every proposal ends as one row of `decisions`. A live host, the
//! demo, a preview and a replay differ only in the clock and the actuator.
//!
//! Two instants may overlap, since a memory limit takes seconds to lower. The one piece of shared state is the
//! [`history::History`] behind a mutex: proposals are judged and their writes marked as pending under one lock, so that no
//! limit is ever written by two ticks at once.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod adopt;
mod agents;
mod apply;
mod arbiter;
pub mod backtest;
mod breaker;
mod canary;
mod config;
mod engine;
mod error;
mod explain;
mod freeze;
mod group;
mod guard;
mod history;
mod options;
mod owed;
mod packs;
mod parse;
mod proposal;
mod readings;
mod reads;
mod regression;
mod remember;
mod restore;
mod rule;
mod scope;
mod snapshot;
mod statement;
#[cfg(test)]
mod storm;
mod tick;
mod tracks;
mod watch;

pub use config::PolicyConfig;
pub use engine::Engine;
pub use error::{PolicyError, PolicyErrorKind};
pub use explain::{Explanation, explain_sentence};
pub use freeze::Frozen;
pub use options::{Class, Emit};
pub use packs::{DEFAULT_PACK, PACKS, Pack, PackSummary, pack};
pub use rule::RuleDefinition;
pub use statement::StatementOutcome;
pub use tick::{RuleRun, TickReport};
