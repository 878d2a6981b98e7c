//! What came in, counted per protocol.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::protocol::Protocol;

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
    /// Points (of Influx: lines; of Prometheus: samples and series) that were refused, each by itself or with its whole request.
    pub rejected: u64,
    /// What was passed over since it is no measurement: fields that hold texts, stale markers, exemplars, histograms.
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
    /// Prometheus.
    pub prometheus: ProtocolCounts,
}

impl IngestCounters {
    /// The counts of one protocol.
    pub fn of(&self, protocol: Protocol) -> &ProtocolCounts {
        match protocol {
            Protocol::OpenTsdb => &self.opentsdb,
            Protocol::Monasca => &self.monasca,
            Protocol::Influx => &self.influx,
            Protocol::Prometheus => &self.prometheus,
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
            prometheus: read(Protocol::Prometheus),
        }
    }
}

/// Adds to a count.
pub(crate) fn add(count: &AtomicU64, more: usize) {
    count.fetch_add(more as u64, Ordering::Relaxed);
}
