//! How a store is set up.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidegate_model::Resource;

use crate::error::StoreError;
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
    /// Age at which samples, decisions and events are removed.
    pub retention_s: u64,
    /// Size of all segments beyond which the oldest partitions are removed; no bound when not set.
    pub max_bytes: Option<u64>,
    /// What is kept for another time, or up to a size of its own.
    pub retention: Vec<RetentionRule>,
    /// How long a stretch of time segments are merged into one for, from midnight UTC on. A multiple of an hour.
    pub partition_s: u64,
    /// Share of one core that background compaction takes, above 0 and up to 1.
    pub compaction_share: f64,
    /// Memory that a compaction takes, apart from the rows of a single series.
    pub compaction_memory_bytes: usize,
    /// Samples that a minute or an hour has to have on average for its roll-ups to be kept: with fewer they save little, and
    /// a roll-up takes about ten times the bytes of a sample.
    pub rollup_min_samples: usize,
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
    /// Memory for pages of segments that were read lately.
    pub page_cache_bytes: usize,
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
    /// Half-lives that `history(half_life)` keeps up from one query to the next; others are worked out from all samples at
    /// each query.
    pub history_half_lives_s: Vec<u32>,
    /// Which pushed metrics are a container's usage.
    pub usage_maps: Vec<UsageMap>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("data"),
            durability: Durability::default(),
            retention_s: 7 * 24 * 3600,
            max_bytes: None,
            retention: Vec::new(),
            partition_s: 24 * 3600,
            compaction_share: 0.5,
            compaction_memory_bytes: 128 << 20,
            rollup_min_samples: 30,
            hot_s: 900,
            flush_every_s: 300,
            max_hot_samples: 20_000_000,
            max_future_s: 300,
            max_past_s: None,
            max_series: 1_000_000,
            object_store: None,
            local_cache_bytes: None,
            page_cache_bytes: 32 << 20,
            query_memory_bytes: 512 << 20,
            query_timeout_ms: 10_000,
            query_max_rows: 100_000,
            max_concurrent_queries: 8,
            boundary: 0.10,
            history_half_lives_s: vec![24 * 3600],
            usage_maps: UsageMap::bdwatchdog(),
        }
    }
}

impl StoreConfig {
    /// The oldest age of a sample that is accepted, in seconds.
    pub(crate) fn max_past_s(&self) -> u64 {
        self.max_past_s.unwrap_or(self.retention_s)
    }

    /// The length of a partition, in ms.
    pub(crate) fn partition_ms(&self) -> i64 {
        i64::try_from(self.partition_s).unwrap_or(i64::MAX / 1_000).saturating_mul(1_000)
    }

    /// Refuses what is set but makes no sense, by its name.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let refuse = |name: &str, why: String| Err(StoreError::Setting { name: format!("store.{name}"), why });
        if self.partition_s == 0 || !self.partition_s.is_multiple_of(3_600) {
            return refuse("partition_s", format!("{} is not a multiple of an hour (3600)", self.partition_s));
        }
        if !(self.compaction_share > 0.0 && self.compaction_share <= 1.0) {
            return refuse("compaction_share", format!("{} is not above 0 and up to 1", self.compaction_share));
        }
        for (number, rule) in self.retention.iter().enumerate() {
            let name = format!("retention[{number}]");
            if rule.prefix.is_empty() {
                return refuse(
                    &name,
                    "its prefix is empty: set store.retention_s or store.max_bytes instead".to_owned(),
                );
            }
            if rule.max_age_s.is_none() && rule.max_bytes.is_none() {
                return refuse(&name, format!("prefix '{}' has neither max_age_s nor max_bytes", rule.prefix));
            }
            if self.retention[..number].iter().any(|other| other.prefix == rule.prefix) {
                return refuse(&name, format!("prefix '{}' has a rule already", rule.prefix));
            }
        }
        Ok(())
    }
}

/// How long the samples of some metrics are kept. Of several rules that fit a metric the one with the longest prefix counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionRule {
    /// What the metrics' names begin with.
    pub prefix: String,
    /// Age at which their samples are removed; `store.retention_s` when not set.
    #[serde(default)]
    pub max_age_s: Option<u64>,
    /// Size of their samples beyond which the oldest partitions are removed.
    #[serde(default)]
    pub max_bytes: Option<u64>,
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

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let refused = |json: &str| {
            let config: StoreConfig = serde_json::from_str(json).unwrap();
            config.check().unwrap_err().to_string()
        };
        let partition = refused(r#"{"partition_s": 5000}"#);
        assert!(partition.contains("store.partition_s") && partition.contains("5000"), "{partition}");
        assert!(refused(r#"{"compaction_share": 0.0}"#).contains("store.compaction_share"));
        let neither = refused(r#"{"retention": [{"prefix": "a.", "max_age_s": 1}, {"prefix": "b."}]}"#);
        assert!(neither.contains("store.retention[1]") && neither.contains("'b.'"), "{neither}");
        let twice = r#"{"retention": [{"prefix": "a.", "max_age_s": 1}, {"prefix": "a.", "max_bytes": 1}]}"#;
        assert!(refused(twice).contains("has a rule already"));
        StoreConfig::default().check().unwrap();
        let error = serde_json::from_str::<StoreConfig>(r#"{"retention": [{"prefix": "a", "max_age": 1}]}"#);
        assert!(error.unwrap_err().to_string().contains("unknown field `max_age`"));
    }
}
