//! `/api/v1/sql`: any question, in the format that the client wants.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;
use tidegate_model::TimeMs;
use tidegate_policy::Engine;
use tidegate_store::{MAX_SQL_BYTES, Parameter, QueryResult, export};
use utoipa::ToSchema;

use super::rules::{self, StatementResults};
use crate::App;
use crate::auth::{Caller, Right};
use crate::error::{ApiError, ErrorAnswer};
use crate::extract::{Params, Text};
use crate::openapi::shapes::Binary;

/// Values of an answer that are encoded where they were found: it takes less than handing them on.
const FEW_CELLS: usize = 20_000;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    Json,
    Ndjson,
    Csv,
    Arrow,
    Parquet,
}

impl Format {
    fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Ndjson => "application/x-ndjson",
            Format::Csv => "text/csv; charset=utf-8",
            Format::Arrow => "application/vnd.apache.arrow.stream",
            Format::Parquet => "application/vnd.apache.parquet",
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Ndjson => "ndjson",
            Format::Csv => "csv",
            Format::Arrow => "arrows",
            Format::Parquet => "parquet",
        }
    }

    /// The first format in `Accept` that is known here.
    fn accepted(headers: &HeaderMap) -> Option<Self> {
        let given = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        given.flat_map(|value| value.split(',')).find_map(|one| {
            match one.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
                "application/json" | "*/*" => Some(Format::Json),
                "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Some(Format::Ndjson),
                "text/csv" => Some(Format::Csv),
                "application/vnd.apache.arrow.stream" => Some(Format::Arrow),
                "application/vnd.apache.parquet" => Some(Format::Parquet),
                _ => None,
            }
        })
    }
}

/// A question and how to answer it: a JSON body, or all but `sql` in the query string.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SqlQuestion)]
pub(crate) struct Question {
    /// One statement. It stands in the body only.
    #[schema(
        required,
        nullable = false,
        example = "SELECT container, avg(value) AS cores FROM usage WHERE resource = 'cpu' GROUP BY container"
    )]
    sql: Option<String>,
    /// As `Accept` says, or JSON, when not given.
    format: Option<Format>,
    /// Most rows; the server's own bound holds, too.
    limit: Option<usize>,
    /// Longest time; the server's own bound holds, too.
    timeout_ms: Option<u64>,
    /// What `now()` is, in ms UTC; the present when not given.
    #[schema(value_type = Option<i64>)]
    now: Option<TimeMs>,
    /// When it is there, browsers save the answer to a file.
    download: Option<String>,
    params: Option<Values>,
}

/// Values of `$1, $2, ..` in a list, or of `$name` by their names: texts, numbers, booleans or null.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = SqlParameters)]
enum Values {
    InOrder(Vec<Value>),
    ByName(BTreeMap<String, Value>),
}

/// The rows of an answer.
#[derive(ToSchema)]
#[expect(dead_code, reason = "written by `tidegate_store::export`, which does not make a value of it")]
struct SqlRows {
    columns: Vec<SqlColumn>,
    /// One list a row, with a value a column.
    rows: Vec<Vec<Value>>,
    /// Whether there were more rows than `limit`.
    truncated: bool,
    took_ms: f64,
}

/// A column of an answer.
#[derive(ToSchema)]
#[expect(dead_code, reason = "as `SqlRows`")]
struct SqlColumn {
    name: String,
    /// Its SQL type.
    r#type: String,
}

/// Rows, or what rule statements did.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "as `SqlRows`")]
enum SqlAnswer {
    Rows(SqlRows),
    Statements(StatementResults),
}

impl Values {
    fn parameters(self) -> Result<Vec<(String, Parameter)>, ApiError> {
        let named: Vec<(String, Value)> = match self {
            Values::InOrder(values) => (1..).zip(values).map(|(place, value)| (place.to_string(), value)).collect(),
            Values::ByName(values) => values.into_iter().collect(),
        };
        let parameter = |(name, value): (String, Value)| {
            let value = match value {
                Value::Null => Parameter::Null,
                Value::Bool(value) => Parameter::Boolean(value),
                Value::Number(value) => Parameter::Number(value.to_string()),
                Value::String(value) => Parameter::Text(value),
                Value::Array(_) | Value::Object(_) => {
                    let message = format!("the parameter ${name} is neither a text nor a number, boolean or null");
                    return Err(ApiError::bad_request(message));
                }
            };
            Ok((name, value))
        };
        named.into_iter().map(parameter).collect()
    }
}

/// Answers one query, or applies rule statements.
///
/// The body is a JSON object, or the SQL itself; then all but `sql` may stand in the address. Queries only read, are bounded
/// in memory and time, and end when the client leaves. Statements that change rules need the right `operate`.
#[utoipa::path(
    post, path = "/api/v1/sql", tag = "SQL",
    params(
        ("format" = inline(Option<Format>), Query, description = "As in the body"),
        ("limit" = Option<usize>, Query, description = "As in the body"),
        ("timeout_ms" = Option<u64>, Query, description = "As in the body"),
        ("now" = Option<i64>, Query, description = "As in the body"),
        ("download" = Option<String>, Query, description = "As in the body"),
    ),
    request_body(content((Question = "application/json"), (String = "text/plain"))),
    responses(
        (status = 200, description = "The answer, in the form that was asked for",
            headers(("x-tidegate-truncated" = bool, description = "Whether there were more rows than `limit`")),
            content(
                (SqlAnswer = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"),
                (Binary = "application/vnd.apache.arrow.stream"), (Binary = "application/vnd.apache.parquet"),
            )),
        (status = 400, description = "The statement is wrong; the place is named", body = ErrorAnswer),
        (status = 404, description = "There is no rule of that name", body = ErrorAnswer),
        (status = 409, description = "There is a rule of that name", body = ErrorAnswer),
        (status = 413, description = "The statement is too long", body = ErrorAnswer),
        (status = 422, description = "It failed on the data, or a rule is wrong", body = ErrorAnswer),
        (status = 503, description = "It needs more memory than it may have", body = ErrorAnswer),
        (status = 504, description = "It took longer than it may", body = ErrorAnswer),
    ),
)]
pub(crate) async fn sql(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(in_query): Params<Question>,
    headers: HeaderMap,
    body: Text,
) -> Result<Response, ApiError> {
    let in_body = question(body, &headers)?;
    let sql = in_body.sql.ok_or_else(|| ApiError::bad_request("the body has no 'sql'"))?;
    // Before the first look at the text, which costs time for each byte on a thread that others wait for.
    if sql.len() > MAX_SQL_BYTES {
        let message = format!("the text is longer than {} KiB", MAX_SQL_BYTES / 1024);
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    if Engine::is_rule_statement(&sql) {
        caller.require(if only_shows(&sql) { Right::Read } else { Right::Operate })?;
        return Ok(rules::execute(&app, &sql, &caller).await?.into_response());
    }
    let mut options = app.store.default_query_options(in_body.now.or(in_query.now).unwrap_or_else(|| app.clock.now()));
    let limit = in_body.limit.or(in_query.limit).unwrap_or(app.config.default_rows);
    let timeout = in_body.timeout_ms.or(in_query.timeout_ms).map_or(options.timeout, Duration::from_millis);
    options.max_rows = limit.min(options.max_rows);
    options.timeout = timeout.min(options.timeout);
    if let Some(values) = in_body.params {
        options.parameters = values.parameters()?;
    }
    let format = in_body.format.or(in_query.format).or_else(|| Format::accepted(&headers)).unwrap_or(Format::Json);
    let finish = move |result: QueryResult| {
        let cells = result.num_rows() * result.schema.fields().len().max(1);
        let (took, truncated) = (result.took, result.truncated);
        let bytes = if cells <= FEW_CELLS { Bytes::Encoded(encode(&result, format)) } else { Bytes::Later(result) };
        Answer { took, truncated, bytes }
    };
    // Dropped with this request when the client leaves, and the query with it.
    let answer = app.store.query_with(&sql, &options, finish).await?;
    answer.response(format, in_body.download.or(in_query.download).is_some()).await
}

fn question(body: Text, headers: &HeaderMap) -> Result<Question, ApiError> {
    let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if declared.contains("json") || body.0.trim_start().starts_with('{') {
        return body.json();
    }
    Ok(Question { sql: Some(body.0), ..Question::default() })
}

/// Whether the text is one `SHOW RULES` and so needs no right to change anything.
fn only_shows(sql: &str) -> bool {
    let sql = sql.trim().trim_end_matches(';');
    !sql.contains(';') && sql.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("show"))
}

/// An answer on its way to the client.
struct Answer {
    took: Duration,
    truncated: bool,
    bytes: Bytes,
}

enum Bytes {
    Encoded(Result<Vec<u8>, ApiError>),
    /// Encoding takes long, so it gets a thread of its own.
    Later(QueryResult),
}

impl Answer {
    async fn response(self, format: Format, download: bool) -> Result<Response, ApiError> {
        let started = Instant::now();
        let bytes = match self.bytes {
            Bytes::Encoded(bytes) => bytes?,
            Bytes::Later(result) => match tokio::task::spawn_blocking(move || encode(&result, format)).await {
                Ok(bytes) => bytes?,
                Err(error) => return Err(ApiError::internal("encoding the answer", error)),
            },
        };
        tracing::debug!(
            took_ms = self.took.as_millis() as u64,
            encoding_ms = started.elapsed().as_millis() as u64,
            "query answered"
        );
        let mut response = bytes.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        headers.insert(
            HeaderName::from_static("x-tidegate-truncated"),
            HeaderValue::from_static(if self.truncated { "true" } else { "false" }),
        );
        if download {
            let disposition = format!("attachment; filename=\"tidegate.{}\"", format.extension());
            if let Ok(value) = HeaderValue::from_str(&disposition) {
                headers.insert(header::CONTENT_DISPOSITION, value);
            }
        }
        Ok(response)
    }
}

fn encode(result: &QueryResult, format: Format) -> Result<Vec<u8>, ApiError> {
    let QueryResult { schema, batches, .. } = result;
    let encoded = match format {
        Format::Json => export::json(result),
        Format::Ndjson => export::ndjson(batches),
        Format::Csv => export::csv(schema, batches),
        Format::Arrow => export::arrow_stream(schema, batches),
        Format::Parquet => export::parquet(schema, batches),
    };
    // Depends on the columns that were asked for, so the client can do something about it.
    encoded.map_err(|error| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}
