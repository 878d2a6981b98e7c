//! Answers that need no rows: aggregates straight from segments and chunks.
//!
//! `rule` recognises an aggregate over the scan of a table that is nothing but min, max, sum, avg and count of its value by
//! labels and bins of time, and puts an [`exec::AggregateScanExec`] in its place. That adds up the samples of each series in
//! the order of time and then the sums of the series of a group, so the last bits of a sum depend neither on where samples
//! lie nor on when they arrived.

mod arrivals;
mod exec;
mod grid;
mod groups;
mod rolled;
mod rule;
mod sums;
mod visit;

pub(crate) use self::exec::{AggregateScan, AggregateScanExec, Ended};
pub(crate) use self::grid::Bins;
pub(crate) use self::rolled::Rolled;
pub(crate) use self::rule::AggregateScans;
pub(crate) use self::visit::{Visit, Visitor};
