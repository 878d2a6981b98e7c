//! The push routes. They are `tidegate_ingest`'s, which knows nothing of OpenAPI; here they are only described. Those that
//! are there with a slash at the end, too, are described without it.

#![expect(dead_code, reason = "functions and types that only describe")]

use std::collections::BTreeMap;

use utoipa::{OpenApi, ToSchema};

#[derive(OpenApi)]
#[openapi(paths(opentsdb, monasca, monasca_version, influx_v1, influx_v2, influx_ping, prometheus))]
pub(super) struct Pushed;

/// A number, or one in quotes.
#[derive(ToSchema)]
#[serde(untagged)]
enum NumberOrText {
    Number(f64),
    Text(String),
}

/// One measurement.
#[derive(ToSchema)]
struct OpenTsdbPoint {
    #[schema(example = "queue.depth")]
    metric: String,
    /// In seconds or in ms.
    timestamp: NumberOrText,
    value: NumberOrText,
    /// At least one.
    tags: BTreeMap<String, String>,
}

/// One measurement or several.
#[derive(ToSchema)]
#[serde(untagged)]
enum OpenTsdbBody {
    One(OpenTsdbPoint),
    Several(Vec<OpenTsdbPoint>),
}

/// What became of the points, with `summary` or `details`.
#[derive(ToSchema)]
struct OpenTsdbReport {
    /// Points stored.
    success: usize,
    /// Points refused.
    failed: usize,
    /// With `details`: each refused point.
    #[schema(nullable = false)]
    errors: Option<Vec<OpenTsdbPointError>>,
}

/// A refused point and why.
#[derive(ToSchema)]
struct OpenTsdbPointError {
    /// The point as it was understood; null for what is no object.
    datapoint: Option<OpenTsdbUnderstood>,
    error: String,
}

/// A point as an answer repeats it.
#[derive(ToSchema)]
struct OpenTsdbUnderstood {
    #[schema(nullable = false)]
    metric: Option<String>,
    /// As it was sent, cut to an integer; 0 when it was none.
    timestamp: i64,
    #[schema(nullable = false)]
    value: Option<String>,
    #[schema(nullable = false)]
    tags: Option<BTreeMap<String, String>>,
}

/// OpenTSDB's error.
#[derive(ToSchema)]
struct OpenTsdbError {
    error: OpenTsdbErrorBody,
}

/// What is wrong.
#[derive(ToSchema)]
struct OpenTsdbErrorBody {
    /// The HTTP status.
    code: u16,
    message: String,
    #[schema(nullable = false)]
    details: Option<String>,
}

/// What is wrong with a request, or, with `summary` or `details`, with which of its points.
#[derive(ToSchema)]
#[serde(untagged)]
enum OpenTsdbRefusal {
    All(OpenTsdbError),
    Some(OpenTsdbReport),
}

/// Stores measurements as OpenTSDB 2 takes them.
///
/// An object or an array of them, also compressed. `?summary` and `?details` want to be told what became of the points.
#[utoipa::path(
    post, path = "/api/put", tag = "Push",
    params(
        ("summary" = Option<String>, Query, description = "Answer with counts; its presence is what matters"),
        ("details" = Option<String>, Query, description = "Answer with counts and each refused point"),
    ),
    request_body(content = OpenTsdbBody),
    responses(
        (status = 200, description = "All are stored, with `summary` or `details`", body = OpenTsdbReport),
        (status = 204, description = "All are stored"),
        (status = 400, description = "Not readable, or some points are refused and the others stored",
            body = OpenTsdbRefusal),
        (status = 413, description = "The body is too large", body = OpenTsdbError),
        (status = 415, description = "The encoding is not known", body = OpenTsdbError),
        (status = 500, description = "Nothing could be stored", body = OpenTsdbError),
    ),
)]
fn opentsdb() {}

/// One measurement.
#[derive(ToSchema)]
struct MonascaMetric {
    #[schema(example = "queue.depth")]
    name: String,
    #[schema(nullable = false)]
    dimensions: Option<BTreeMap<String, String>>,
    /// In ms UTC.
    timestamp: f64,
    value: f64,
    /// Checked, and not kept.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    value_meta: Option<BTreeMap<String, String>>,
}

/// One measurement or several.
#[derive(ToSchema)]
#[serde(untagged)]
enum MonascaBody {
    One(MonascaMetric),
    Several(Vec<MonascaMetric>),
}

/// Monasca's error.
#[derive(ToSchema)]
struct MonascaError {
    title: String,
    description: String,
}

/// Stores measurements as Monasca takes them.
///
/// One invalid metric is the end of all of them.
#[utoipa::path(
    post, path = "/v2.0/metrics", tag = "Push",
    request_body(content = MonascaBody),
    responses(
        (status = 204, description = "All are stored"),
        (status = 400, description = "Not readable", body = MonascaError),
        (status = 413, description = "The body is too large", body = MonascaError),
        (status = 415, description = "The encoding is not known", body = MonascaError),
        (status = 422, description = "A metric is invalid and nothing is stored, or the store refused some", body = MonascaError),
        (status = 500, description = "Nothing could be stored", body = MonascaError),
    ),
)]
fn monasca() {}

/// Monasca's version document.
#[derive(ToSchema)]
struct MonascaVersion {
    id: String,
    links: Vec<MonascaLink>,
    status: String,
    updated: String,
}

/// Where a document is.
#[derive(ToSchema)]
struct MonascaLink {
    rel: String,
    href: String,
}

/// Says which version of Monasca's API this is.
#[utoipa::path(
    get, path = "/v2.0", tag = "Push",
    responses((status = 200, description = "The version", body = MonascaVersion)),
)]
fn monasca_version() {}

/// InfluxDB 1's error.
#[derive(ToSchema)]
struct InfluxV1Error {
    error: String,
}

/// Stores lines as InfluxDB 1 takes them.
///
/// A field that holds a number becomes the metric `measurement.field`. Good lines are stored also when others are refused.
#[utoipa::path(
    post, path = "/write", tag = "Push",
    params(
        ("precision" = Option<String>, Query, description = "Unit of the timestamps: `ns`, `us`, `ms`, `s`, `m` or `h`"),
        ("db" = Option<String>, Query, description = "Taken and not looked at"),
    ),
    request_body(content = String, content_type = "text/plain", description = "Line protocol, also compressed",
        example = "queue,host=node0,container=web depth=3"),
    responses(
        (status = 204, description = "All lines are stored"),
        (status = 400, description = "Not readable, or a partial write, which names the refused lines", body = InfluxV1Error),
        (status = 413, description = "The body is too large", body = InfluxV1Error),
        (status = 415, description = "The encoding is not known", body = InfluxV1Error),
        (status = 500, description = "Nothing could be stored", body = InfluxV1Error),
    ),
)]
fn influx_v1() {}

/// InfluxDB 2's error.
#[derive(ToSchema)]
struct InfluxV2Error {
    code: String,
    message: String,
}

/// Stores lines as InfluxDB 2 takes them.
///
/// As `/write`, with errors in the form of version 2.
#[utoipa::path(
    post, path = "/api/v2/write", tag = "Push",
    params(
        ("precision" = Option<String>, Query, description = "Unit of the timestamps: `ns`, `us`, `ms` or `s`"),
        ("org" = Option<String>, Query, description = "Taken and not looked at"),
        ("bucket" = Option<String>, Query, description = "Taken and not looked at"),
    ),
    request_body(content = String, content_type = "text/plain", description = "Line protocol, also compressed",
        example = "queue,host=node0,container=web depth=3"),
    responses(
        (status = 204, description = "All lines are stored"),
        (status = 400, description = "Not readable, or a partial write, which names the refused lines", body = InfluxV2Error),
        (status = 413, description = "The body is too large", body = InfluxV2Error),
        (status = 415, description = "The encoding is not known", body = InfluxV2Error),
        (status = 500, description = "Nothing could be stored", body = InfluxV2Error),
    ),
)]
fn influx_v2() {}

/// Answers clients of InfluxDB that look whether it is there.
#[utoipa::path(get, path = "/ping", tag = "Push", responses((status = 204, description = "It is")))]
fn influx_ping() {}

/// An error of remote write.
#[derive(ToSchema)]
struct RemoteWriteError {
    error: String,
}

/// Stores samples as Prometheus sends them.
///
/// Remote write 1.0 and 2.0. Exemplars and histograms are passed over.
#[utoipa::path(
    post, path = "/api/v1/write", tag = "Push",
    request_body(content = super::shapes::Binary, content_type = "application/x-protobuf",
        description = "A `prometheus.WriteRequest` or an `io.prometheus.write.v2.Request`, compressed with snappy or gzip"),
    responses(
        (status = 204, description = "All samples are stored"),
        (status = 400, description = "Not readable, or some samples are refused and the others stored", body = RemoteWriteError),
        (status = 413, description = "The body is too large", body = RemoteWriteError),
        (status = 415, description = "The message or the encoding is not known", body = RemoteWriteError),
        (status = 500, description = "Nothing could be stored", body = RemoteWriteError),
    ),
)]
fn prometheus() {}
