//! Every bound of the HTTP surface, by name; and how the program's whole configuration is shown.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Where the value of a setting comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// It follows from another setting.
    Derived,
    /// The configuration file.
    File,
    /// A `TIDEGATE_...` variable.
    Environment,
    /// The command line.
    Flag,
    /// The demo, which sets what it needs.
    Demo,
}

/// A setting of the program as people may see it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Setting {
    /// Its path in the configuration file, such as `store.retention_s`.
    pub path: String,
    /// What is in force; a secret is masked.
    pub value: Value,
    /// Who set it.
    pub origin: Origin,
}

/// Limits and names of the HTTP server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebConfig {
    /// Largest request body in bytes, as it arrives. Larger ones are answered with 413.
    pub max_body_bytes: usize,
    /// Live streams that may be open at once. The next one is answered with 503.
    pub max_sse_clients: usize,
    /// Events kept for a slow live stream; when it falls further behind it is told to start over.
    pub sse_queue: usize,
    /// Decisions that a reconnecting live stream gets again at most.
    pub sse_replay: usize,
    /// Seconds between two snapshots of the fleet on the live stream.
    pub sse_fleet_s: u64,
    /// Seconds between two status events on the live stream.
    pub sse_status_s: u64,
    /// Most buckets that a series answer may have.
    pub max_points: usize,
    /// Most decisions in one answer.
    pub max_decisions: usize,
    /// Rows of an SQL answer when the request does not say.
    pub default_rows: usize,
    /// Seconds until a login in the browser ends.
    pub login_s: u64,
    /// Names or addresses, without port, under which a reverse proxy shows this server to browsers.
    pub public_hosts: Vec<String>,
}

impl Default for WebConfig {
    fn default() -> Self {
        Self {
            max_body_bytes: 16 << 20,
            max_sse_clients: 64,
            sse_queue: 256,
            sse_replay: 500,
            sse_fleet_s: 1,
            sse_status_s: 5,
            max_points: 2_000,
            max_decisions: 1_000,
            default_rows: 10_000,
            login_s: 30 * 86_400,
            public_hosts: Vec::new(),
        }
    }
}
