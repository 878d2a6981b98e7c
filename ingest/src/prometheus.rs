//! Prometheus' remote write, `POST /api/v1/write`: versions 1.0 and 2.0 of the protocol.
//!
//! The label `__name__` is the metric, the others are tags; a label without a value is the same as none, as in Prometheus.
//! Samples are kept, and what has no place here is counted and passed over: exemplars, histograms, metadata, and the stale
//! markers with which Prometheus says that a series has ended.
//!
//! A bad sample or series is refused by name and its neighbours are kept. A body that is no message of the protocol is
//! refused as a whole. The formats: `prometheus/prompb` in Prometheus' source, and
//! <https://prometheus.io/docs/specs/prw/remote_write_spec_2_0/>.

mod message;
mod wire;

use serde::Serialize;
use tidegate_model::SampleBatch;

pub use wire::WireError;

use crate::opentsdb::Answer;
use crate::protocol::Protocol;
use crate::spellings::{Known, Learnt};

/// How many refused samples and series an answer names; the rest is only counted.
const MAX_NAMED: usize = 5;

/// Which message a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `prometheus.WriteRequest`.
    V1,
    /// `io.prometheus.write.v2.Request`.
    V2,
}

impl Version {
    /// Reads a `Content-Type`; `None` when it is another protocol's. A missing one means version 1.
    pub fn of_content_type(value: &str) -> Option<Self> {
        let mut parts = value.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        if media_type.is_empty() {
            return Some(Self::V1);
        }
        if !media_type.eq_ignore_ascii_case("application/x-protobuf") {
            return None;
        }
        let message = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("proto").then(|| value.trim().trim_matches('"'))
        });
        match message {
            None | Some("prometheus.WriteRequest") => Some(Self::V1),
            Some("io.prometheus.write.v2.Request") => Some(Self::V2),
            Some(_) => None,
        }
    }
}

/// What a body held.
#[derive(Debug)]
pub struct Decoded {
    /// The good samples in their order.
    pub batch: SampleBatch,
    /// How their series are spelt, as far as it was not known.
    pub learnt: Learnt,
    /// Per sample of `batch`, the position of its series in the body.
    pub series: Vec<u32>,
    /// The refused samples and series, the first few of them.
    pub errors: Vec<String>,
    /// The number of all refused samples, and of refused series.
    pub failed: usize,
    /// The number of stale markers, exemplars and histograms that were passed over.
    pub skipped: usize,
}

impl Decoded {
    fn new(body_bytes: usize) -> Self {
        /// What a series with one sample takes at least, for a first guess at their number.
        const USUAL_SERIES_BYTES: usize = 80;
        let samples = body_bytes / USUAL_SERIES_BYTES + 1;
        Self {
            batch: SampleBatch::with_capacity(samples),
            learnt: Learnt::new(Protocol::Prometheus),
            series: Vec::with_capacity(samples),
            errors: Vec::new(),
            failed: 0,
            skipped: 0,
        }
    }

    /// Names a sample that the store refused, of the series `name`. Panics if the batch has no such row.
    pub fn refuse(&mut self, row: usize, name: &str, reason: &str) {
        self.note(self.series[row], || format!("{name}: {reason}"));
    }

    /// Counts samples that the store refused without naming them.
    pub fn refuse_unnamed(&mut self, count: usize) {
        self.failed += count;
    }

    fn note(&mut self, series: u32, reason: impl FnOnce() -> String) {
        self.failed += 1;
        if self.errors.len() < MAX_NAMED {
            self.errors.push(format!("timeseries {series}: {}", reason()));
        }
    }
}

/// Reads a message, already unpacked from its compression. Bad samples and series are in [`Decoded::errors`].
///
/// # Errors
/// When the bytes are not such a message.
pub fn decode(body: &[u8], version: Version, known: &Known) -> Result<Decoded, WireError> {
    match version {
        Version::V1 => message::read_v1(body, known),
        Version::V2 => message::read_v2(body, known),
    }
}

/// The answer when `stored` samples are in the store and those in `decoded` are refused.
///
/// 400 and never 5xx for those: a sender repeats the latter, and the same samples would be refused again.
pub fn answer(decoded: &Decoded, stored: usize) -> Answer {
    if decoded.failed == 0 {
        return (204, None);
    }
    let mut named = decoded.errors.clone();
    if decoded.failed > named.len() {
        named.push(format!("{} more are refused", decoded.failed - named.len()));
    }
    let text = match stored {
        0 => named.join("; "),
        stored => format!("{}; the other {stored} are stored", named.join("; ")),
    };
    error_answer(400, &text)
}

/// An error. Senders log its text.
pub fn error_answer(status: u16, message: &str) -> Answer {
    #[derive(Serialize)]
    struct Body<'a> {
        error: &'a str,
    }
    (status, Some(serde_json::to_string(&Body { error: message }).expect("texts always have a JSON form")))
}

#[cfg(test)]
mod tests;
