//! What came in, counted per protocol.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// The wire formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// `/api/put`.
    OpenTsdb,
    /// `/v2.0/metrics`.
    Monasca,
    /// `/write` and `/api/v2/write`.
    Influx,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::OpenTsdb, Self::Monasca, Self::Influx];

    /// The name, as a label of a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenTsdb => "opentsdb",
            Self::Monasca => "monasca",
            Self::Influx => "influx",
        }
    }
}

/// Counts since the start of one protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProtocolCounts {
    /// Requests with a body, whatever became of them.
    pub requests: u64,
    /// Requests of which nothing was stored: not readable, too large, or the store failed.
    pub failed_requests: u64,
    /// Bytes of the bodies as sent.
    pub bytes: u64,
    /// Samples stored.
    pub accepted: u64,
    /// Points (of Influx: lines) that were refused, each by itself or with its whole request.
    pub rejected: u64,
    /// Fields that were skipped since they are no measurements.
    pub skipped: u64,
}

/// Counts of all protocols at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IngestCounters {
    /// OpenTSDB.
    pub opentsdb: ProtocolCounts,
    /// Monasca.
    pub monasca: ProtocolCounts,
    /// InfluxDB.
    pub influx: ProtocolCounts,
}

impl IngestCounters {
    /// The counts of one protocol.
    pub fn of(&self, protocol: Protocol) -> &ProtocolCounts {
        match protocol {
            Protocol::OpenTsdb => &self.opentsdb,
            Protocol::Monasca => &self.monasca,
            Protocol::Influx => &self.influx,
        }
    }

    /// Samples stored over all protocols.
    pub fn accepted(&self) -> u64 {
        Protocol::ALL.iter().map(|protocol| self.of(*protocol).accepted).sum()
    }
}

/// The running counts, shared between requests.
#[derive(Debug, Default)]
pub struct Counters([Counts; Protocol::ALL.len()]);

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) requests: AtomicU64,
    pub(crate) failed_requests: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) skipped: AtomicU64,
}

impl Counters {
    pub(crate) fn of(&self, protocol: Protocol) -> &Counts {
        &self.0[protocol as usize]
    }

    /// The counts now. They are read one after the other, so a request under way may be in some of them only.
    pub fn snapshot(&self) -> IngestCounters {
        let read = |protocol| {
            let counts = self.of(protocol);
            let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
            ProtocolCounts {
                requests: get(&counts.requests),
                failed_requests: get(&counts.failed_requests),
                bytes: get(&counts.bytes),
                accepted: get(&counts.accepted),
                rejected: get(&counts.rejected),
                skipped: get(&counts.skipped),
            }
        };
        IngestCounters {
            opentsdb: read(Protocol::OpenTsdb),
            monasca: read(Protocol::Monasca),
            influx: read(Protocol::Influx),
        }
    }
}

/// Adds to a count.
pub(crate) fn add(count: &AtomicU64, more: usize) {
    count.fetch_add(more as u64, Ordering::Relaxed);
}
