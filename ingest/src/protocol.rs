//! The wire formats by name.

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
    /// `/api/v1/write`.
    Prometheus,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::OpenTsdb, Self::Monasca, Self::Influx, Self::Prometheus];

    /// The protocol of a name that [`Protocol::as_str`] gives.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.as_str() == name)
    }

    /// The name, as a label of a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenTsdb => "opentsdb",
            Self::Monasca => "monasca",
            Self::Influx => "influx",
            Self::Prometheus => "prometheus",
        }
    }
}
