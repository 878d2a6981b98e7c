//! The embedded time-series database: samples, decisions and events in, SQL answers out.
//!
//! Owns the data directory (series index, write-ahead log, in-memory chunks, Parquet segments, retention, catalog, current
//! facts) and everything that knows DataFusion (SQL tables, functions, limits on queries). Never decides anything, never
//! listens on a socket and never reads a clock: whoever calls says what time it is.
//!
//! The write path is `append` -> `wal` and `hot` -> (`flush`) `segment`; `scan` reads all of them as one. A sample is
//! identified by series and time, and of several the last to arrive counts. That makes every replay harmless, so nothing
//! on the way from the log to a segment needs more than the right order (see `flush`). `keep` backs a store up, restores and
//! checks it; `remote` gives its segments a second home in object storage.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod aggregate;

mod catalog;
mod config;
mod dir;
#[cfg(test)]
mod engine_tests;
mod error;
mod experiments;
mod facts;
mod fault;
mod functions;
mod history;
mod hot;
mod keep;
mod lateness;
mod limits;
mod loop_reads;
mod maintain;
mod memory;
mod newest;
mod news;
mod overrides;
mod query;
mod remote;
mod scan;
mod sealed;
mod segment;
#[cfg(test)]
mod sql_tests;
mod store;
mod tables;
mod write;

pub use arrow;
pub use config::{Durability, RetentionRule, StoreConfig, UsageMap};
pub use error::StoreError;
pub use experiments::{Experiment, Test};
pub use facts::{Controller, Freeze, GroupRow, RuleChange, RuleRow, RuleStatus};
pub use functions::FunctionInfo;
pub use keep::{
    BackupReport, CheckReport, Finding, FindingStatus, Snapshot, check, receive, restore, restore_uploaded,
};
pub use limits::LastLimits;
pub use loop_reads::PressureSample;
pub use memory::{Consumption, Param, RuleView};
pub use news::News;
pub use overrides::Override;
pub use query::check_rule::RuleColumns;
pub use query::error::{QueryError, QueryErrorKind};
pub use query::export;
pub use query::parameter::Parameter;
pub use query::refuse::MAX_SQL_BYTES;
pub use query::session::QUERY_STACK_BYTES;
pub use query::{OnLimit, QueryOptions, QueryPool, QueryResult};
pub use remote::{ObjectStoreConfig, UploadReport};
pub use segment::compact::CompactReport;
pub use segment::flush::FlushReport;
pub use store::{Store, StoreStats};
pub use tables::{ColumnInfo, TableInfo};
pub use write::append::{AppendReport, MAX_REASONS, Rejection};
