//! A report, which is put together resource by resource.

use utoipa::ToSchema;

/// How what is reserved is known: by bounds, as a share of the host, or by both.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
enum ReservedBy {
    Bounds,
    HostShare,
    Mixed,
}

/// What one resource came to. Integrals are in the unit times seconds.
#[derive(ToSchema)]
struct ReportFigures {
    /// `cores`, `bytes` or `watts`.
    unit: String,
    /// Integral.
    used: f64,
    /// Integral; null when no limit was known at any time.
    allocated: Option<f64>,
    /// Integral; null when nothing tells what is reserved.
    reserved: Option<f64>,
    reserved_by: Option<ReservedBy>,
    /// Used of what was allocated, where both are known.
    utilisation: Option<f64>,
    average: Option<f64>,
    average_allocated: Option<f64>,
    maximum: Option<f64>,
    /// With data; of several containers the sum of theirs.
    time_s: f64,
    /// In which at least one container has data.
    covered_s: f64,
    limited_s: f64,
    /// At 99 % of the limit or above.
    at_limit_s: f64,
    /// Null where nobody measures it.
    throttled_s: Option<f64>,
    oom_kills: Option<f64>,
    changes: i64,
    raised: i64,
    samples: u64,
    gaps: usize,
}

/// All containers together; null for energy where nobody pushes it.
#[derive(ToSchema)]
struct ReportTotal {
    cpu: ReportFigures,
    memory: ReportFigures,
    energy: Option<ReportFigures>,
}

/// One container.
#[derive(ToSchema)]
struct ReportContainer {
    host: String,
    name: String,
    cpu: ReportFigures,
    memory: ReportFigures,
    #[schema(nullable = false)]
    energy: Option<ReportFigures>,
}

/// Means of each bucket, null where nothing is known.
#[derive(ToSchema)]
struct ReportColumns {
    used: Vec<Option<f64>>,
    allocated: Vec<Option<f64>>,
}

/// What there is a chart of.
#[derive(ToSchema)]
struct ReportSeries {
    cpu: ReportColumns,
    memory: ReportColumns,
    #[schema(nullable = false)]
    energy: Option<ReportColumns>,
}

/// What a container, an app or a user used, was allocated and had reserved. Times are in ms UTC.
#[derive(ToSchema)]
pub(crate) struct Report {
    now: i64,
    /// `container`, `app` or `user`.
    kind: String,
    name: String,
    from: i64,
    to: i64,
    total: ReportTotal,
    containers: Vec<ReportContainer>,
    /// Length of a bucket.
    step_ms: i64,
    /// The beginnings of the buckets.
    t: Vec<i64>,
    series: ReportSeries,
    took_ms: u64,
}
