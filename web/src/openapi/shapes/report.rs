//! A report, which is put together resource by resource.

use utoipa::ToSchema;

use crate::api::report::Figures;

/// All containers together; null for energy where nobody pushes it.
#[derive(ToSchema)]
struct ReportTotal {
    cpu: Figures,
    memory: Figures,
    energy: Option<Figures>,
}

/// One container.
#[derive(ToSchema)]
struct ReportContainer {
    host: String,
    name: String,
    cpu: Figures,
    memory: Figures,
    #[schema(nullable = false)]
    energy: Option<Figures>,
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
