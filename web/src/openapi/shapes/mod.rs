//! The JSON of types that other rooms own, which know nothing of HTTP: what an answer holds of them, field by field.
//!
//! Never made, only described. Every answer in this crate's tests is held against the document, in both directions: a
//! field that is written but not described here fails them, and so does one that is described but not written.

#![expect(dead_code, reason = "types that only describe")]

mod agents;
mod backtests;
mod decisions;
mod experiments;
mod ingest;
mod report;
mod rules;

pub(crate) use agents::{Agent, FramesTaken, OrderReport, Orders};
pub(crate) use backtests::BacktestReport;
pub(crate) use decisions::{Decision, Mode, OutcomeStatus, Resource};
pub(crate) use experiments::{Experiment, Experiments};
pub(crate) use ingest::{IngestPreview, Pushed};
pub(crate) use report::Report;
pub(crate) use rules::{Freeze, Frozen, Pack, Rule, RuleChange, RuleDefinition, StatementResult};

/// A body that is no text.
#[derive(utoipa::ToSchema)]
#[schema(value_type = String, format = Binary)]
pub(crate) struct Binary(Vec<u8>);
