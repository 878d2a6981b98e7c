//! Why a request is refused as a whole. Each protocol puts these into its own shape.

use std::io;

use tidegate_store::StoreError;

use crate::json::JsonError;
use crate::prometheus::WireError;

/// Why nothing of a request was stored.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The body, as sent or inflated, is longer than is accepted.
    #[error("body is larger than {limit} bytes{}: send smaller batches", if *.inflated { " when inflated" } else { "" })]
    TooLarge {
        /// The bound in bytes.
        limit: usize,
        /// Whether the bound was passed while inflating.
        inflated: bool,
    },
    /// The body is compressed in a way that is not known.
    #[error("content encoding '{0}' is not supported: use gzip, deflate, snappy or none")]
    UnknownEncoding(String),
    /// The body is not what its `Content-Encoding` says.
    #[error("body is not valid {encoding}: {source}")]
    Inflate {
        /// What it should be.
        encoding: &'static str,
        /// What is wrong.
        source: io::Error,
    },
    /// The connection broke before the body was complete.
    #[error("body was not received completely: {0}")]
    Receive(axum::Error),
    /// The body's type is not the one that the protocol wants.
    #[error("content type must be {wanted}, found '{found}'")]
    ContentType {
        /// What is wanted.
        wanted: &'static str,
        /// What was sent, possibly nothing.
        found: String,
    },
    /// The body is not snappy, though its `Content-Encoding` or its protocol says so.
    #[error("body is not valid snappy: {0}")]
    Snappy(snap::Error),
    /// The body is not JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The body is not the message that it should be.
    #[error("body is not a remote-write message: {0}")]
    Wire(#[from] WireError),
    /// The body's type is another protocol's.
    #[error(
        "content type '{0}' is not supported: use application/x-protobuf with proto=prometheus.WriteRequest or \
         proto=io.prometheus.write.v2.Request"
    )]
    UnknownMessage(String),
    /// A parameter of the query string has no meaning.
    #[error("parameter {name} is '{value}': use {allowed}")]
    Parameter {
        /// Its name.
        name: &'static str,
        /// What was sent.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The store could not write.
    #[error("samples could not be stored: {0}")]
    Store(#[from] StoreError),
    /// Decoding ended in a panic, or the server is going down.
    #[error("request was interrupted: {0}")]
    Interrupted(String),
}

impl IngestError {
    /// The HTTP status. Never 429 or 503: BDWatchdog's feeder takes both for a reason to send again at once, and gives
    /// up for good after a few attempts.
    pub fn status(&self) -> u16 {
        match self {
            Self::TooLarge { .. } => 413,
            Self::UnknownEncoding(_) | Self::UnknownMessage(_) => 415,
            Self::Inflate { .. }
            | Self::Snappy(_)
            | Self::Wire(_)
            | Self::Receive(_)
            | Self::ContentType { .. }
            | Self::Json(_)
            | Self::Parameter { .. } => 400,
            Self::Store(_) | Self::Interrupted(_) => 500,
        }
    }
}
