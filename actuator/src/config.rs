//! What an operator can say about a host: where containers are, what they may get, to whom they belong.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_model::{Bounds, Resource};

use crate::capacity::Capacity;
use crate::error::ActuatorError;

/// How one host is measured and changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActuatorConfig {
    /// The host's name in keys and tags; the kernel's host name by default.
    pub host: String,
    /// Cgroups whose children are containers, such as `/tidegate-demo`, as paths below the hierarchy's root.
    pub roots: Vec<PathBuf>,
    /// Whether containers of the known runtimes and systemd services are found by their cgroup paths.
    pub discover: bool,
    /// Where the hierarchies are mounted.
    pub mount: PathBuf,
    /// Docker's data directory, where the names of its containers are read.
    pub docker_root: PathBuf,
    /// Bounds of containers that no rule in `bounds` names.
    pub default_bounds: BTreeMap<Resource, BoundsSpec>,
    /// Bounds of some containers; of several that match, the last one counts.
    pub bounds: Vec<BoundsRule>,
    /// Which containers belong to which app; the first that matches counts.
    pub apps: Vec<AppRule>,
    /// How long a container may take to shrink below a new, lower memory limit, in ms.
    pub squeeze_timeout_ms: u64,
    /// How long a limit that somebody else changed is left alone, in seconds.
    pub drift_hold_s: u64,
    /// Where baselines are kept across restarts; without it they are lost with the process.
    pub state_dir: Option<PathBuf>,
}

impl Default for ActuatorConfig {
    fn default() -> Self {
        Self {
            host: host_name(),
            roots: Vec::new(),
            discover: true,
            mount: PathBuf::from("/sys/fs/cgroup"),
            docker_root: PathBuf::from("/var/lib/docker"),
            default_bounds: BTreeMap::new(),
            bounds: Vec::new(),
            apps: Vec::new(),
            squeeze_timeout_ms: 5_000,
            drift_hold_s: 60,
            state_dir: None,
        }
    }
}

/// The lowest and the highest limit, in the resource's base unit, where they are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BoundsSpec {
    /// Lowest limit; zero when left out.
    pub min: Option<f64>,
    /// Highest limit; the host's capacity when left out.
    pub max: Option<f64>,
}

/// Bounds of the containers whose name matches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoundsRule {
    /// Name with `*` and `?`.
    pub container: String,
    /// Which limit.
    pub resource: Resource,
    /// Lowest limit, in the resource's base unit.
    #[serde(default)]
    pub min: Option<f64>,
    /// Highest limit, in the resource's base unit.
    #[serde(default)]
    pub max: Option<f64>,
}

/// The app and the user of the containers whose name matches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppRule {
    /// Name with `*` and `?`.
    pub container: String,
    /// The group of containers.
    pub app: String,
    /// The group of apps.
    #[serde(default)]
    pub user: Option<String>,
}

impl ActuatorConfig {
    /// Refuses what cannot be meant, before anything is touched.
    pub(crate) fn check(&self) -> Result<(), ActuatorError> {
        if self.host.is_empty() {
            return Err(ActuatorError::Config("the host has no name; set `host`".into()));
        }
        for root in &self.roots {
            let plain = root.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
            if !root.is_absolute() || !plain || root.components().count() < 2 {
                return Err(ActuatorError::Config(format!(
                    "root '{}' is not a path below the hierarchy's root such as '/tidegate-demo'",
                    root.display()
                )));
            }
        }
        let specs =
            self.default_bounds.iter().map(|(resource, spec)| ("default_bounds", *resource, spec.min, spec.max));
        let rules = self.bounds.iter().map(|rule| (rule.container.as_str(), rule.resource, rule.min, rule.max));
        for (whose, resource, min, max) in specs.chain(rules) {
            let (low, high) = (min.unwrap_or(0.0), max.unwrap_or(f64::MAX));
            if !(low >= 0.0 && high > 0.0 && low <= high) {
                return Err(ActuatorError::Config(format!(
                    "bounds of {resource} for '{whose}' are not a range: min {low}, max {high}"
                )));
            }
        }
        Ok(())
    }

    /// The bounds of a container, for each resource that has any.
    pub(crate) fn bounds_of(&self, name: &str, capacity: Capacity) -> BTreeMap<Resource, Bounds> {
        let mut bounds = BTreeMap::new();
        for resource in Resource::ALL {
            let rule = self.bounds.iter().rev().find(|r| r.resource == resource && matches(&r.container, name));
            let spec = match rule {
                Some(rule) => Some(BoundsSpec { min: rule.min, max: rule.max }),
                None => self.default_bounds.get(&resource).copied(),
            };
            let Some(spec) = spec.filter(|spec| spec.min.is_some() || spec.max.is_some()) else { continue };
            let max = spec.max.unwrap_or_else(|| capacity.of(resource));
            bounds.insert(resource, Bounds { min: spec.min.unwrap_or(0.0), max });
        }
        bounds
    }

    /// App and user of a container by the configured rules.
    pub(crate) fn app_of(&self, name: &str) -> (Option<String>, Option<String>) {
        match self.apps.iter().find(|rule| matches(&rule.container, name)) {
            Some(rule) => (Some(rule.app.clone()), rule.user.clone()),
            None => (None, None),
        }
    }

    pub(crate) fn squeeze_timeout(&self) -> Duration {
        Duration::from_millis(self.squeeze_timeout_ms)
    }

    pub(crate) fn drift_hold(&self) -> Duration {
        Duration::from_secs(self.drift_hold_s)
    }
}

fn host_name() -> String {
    let name = fs::read_to_string(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// Whether `name` matches `pattern`, where `*` stands for any characters and `?` for one.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go back to when the text after the last star does not fit: that star, and one character more for it.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            retry = Some((p, n));
            p += 1;
        } else if pattern.get(p).is_some_and(|c| *c == '?' || *c == name[n]) {
            p += 1;
            n += 1;
        } else if let Some((star, taken)) = retry {
            retry = Some((star, taken + 1));
            p = star + 1;
            n = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("web-*", "web-1", true),
            ("web-*", "my-web-1", false),
            ("*-db-?", "shop-db-1", true),
            ("*-db-?", "shop-db-12", false),
            ("*a*b*", "xxaxxbxx", true),
            ("", "x", false),
            ("*", "", true),
            ("web", "web", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_later_bounds_rule_wins_and_a_missing_end_is_filled_in() {
        let rule =
            |container: &str, min, max| BoundsRule { container: container.into(), resource: Resource::Cpu, min, max };
        let config = ActuatorConfig {
            default_bounds: [(Resource::Memory, BoundsSpec { min: Some(1e6), max: None })].into(),
            bounds: vec![rule("*", Some(0.1), Some(1.0)), rule("web-*", None, Some(2.0))],
            ..Default::default()
        };
        let capacity = Capacity { cpus: 4, memory: 8 << 30 };
        let bounds = config.bounds_of("web-1", capacity);
        assert_eq!(bounds[&Resource::Cpu], Bounds { min: 0.0, max: 2.0 });
        assert_eq!(bounds[&Resource::Memory], Bounds { min: 1e6, max: (8u64 << 30) as f64 });
        assert_eq!(config.bounds_of("db", capacity)[&Resource::Cpu], Bounds { min: 0.1, max: 1.0 });
        assert!(ActuatorConfig::default().bounds_of("db", capacity).is_empty());
    }

    #[test]
    fn roots_that_leave_the_hierarchy_are_refused() {
        for root in ["/", "tidegate", "/a/../b"] {
            let config = ActuatorConfig { roots: vec![root.into()], ..Default::default() };
            assert!(config.check().is_err(), "{root}");
        }
        let config = ActuatorConfig { roots: vec!["/a/b".into()], ..Default::default() };
        assert!(config.check().is_ok());
    }
}
