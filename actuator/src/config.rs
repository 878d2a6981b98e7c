//! What an operator can say about a host: where containers are, what they may get, to whom they belong.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_model::{Bounds, Resource};

use crate::capacity::Capacity;
use crate::drift::DriftRule;
use crate::error::ActuatorError;
use crate::knobs::setting::{Knob, Wishes};
use crate::knobs::wish::KnobRule;

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
    /// Docker's data directory, where the names of its containers are read when its API cannot be asked.
    pub docker_root: PathBuf,
    /// The socket of Docker's API; empty to never ask it.
    pub docker_socket: PathBuf,
    /// Podman's storage, where the names of its containers are read when its API cannot be asked.
    pub podman_root: PathBuf,
    /// The socket of Podman's API; empty to never ask it.
    pub podman_socket: PathBuf,
    /// The sockets of LXD and Incus; none to never ask them.
    pub lxd_sockets: Vec<PathBuf>,
    /// The socket of the system's message bus, where systemd is told of limits; empty to never tell it.
    pub system_bus: PathBuf,
    /// How limits are written.
    pub write_via: WriteVia,
    /// How often the owner of a container is told of each of its limits, in seconds: it costs Docker tens of ms of CPU time.
    /// Limits that come faster go into the cgroup file at once, and the owner is told of the last one. 0 tells all.
    pub tell_owner_every_s: u64,
    /// Where LXC keeps the configurations of its containers.
    pub lxc_root: PathBuf,
    /// Where containerd keeps the bundles of running containers, by namespace.
    pub containerd_state: PathBuf,
    /// Where CRI-O keeps the bundles of running containers.
    pub crio_state: PathBuf,
    /// Bounds of containers that no rule in `bounds` names.
    pub default_bounds: BTreeMap<Resource, BoundsSpec>,
    /// Bounds of some containers; of several that match, the last one counts.
    pub bounds: Vec<BoundsRule>,
    /// Knobs beside the limits of some containers; of several rules that match, the last one that has a knob counts.
    pub knobs: Vec<KnobRule>,
    /// Which containers belong to which app; the first that matches counts.
    pub apps: Vec<AppRule>,
    /// Whether containers get CPUs of their own with each CPU limit that is written: whole cores first, socket by socket.
    pub pinning: bool,
    /// Where the kernel tells which CPUs there are; used for pinning.
    pub devices: PathBuf,
    /// Where the kernel lists the disks to which bandwidth is limited.
    pub block_devices: PathBuf,
    /// Names, with `*` and `?`, of containers that are measured and never changed. The label `tidegate.scale=false` says the
    /// same of one container.
    pub never_scale: Vec<String>,
    /// How long a container may take to shrink below a new, lower memory limit, in ms.
    pub squeeze_timeout_ms: u64,
    /// How long a limit that somebody else changed is left alone, in seconds.
    pub drift_hold_s: u64,
    /// What becomes of it then.
    pub on_drift: OnDrift,
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
            docker_socket: PathBuf::from("/var/run/docker.sock"),
            podman_root: PathBuf::from("/var/lib/containers/storage"),
            podman_socket: PathBuf::from("/run/podman/podman.sock"),
            lxd_sockets: [
                "/var/lib/lxd/unix.socket",
                "/var/snap/lxd/common/lxd/unix.socket",
                "/var/lib/incus/unix.socket",
            ]
            .map(PathBuf::from)
            .into(),
            system_bus: PathBuf::from("/run/dbus/system_bus_socket"),
            write_via: WriteVia::Auto,
            tell_owner_every_s: 30,
            lxc_root: PathBuf::from("/var/lib/lxc"),
            containerd_state: PathBuf::from("/run/containerd/io.containerd.runtime.v2.task"),
            crio_state: PathBuf::from("/run/containers/storage/overlay-containers"),
            default_bounds: BTreeMap::new(),
            bounds: Vec::new(),
            knobs: Vec::new(),
            apps: Vec::new(),
            pinning: false,
            devices: PathBuf::from("/sys/devices/system"),
            block_devices: PathBuf::from("/sys/block"),
            never_scale: Vec::new(),
            squeeze_timeout_ms: 5_000,
            drift_hold_s: 60,
            on_drift: OnDrift::Adopt,
            state_dir: None,
        }
    }
}

/// How limits are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteVia {
    /// Through the owner of the container - Docker, Podman, LXD, Incus or systemd - where there is one, so that it knows; into the
    /// cgroup file where there is none or where it fails.
    #[default]
    Auto,
    /// Into the cgroup file alone. What the owner knows stays as it was, and comes back with a restart.
    Cgroup,
    /// Each limit through the owner; when it fails the change is refused.
    Owner,
}

/// What becomes of a limit that somebody else changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDrift {
    /// It is left alone for [`ActuatorConfig::drift_hold_s`]; then what was found is what rules start from.
    #[default]
    Adopt,
    /// It is left alone until it is again what Tidegate wrote, or until a person says otherwise.
    HandsOff,
    /// It is left alone for [`ActuatorConfig::drift_hold_s`]; then what Tidegate had written is put back. Where that does not
    /// last several times in a row it becomes `HandsOff`: two controllers do not fight for ever.
    Restore,
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

impl BoundsSpec {
    /// These ends, and where one is missing, that of `other`.
    fn or(self, other: Self) -> Self {
        Self { min: self.min.or(other.min), max: self.max.or(other.max) }
    }
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
        for rule in &self.knobs {
            let wishes = rule.wishes().and_then(|wishes| match self.pinning && wishes.contains_key(&Knob::Cpus) {
                true => Err("cpus cannot be set where containers are pinned (actuator.pinning)".to_owned()),
                false => Ok(wishes),
            });
            wishes.map_err(|why| ActuatorError::Config(format!("knobs of '{}': {why}", rule.container)))?;
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

    /// The bounds of a container that has no labels, for each resource that has any.
    pub(crate) fn bounds_of(&self, name: &str, capacity: Capacity) -> BTreeMap<Resource, Bounds> {
        self.bounds_with(name, &BTreeMap::new(), capacity, &mut Vec::new())
    }

    /// The bounds of a container whose labels say `labels`. Where a rule of the configuration and a label set the same end,
    /// the rule counts: who writes labels need not be who answers for the host. The defaults count last. Labels that leave
    /// nothing between the ends are left out, and noted in `problems`.
    pub(crate) fn bounds_with(
        &self,
        name: &str,
        labels: &BTreeMap<Resource, BoundsSpec>,
        capacity: Capacity,
        problems: &mut Vec<String>,
    ) -> BTreeMap<Resource, Bounds> {
        let mut bounds = BTreeMap::new();
        for resource in Resource::limited() {
            let rule = self.bounds.iter().rev().find(|r| r.resource == resource && matches(&r.container, name));
            let rule = rule.map(|rule| BoundsSpec { min: rule.min, max: rule.max });
            let default = self.default_bounds.get(&resource).copied().unwrap_or_default();
            let range = |label: BoundsSpec| {
                let spec = rule.map_or_else(|| label.or(default), |rule| rule.or(label));
                (spec.min.is_some() || spec.max.is_some()).then(|| Bounds {
                    min: spec.min.unwrap_or(0.0),
                    max: spec.max.unwrap_or_else(|| capacity.of(resource).min(Bounds::OPEN)),
                })
            };
            let label = labels.get(&resource).copied().unwrap_or_default();
            let mut found = range(label);
            if let Some(empty) = found.filter(|found| found.min > found.max && label != BoundsSpec::default()) {
                let (min, max) = (resource.display(empty.min), resource.display(empty.max));
                problems.push(format!(
                    "container {name}: its labels for {resource} leave nothing between a least limit of {min} and a highest \
                     of {max}; they are left out"
                ));
                found = range(BoundsSpec::default());
            }
            bounds.extend(found.map(|found| (resource, found)));
        }
        bounds
    }

    /// What the knobs of a container shall be whose labels say `labels`. Where a rule and a label say something about one
    /// knob, the rule counts. What cannot be is left out, and noted in `problems`.
    pub(crate) fn knobs_with(&self, name: &str, labels: &Wishes, problems: &mut Vec<String>) -> Wishes {
        let mut wishes = labels.clone();
        if self.pinning && wishes.remove(&Knob::Cpus).is_some() {
            problems
                .push(format!("container {name}: its label for cpus is left out, since containers are pinned here"));
        }
        let rules = self.knobs.iter().filter(|rule| matches(&rule.container, name));
        // Rules were checked before anything began.
        wishes.extend(rules.filter_map(|rule| rule.wishes().ok()).flatten());
        wishes
    }

    /// Whether the configuration forbids to change a container's limits.
    pub(crate) fn never_scales(&self, name: &str) -> bool {
        self.never_scale.iter().any(|pattern| matches(pattern, name))
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

    pub(crate) fn tell_owner_every(&self) -> Duration {
        Duration::from_secs(self.tell_owner_every_s)
    }

    pub(crate) fn drift(&self) -> DriftRule {
        DriftRule { answer: self.on_drift, hold: Duration::from_secs(self.drift_hold_s) }
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
    use crate::knobs::setting::Setting;

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
        let spec = BoundsSpec { min: Some(1e6), max: None };
        let disks = ActuatorConfig { default_bounds: [(Resource::DiskRead, spec)].into(), ..Default::default() };
        let bounds = disks.bounds_of("db", capacity);
        assert_eq!((bounds.len(), bounds[&Resource::DiskRead].highest()), (1, None), "what a disk can do is not known");
    }

    #[test]
    fn a_rule_wins_over_a_label_end_by_end_and_a_label_over_the_defaults() {
        let capacity = Capacity { cpus: 4, memory: 8 << 30 };
        let spec = |min, max| BoundsSpec { min, max };
        let rule = BoundsRule { container: "web".into(), resource: Resource::Cpu, min: None, max: Some(2.0) };
        let config = ActuatorConfig {
            default_bounds: [(Resource::Cpu, spec(Some(0.1), Some(1.0)))].into(),
            bounds: vec![rule],
            ..Default::default()
        };
        let bounds = |name: &str, label: BoundsSpec| {
            let mut problems = Vec::new();
            let bounds = config.bounds_with(name, &[(Resource::Cpu, label)].into(), capacity, &mut problems);
            (bounds[&Resource::Cpu], problems)
        };
        let of = |min, max| Bounds { min, max };
        assert_eq!(bounds("web", spec(Some(0.5), Some(3.0))), (of(0.5, 2.0), vec![]));
        assert_eq!(bounds("db", spec(Some(0.5), Some(3.0))), (of(0.5, 3.0), vec![]));
        assert_eq!(bounds("db", spec(Some(0.5), None)), (of(0.5, 1.0), vec![]));
        let (kept, problems) = bounds("web", spec(Some(2.5), None));
        assert_eq!(kept, of(0.0, 2.0), "a label that contradicts the rule is left out");
        assert!(problems[0].contains("container web") && problems[0].contains("2.50 cores"), "{problems:?}");
    }

    #[test]
    fn of_knobs_the_last_rule_counts_and_any_rule_before_a_label() {
        let rule =
            |container: &str, cpu_weight| KnobRule { container: container.into(), cpu_weight, ..Default::default() };
        let high = KnobRule { memory_high: Some("1GiB".into()), ..rule("*", None) };
        let config =
            ActuatorConfig { knobs: vec![rule("*", Some(100)), rule("db-*", Some(300)), high], ..Default::default() };
        let label: Wishes = [Setting::weight(5), Setting::burst(7)].map(|s| s.map(|s| (s.knob(), s)).unwrap()).into();
        let wishes = |config: &ActuatorConfig, name| config.knobs_with(name, &label, &mut Vec::new());
        assert_eq!(wishes(&config, "db-1")[&Knob::CpuWeight], Setting::Weight(300));
        assert_eq!(wishes(&config, "web")[&Knob::CpuWeight], Setting::Weight(100));
        assert_eq!(wishes(&config, "web").len(), 3, "weight, burst and memory.high");
        assert_eq!(wishes(&ActuatorConfig::default(), "web"), label);
        let (pinned, mut problems) = (ActuatorConfig { pinning: true, ..Default::default() }, Vec::new());
        let cpus: Wishes = [(Knob::Cpus, Setting::Cpus(vec![0]))].into();
        assert!(pinned.knobs_with("web", &cpus, &mut problems).is_empty() && problems[0].contains("pinned"));
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
