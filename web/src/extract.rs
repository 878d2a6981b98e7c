//! Extractors whose refusals are this API's JSON errors.

use std::net::SocketAddr;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// Query parameters.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(ApiError::new(rejection.status(), lower_first(&rejection.body_text()))),
        }
    }
}

/// Segments of the path, decoded.
pub(crate) struct Segments<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(segments)) => Ok(Self(segments)),
            Err(rejection) => Err(ApiError::new(rejection.status(), lower_first(&rejection.body_text()))),
        }
    }
}

/// Where a request comes from; empty when nobody knows, as in tests without a socket.
pub(crate) struct Address(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Address {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let from = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        Ok(Self(from.map_or_else(String::new, |ConnectInfo(address)| address.ip().to_string())))
    }
}

/// The whole body as text.
pub(crate) struct Text(pub(crate) String);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| ApiError::new(rejection.status(), lower_first(&rejection.body_text())))?;
        match String::from_utf8(bytes.to_vec()) {
            Ok(text) => Ok(Self(text)),
            Err(error) => Err(ApiError::bad_request(format!("the body is not UTF-8: {}", error.utf8_error()))),
        }
    }
}

impl Text {
    /// Reads the body as JSON, whatever its content type says.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_str(&self.0)
            .map_err(|error| ApiError::bad_request(format!("the body is not as expected: {error}")))
    }

    /// As [`Text::json`], of a program that may be a release ahead: what it says of resources that are unknown here is left out.
    pub(crate) fn json_of_agent<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let (value, unknown) = tidegate_model::from_json(self.0.as_bytes())
            .map_err(|error| ApiError::bad_request(format!("the body is not as expected: {error}")))?;
        if !unknown.is_empty() {
            tracing::warn!(?unknown, "an agent tells of resources that are not known here; they are left out");
        }
        Ok(value)
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().collect::<String>() + chars.as_str())
}
