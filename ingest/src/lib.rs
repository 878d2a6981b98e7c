//! Turns what clients push into samples: one file a wire format, and the HTTP routes that accept it.
//!
//! Owns the decoders, their answers in each protocol's own words, and the bounds on what a request may inflate to.
//! Decoders are plain functions from bytes to samples and errors. Never authenticates, queries or keeps samples itself:
//! the store has acknowledged a batch before a client gets an answer.
//!
//! Without the feature `routes`, which is on by default, only the decoders remain; they depend on nothing but the model.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod decimal;
mod json;
mod protocol;
mod spellings;

pub mod influx;
pub mod monasca;
pub mod opentsdb;
pub mod prometheus;

#[cfg(feature = "routes")]
pub mod arrow;
#[cfg(feature = "routes")]
mod body;
#[cfg(feature = "routes")]
mod counters;
#[cfg(feature = "routes")]
mod error;
#[cfg(feature = "routes")]
mod preview;
#[cfg(feature = "routes")]
mod routes;

pub use json::JsonError;
pub use protocol::Protocol;
pub use spellings::{Known, Learnt, Spellings};
#[cfg(feature = "routes")]
pub use {
    counters::{Counters, IngestCounters, ProtocolCounts},
    error::IngestError,
    preview::{Asked, Preview, PreviewError, PreviewSample, preview},
    routes::{IngestState, routes, store_batch},
};
