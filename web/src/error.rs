//! The one place that turns an error into an HTTP answer.
//!
//! Every answer that is not a success is `{"error":{"message", "line"?, "column"?, "endLine"?, "endColumn"?, "help"?}}`.
//! Positions are 1-based and concern the SQL text that was sent.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidegate_policy::{PolicyError, PolicyErrorKind};
use tidegate_store::{QueryError, QueryErrorKind, StoreError};
use utoipa::ToSchema;

/// What can be wrong with this crate's own configuration.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// A token's digest cannot be one.
    #[error("token '{name}': sha256 must be 64 hexadecimal digits; `printf %s TOKEN | sha256sum` prints them")]
    Digest {
        /// The token's name.
        name: String,
    },
    /// A token that may do nothing.
    #[error("token '{name}' has no rights; give it some of push, read, operate, agent")]
    NoRights {
        /// The token's name.
        name: String,
    },
    /// An empty list would lock everybody out.
    #[error("the list of tokens is empty; leave it out to serve loopback without tokens")]
    NoTokens,
}

/// An error on its way to a client.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

/// Every answer that is not a success, but for those of the push routes.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorAnswer {
    error: ErrorBody,
}

/// What is wrong. Positions count from 1 and concern the SQL text that was sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ErrorBody {
    /// For a person.
    message: String,
    /// Line at which it begins.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    /// Column at which it begins.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u64>,
    /// Line at which it ends.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    end_line: Option<u64>,
    /// Column just behind its end.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    end_column: Option<u64>,
    /// What to do about it.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, body: ErrorBody { message: message.into(), ..ErrorBody::default() } }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// A fault of this server; the details go to the log, not to the client.
    pub(crate) fn internal(context: &str, error: impl std::fmt::Display) -> Self {
        tracing::error!(context, %error, "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{context} failed; the server's log says why"))
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.body.help = Some(help.into());
        self
    }

    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The `error` object alone, for answers that carry it beside other things.
    pub(crate) fn into_body(self) -> ErrorBody {
        self.body
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let unauthorized = self.status == StatusCode::UNAUTHORIZED;
        let mut response = (self.status, Json(ErrorAnswer { error: self.body })).into_response();
        if unauthorized {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        let status = match error.kind {
            QueryErrorKind::Syntax | QueryErrorKind::Plan | QueryErrorKind::Refused => StatusCode::BAD_REQUEST,
            QueryErrorKind::Execution | QueryErrorKind::Rows => StatusCode::UNPROCESSABLE_ENTITY,
            QueryErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            QueryErrorKind::Memory => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self {
            status,
            body: ErrorBody {
                message: error.message,
                line: error.line,
                column: error.column,
                end_line: error.end_line,
                end_column: error.end_column,
                help: error.help,
            },
        }
    }
}

impl From<PolicyError> for ApiError {
    fn from(error: PolicyError) -> Self {
        Self {
            status: match error.kind {
                PolicyErrorKind::NotFound => StatusCode::NOT_FOUND,
                PolicyErrorKind::Exists => StatusCode::CONFLICT,
                PolicyErrorKind::Store => StatusCode::INTERNAL_SERVER_ERROR,
                _ => StatusCode::UNPROCESSABLE_ENTITY,
            },
            body: ErrorBody {
                message: error.message,
                line: error.line,
                column: error.column,
                end_line: error.end_line,
                end_column: error.end_column,
                help: error.help,
            },
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::internal("the store", error)
    }
}
