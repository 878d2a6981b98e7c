//! How a store is set up.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidegate_model::Resource;

use crate::remote::ObjectStoreConfig;

/// What an acknowledged append has survived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// `fdatasync` before the acknowledgement: survives a power cut. Waiting writers share one call.
    Fsync,
    /// `write` before the acknowledgement, `fdatasync` every second: survives `kill -9`; a power cut may cost a second.
    #[default]
    Interval,
    /// `write` before the acknowledgement, `fdatasync` left to the kernel: survives `kill -9`.
    None,
}

/// Everything that can be set about a store. Times carry their unit in the name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The data directory; made when it does not exist.
    pub dir: PathBuf,
    /// What an acknowledged append has survived.
    pub durability: Durability,
    /// Age at which segments are removed.
    pub retention_s: u64,
    /// How long samples stay in memory before a background flush may write them to a segment.
    pub hot_s: u64,
    /// How often the background flush runs.
    pub flush_every_s: u64,
    /// Samples in memory that make the background flush write everything at once, whatever its age.
    pub max_hot_samples: usize,
    /// Samples further than this ahead of the server's clock are refused.
    pub max_future_s: u64,
    /// Samples older than this are refused; the retention when not set.
    pub max_past_s: Option<u64>,
    /// Series after which new ones are refused; existing ones go on.
    pub max_series: usize,
    /// Where segments are stored besides the data directory.
    pub object_store: Option<ObjectStoreConfig>,
    /// Bytes of segments that may stay in the data directory when the object store has them too; all of them when not set.
    pub local_cache_bytes: Option<u64>,
    /// Memory that one query may use.
    pub query_memory_bytes: usize,
    /// Time that one query may take.
    pub query_timeout_ms: u64,
    /// Rows that one query may return.
    pub query_max_rows: usize,
    /// Queries that may run at once; further ones wait, which counts against their time. Rules are not among them.
    pub max_concurrent_queries: usize,
    /// Margin below a limit that makes `upper` (limit - margin) and `lower` (limit - 2 margin), as a fraction of the limit.
    pub boundary: f64,
    /// Which pushed metrics are a container's usage.
    pub usage_maps: Vec<UsageMap>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("data"),
            durability: Durability::default(),
            retention_s: 7 * 24 * 3600,
            hot_s: 900,
            flush_every_s: 300,
            max_hot_samples: 20_000_000,
            max_future_s: 300,
            max_past_s: None,
            max_series: 1_000_000,
            object_store: None,
            local_cache_bytes: None,
            query_memory_bytes: 512 << 20,
            query_timeout_ms: 10_000,
            query_max_rows: 100_000,
            max_concurrent_queries: 8,
            boundary: 0.10,
            usage_maps: UsageMap::bdwatchdog(),
        }
    }
}

impl StoreConfig {
    /// The oldest age of a sample that is accepted, in seconds.
    pub(crate) fn max_past_s(&self) -> u64 {
        self.max_past_s.unwrap_or(self.retention_s)
    }
}

/// Pushed metrics whose sum is the usage of one resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageMap {
    /// Which resource they are the usage of.
    pub resource: Resource,
    /// The metrics; values of one container and time are summed, over all further tags too.
    pub metrics: Vec<String>,
    /// The tag that names the container.
    pub container_tag: String,
    /// The tag that names the host; without one the container is looked up by its name alone.
    #[serde(default)]
    pub host_tag: Option<String>,
    /// The tag that names the app.
    #[serde(default)]
    pub app_tag: Option<String>,
    /// Factor to the resource's base unit (cores, bytes).
    #[serde(default = "one")]
    pub scale: f64,
}

fn one() -> f64 {
    1.0
}

impl UsageMap {
    /// BDWatchdog's metrics: it runs inside a container, so its `host` tag is the container's name; CPU is in percent of
    /// a core per process, memory in MiB.
    pub fn bdwatchdog() -> Vec<UsageMap> {
        let map = |resource, metrics: &[&str], scale| UsageMap {
            resource,
            metrics: metrics.iter().map(|name| (*name).to_owned()).collect(),
            container_tag: "host".to_owned(),
            host_tag: None,
            app_tag: None,
            scale,
        };
        vec![
            map(Resource::Cpu, &["proc.cpu.user", "proc.cpu.kernel"], tidegate_model::percent_of_core_to_cores(1.0).0),
            map(Resource::Memory, &["proc.mem.resident"], tidegate_model::mebibytes_to_bytes(1.0).0 as f64),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_configuration_keeps_the_defaults_and_a_misspelt_key_is_named() {
        let config: StoreConfig = serde_json::from_str(r#"{"durability": "fsync", "hot_s": 5}"#).unwrap();
        assert_eq!(config.durability, Durability::Fsync);
        assert_eq!(config.max_past_s(), config.retention_s);
        let error = serde_json::from_str::<StoreConfig>(r#"{"hot": 5}"#).unwrap_err().to_string();
        assert!(error.contains("unknown field `hot`"), "{error}");
    }
}
