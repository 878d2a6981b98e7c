//! What was pushed, as `tidegate_ingest` has it.

use std::collections::BTreeMap;

use utoipa::ToSchema;

/// What came in through one protocol since the start.
#[derive(ToSchema)]
pub(crate) struct PushCounts {
    /// Requests with a body, whatever became of them.
    requests: u64,
    /// Requests of which nothing was stored.
    failed_requests: u64,
    /// Bytes of the bodies as sent.
    bytes: u64,
    /// Samples stored.
    accepted: u64,
    /// Points or lines that were refused.
    rejected: u64,
    /// What was passed over since it is no measurement.
    skipped: u64,
}

/// What came in through each protocol.
#[derive(ToSchema)]
pub(crate) struct Pushed {
    opentsdb: PushCounts,
    monasca: PushCounts,
    influx: PushCounts,
    prometheus: PushCounts,
}

/// One sample that would be stored.
#[derive(ToSchema)]
struct PreviewSample {
    /// The line of the body, from 1, where that has lines.
    line: Option<usize>,
    metric: String,
    tags: BTreeMap<String, String>,
    /// In ms UTC.
    time: i64,
    value: f64,
}

/// Why something would be refused.
#[derive(ToSchema)]
struct PreviewError {
    /// The line of the body, from 1, where that has lines.
    line: Option<usize>,
    /// The column in bytes, from 1, where it is known.
    column: Option<usize>,
    message: String,
}

/// What a body would become.
#[derive(ToSchema)]
pub(crate) struct IngestPreview {
    /// The first samples that would be stored.
    samples: Vec<PreviewSample>,
    /// How many would be stored in all.
    total: usize,
    /// Of how many series.
    series: usize,
    /// What would be refused, the first of it.
    errors: Vec<PreviewError>,
    /// How many points or lines would be refused in all.
    failed: usize,
    /// What would be passed over since it is no measurement.
    skipped: usize,
}
