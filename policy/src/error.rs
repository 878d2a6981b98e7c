//! The crate's one error: what is wrong with a submitted rule text, and where in that text.

use serde::Serialize;
use tidegate_store::{QueryError, StoreError};

use crate::parse::Span;

/// What kind of mistake a [`PolicyError`] is; callers choose their status code by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyErrorKind {
    /// The text is no rule statement.
    Syntax,
    /// An option is unknown, misspelt or out of range.
    Option,
    /// The SELECT does not parse, plan or run, or is not read-only.
    Query,
    /// The SELECT lacks a column that a rule must return, or has it with another type.
    Schema,
    /// A rule of that name exists already.
    Exists,
    /// There is no rule of that name.
    NotFound,
    /// A configured bound was reached: number of rules or length of the text.
    Limit,
    /// The rules could not be stored, or the history not be read.
    Store,
    /// It was told to stop.
    Stopped,
}

/// A rule text was not accepted. Positions are 1-based, in characters, and relative to the whole submitted text.
#[derive(Clone, Debug, PartialEq, Serialize, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct PolicyError {
    /// What kind of mistake.
    pub kind: PolicyErrorKind,
    /// What is wrong, for a person.
    pub message: String,
    /// Line at which it begins.
    pub line: Option<u64>,
    /// Column at which it begins.
    pub column: Option<u64>,
    /// Line at which it ends.
    pub end_line: Option<u64>,
    /// Column just behind its end.
    pub end_column: Option<u64>,
    /// What to do about it.
    pub help: Option<String>,
}

impl PolicyError {
    pub(crate) fn new(kind: PolicyErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message, line: None, column: None, end_line: None, end_column: None, help: None }
    }

    /// Something was told to stop before it was done.
    pub fn stopped(message: impl Into<String>) -> Self {
        Self::new(PolicyErrorKind::Stopped, message)
    }

    pub(crate) fn at(mut self, span: Span) -> Self {
        self.line = Some(span.line);
        self.column = Some(span.column);
        self.end_line = Some(span.end_line);
        self.end_column = Some(span.end_column);
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// An error of a SELECT that begins at `start` of the submitted text: its position becomes one in that text.
    pub(crate) fn from_query(error: QueryError, start: Span) -> Self {
        let shift = |line: Option<u64>, column: Option<u64>| match (line, column) {
            (Some(1), column) => (Some(start.line), column.map(|column| start.column + column.saturating_sub(1))),
            (Some(line), column) => (Some(start.line + line.saturating_sub(1)), column),
            (None, _) => (None, None),
        };
        let (line, column) = shift(error.line, error.column);
        let (end_line, end_column) = shift(error.end_line, error.end_column);
        let unplaced = line.is_none();
        let placed = Self {
            kind: PolicyErrorKind::Query,
            message: error.message,
            line,
            column,
            end_line,
            end_column,
            help: error.help,
        };
        // Without a position of its own the error belongs to the SELECT as a whole.
        if unplaced { placed.at(start) } else { placed }
    }
}

impl From<StoreError> for PolicyError {
    fn from(error: StoreError) -> Self {
        Self::new(PolicyErrorKind::Store, format!("the rules could not be stored: {error}"))
    }
}
