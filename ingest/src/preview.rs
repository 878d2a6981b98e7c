//! What a body would become, without storing it: for a person who is about to send something.
//!
//! The decoders are those of the routes, with no spelling known to them, and the store is asked what it would say of each
//! time and value. Nothing is counted either. What only storing can tell is left out: whether there is room for new series.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use bytes::Bytes;
use serde::Serialize;
use tidegate_model::{SampleBatch, SeriesRef, TimeMs};

use crate::body::Encoding;
use crate::error::IngestError;
use crate::influx::{self, Precision};
use crate::json::{self, JsonError};
use crate::monasca::{self, Refusal};
use crate::opentsdb;
use crate::prometheus;
use crate::protocol::Protocol;
use crate::routes::IngestState;
use crate::spellings::Known;

/// The most bytes of a body that is looked at; nobody reads more.
const MAX_BYTES: usize = 1 << 20;
/// How many samples an answer shows.
const MAX_SAMPLES: usize = 200;
/// How many errors an answer names; the rest is only counted.
const MAX_ERRORS: usize = 100;

/// How a body is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The wire format.
    pub protocol: Protocol,
    /// The unit of the line protocol's timestamps.
    pub precision: Precision,
}

/// What a body would become.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Preview {
    /// The first samples that would be stored.
    pub samples: Vec<PreviewSample>,
    /// How many would be stored in all.
    pub total: usize,
    /// Of how many series.
    pub series: usize,
    /// What would be refused, the first of it, by line.
    pub errors: Vec<PreviewError>,
    /// How many points, or lines, would be refused in all.
    pub failed: usize,
    /// What would be passed over since it is no measurement: texts, stale markers, exemplars, histograms.
    pub skipped: usize,
}

/// One sample.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PreviewSample {
    /// The line of the body that it stands in, where that has lines.
    pub line: Option<usize>,
    /// Its metric.
    pub metric: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its time in ms UTC.
    pub time: TimeMs,
    /// Its value.
    pub value: f64,
}

/// Why something would be refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PreviewError {
    /// The line of the body, from 1, where that has lines.
    pub line: Option<usize>,
    /// The column in bytes, from 1, where it is known.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
}

/// What `sent` would become if it were pushed now with these headers.
///
/// # Errors
/// The body is larger than is looked at, or not compressed as its headers say. What is wrong inside it is in
/// [`Preview::errors`].
pub fn preview(state: &IngestState, asked: Asked, headers: &HeaderMap, sent: Bytes) -> Result<Preview, IngestError> {
    let limit = state.max_body.min(MAX_BYTES);
    if sent.len() > limit {
        return Err(IngestError::TooLarge { limit, inflated: false });
    }
    // As the route does, which has to take a body without that header for what senders mean.
    let snappy = asked.protocol == Protocol::Prometheus && !headers.contains_key(CONTENT_ENCODING);
    let encoding = if snappy { Encoding::Snappy } else { Encoding::of(headers)? };
    let body = encoding.inflate(sent, limit)?;
    let now = state.clock.now();
    let found = match asked.protocol {
        Protocol::OpenTsdb => of_opentsdb(&body),
        Protocol::Monasca => of_monasca(&body),
        Protocol::Influx => of_influx(&body, asked.precision, now),
        Protocol::Prometheus => of_prometheus(&body, headers)?,
    };
    Ok(found.judged(state, now))
}

/// What a decoder made of a body.
#[derive(Default)]
struct Found {
    batch: SampleBatch,
    /// Per sample its line; empty when there are none.
    lines: Vec<usize>,
    errors: Vec<PreviewError>,
    failed: usize,
    skipped: usize,
}

impl Found {
    fn nothing(error: PreviewError, failed: usize) -> Self {
        Self { errors: vec![error], failed, ..Self::default() }
    }

    /// Leaves out what the store would refuse. Without known spellings every row names its series by key.
    fn judged(self, state: &IngestState, now: TimeMs) -> Preview {
        let mut errors = self.errors;
        let (mut samples, mut total, mut refused) = (Vec::new(), 0, 0);
        let mut series = vec![false; self.batch.keys().len()];
        for (row, (key, time, value)) in self.batch.rows().enumerate() {
            let line = self.lines.get(row).copied();
            if let Some(why) = state.store.why_not(time, value, now) {
                refused += 1;
                errors.push(PreviewError { line, column: None, message: format!("{}: {why}", key.metric()) });
                continue;
            }
            total += 1;
            if let SeriesRef::Key(at) = self.batch.series()[row] {
                series[at as usize] = true;
            }
            if samples.len() < MAX_SAMPLES {
                let tags = key.tags().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
                samples.push(PreviewSample { line, metric: key.metric().to_owned(), tags, time, value });
            }
        }
        errors.sort_by_key(|error| error.line);
        errors.truncate(MAX_ERRORS);
        let series = series.into_iter().filter(|seen| *seen).count();
        Preview { samples, total, series, errors, failed: self.failed + refused, skipped: self.skipped }
    }
}

fn of_json(error: JsonError) -> Found {
    let JsonError { message, line, column } = error;
    Found::nothing(PreviewError { line: Some(line), column: Some(column), message }, 1)
}

fn of_opentsdb(body: &[u8]) -> Found {
    let decoded = match opentsdb::decode(body, &Known::default()) {
        Ok(decoded) => decoded,
        Err(error) => return of_json(error),
    };
    let lines = json::lines(body);
    let refused: Vec<usize> = decoded.errors.iter().filter_map(|error| error.at).collect();
    let errors = decoded.errors.into_iter().map(|error| PreviewError {
        line: error.at.and_then(|at| lines.get(at).copied()),
        column: None,
        message: error.error,
    });
    let errors = errors.collect();
    // Each point is either a sample or refused. When more are refused than are named, nobody knows which is which.
    let is_told = refused.len() == decoded.failed;
    let good = lines.iter().enumerate().filter(|(at, _)| refused.binary_search(at).is_err());
    let lines = if is_told { good.map(|(_, line)| *line).collect() } else { Vec::new() };
    Found { batch: decoded.batch, lines, errors, failed: decoded.failed, skipped: 0 }
}

fn of_monasca(body: &[u8]) -> Found {
    match monasca::decode(body) {
        Ok(batch) => Found { batch, lines: json::lines(body), ..Found::default() },
        Err(Refusal::Json(error)) => of_json(error),
        // All or nothing: one bad metric is the end of its neighbours, too.
        Err(Refusal::Invalid { description, total, first }) => {
            let line = json::lines(body).get(first).copied();
            Found::nothing(PreviewError { line, column: None, message: description }, total)
        }
    }
}

fn of_influx(body: &[u8], precision: Precision, now: TimeMs) -> Found {
    let decoded = influx::decode(body, precision, now, &Known::default());
    let errors = decoded.errors.into_iter().map(|error| PreviewError {
        line: Some(error.line),
        column: None,
        message: error.reason,
    });
    Found {
        errors: errors.collect(),
        batch: decoded.batch,
        lines: decoded.lines,
        failed: decoded.failed,
        skipped: decoded.skipped_texts,
    }
}

fn of_prometheus(body: &[u8], headers: &HeaderMap) -> Result<Found, IngestError> {
    let content_type = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let content_type = content_type.unwrap_or_default();
    let version = prometheus::Version::of_content_type(&content_type)
        .ok_or_else(|| IngestError::UnknownMessage(content_type.into_owned()))?;
    let decoded = match prometheus::decode(body, version, &Known::default()) {
        Ok(decoded) => decoded,
        Err(error) => {
            let message = IngestError::Wire(error).to_string();
            return Ok(Found::nothing(PreviewError { line: None, column: None, message }, 1));
        }
    };
    let errors = decoded.errors.into_iter().map(|message| PreviewError { line: None, column: None, message });
    Ok(Found {
        errors: errors.collect(),
        batch: decoded.batch,
        lines: Vec::new(),
        failed: decoded.failed,
        skipped: decoded.skipped,
    })
}
