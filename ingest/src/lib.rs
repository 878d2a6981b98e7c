//! Turns what clients push into samples: one file a wire format, and the HTTP routes that accept it.
//!
//! Owns the decoders, their answers in each protocol's own words, and the bounds on what a request may inflate to.
//! Decoders are plain functions from bytes to samples and errors. Never authenticates, queries or keeps samples itself:
//! the store has acknowledged a batch before a client gets an answer.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod body;
mod counters;
mod error;
mod json;
mod routes;

pub mod influx;
pub mod monasca;
pub mod opentsdb;

pub use counters::{Counters, IngestCounters, Protocol, ProtocolCounts};
pub use error::IngestError;
pub use json::JsonError;
pub use routes::{IngestState, routes, store_batch};
