//! Containers: cgroups that are measured and may be scaled.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use crate::clock::TimeMs;
use crate::limit::{Limit, Resource};

/// What names a container: the host it is on and its name there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerKey {
    /// The host's name.
    pub host: String,
    /// The container's name on that host.
    pub name: String,
}

impl fmt::Display for ContainerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.name)
    }
}

/// Which cgroup hierarchy holds a container's controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupVersion {
    /// One mount a controller, also on hybrid hosts.
    V1,
    /// The unified hierarchy.
    V2,
}

impl CgroupVersion {
    /// `v1` or `v2`, as in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            CgroupVersion::V1 => "v1",
            CgroupVersion::V2 => "v2",
        }
    }
}

/// Who made a container, as its cgroup path tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    Docker,
    Podman,
    /// containerd or CRI-O under a kubelet or on their own.
    Cri,
    /// LXC, LXD or Incus.
    Lxc,
    Systemd,
    /// systemd-nspawn or libvirt.
    Machine,
    Apptainer,
    /// A plain cgroup below a configured root.
    Bare,
    /// Made up by the simulated host; no kernel knows it.
    Simulated,
}

impl Runtime {
    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Runtime::Docker => "docker",
            Runtime::Podman => "podman",
            Runtime::Cri => "cri",
            Runtime::Lxc => "lxc",
            Runtime::Systemd => "systemd",
            Runtime::Machine => "machine",
            Runtime::Apptainer => "apptainer",
            Runtime::Bare => "bare",
            Runtime::Simulated => "simulated",
        }
    }
}

/// The lowest and the highest limit an operator allows, in the resource's base unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// Lowest limit.
    pub min: f64,
    /// Highest limit.
    pub max: f64,
}

impl Bounds {
    /// A `max` that is no end: of disks nobody knows what they can do, and JSON has no infinity.
    pub const OPEN: f64 = 9e18;

    /// The highest limit, where there is one.
    pub fn highest(self) -> Option<f64> {
        Some(self.max).filter(|max| *max < Self::OPEN)
    }
}

/// One container and what is known of it now.
///
/// In JSON what is known of disks stands in a field of its own, which a program of the last release passes over: it knows no
/// such resource, and could read nothing of the container otherwise.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "Written")]
pub struct Container {
    /// Host and name.
    pub key: ContainerKey,
    /// Path of the cgroup below its hierarchy's root, such as `/docker/3f2a...`.
    pub path: PathBuf,
    /// Which hierarchy.
    pub cgroup: CgroupVersion,
    /// Who made it.
    pub runtime: Runtime,
    /// The runtime's own identifier; the path for bare cgroups.
    pub id: String,
    /// Inode of the cgroup directory. A re-created container has the same key and another incarnation.
    pub incarnation: u64,
    /// The group of containers it belongs to, if any.
    pub app: Option<String>,
    /// The group of apps it belongs to, if any.
    pub user: Option<String>,
    /// Labels from the runtime or the configuration.
    pub labels: BTreeMap<String, String>,
    /// When this incarnation was first seen.
    pub first_seen: TimeMs,
    /// When it was last measured; older than a few seconds means that it is gone.
    pub last_seen: TimeMs,
    /// The cgroup's own limits when it was first seen.
    pub baseline: BTreeMap<Resource, Limit>,
    /// What the operator allows.
    pub bounds: BTreeMap<Resource, Bounds>,
}

impl Container {
    /// The label that says whether a container's limits may be changed.
    pub const SCALE: &str = "tidegate.scale";

    /// Whether its limits may be changed. One whose label says anything but `true` is only measured.
    pub fn is_scaled(&self) -> bool {
        self.labels.get(Self::SCALE).is_none_or(|scale| scale == "true")
    }
}

/// A container as it is written.
#[derive(Deserialize)]
struct Written {
    key: ContainerKey,
    path: PathBuf,
    cgroup: CgroupVersion,
    runtime: Runtime,
    id: String,
    incarnation: u64,
    app: Option<String>,
    user: Option<String>,
    labels: BTreeMap<String, String>,
    first_seen: TimeMs,
    last_seen: TimeMs,
    baseline: BTreeMap<Resource, Limit>,
    bounds: BTreeMap<Resource, Bounds>,
    #[serde(default)]
    disks: Rates,
    #[serde(default)]
    network: Rates,
}

/// What is known of its disks, or of its network.
#[derive(Default, Deserialize)]
struct Rates {
    baseline: BTreeMap<Resource, Limit>,
    bounds: BTreeMap<Resource, Bounds>,
}

/// The same, to be written.
#[derive(Serialize)]
struct RatesOf<'a> {
    baseline: BTreeMap<&'a Resource, &'a Limit>,
    bounds: BTreeMap<&'a Resource, &'a Bounds>,
}

impl From<Written> for Container {
    fn from(written: Written) -> Self {
        let Written { key, path, cgroup, runtime, id, incarnation, app, user, labels, first_seen, last_seen, .. } =
            written;
        let (mut baseline, mut bounds) = (written.baseline, written.bounds);
        for rates in [written.disks, written.network] {
            baseline.extend(rates.baseline);
            bounds.extend(rates.bounds);
        }
        Self { key, path, cgroup, runtime, id, incarnation, app, user, labels, first_seen, last_seen, baseline, bounds }
    }
}

impl Serialize for Container {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fn of<T>(map: &BTreeMap<Resource, T>, are: impl Fn(Resource) -> bool) -> BTreeMap<&Resource, &T> {
            map.iter().filter(|(resource, _)| are(**resource)).collect()
        }
        let rates = |are: fn(Resource) -> bool| {
            let rates = RatesOf { baseline: of(&self.baseline, are), bounds: of(&self.bounds, are) };
            (!rates.baseline.is_empty() || !rates.bounds.is_empty()).then_some(rates)
        };
        let (disks, network) = (rates(Resource::is_disk), rates(Resource::is_network));
        let further = usize::from(disks.is_some()) + usize::from(network.is_some());
        let mut written = serializer.serialize_struct("Container", 13 + further)?;
        written.serialize_field("key", &self.key)?;
        written.serialize_field("path", &self.path)?;
        written.serialize_field("cgroup", &self.cgroup)?;
        written.serialize_field("runtime", &self.runtime)?;
        written.serialize_field("id", &self.id)?;
        written.serialize_field("incarnation", &self.incarnation)?;
        written.serialize_field("app", &self.app)?;
        written.serialize_field("user", &self.user)?;
        written.serialize_field("labels", &self.labels)?;
        written.serialize_field("first_seen", &self.first_seen)?;
        written.serialize_field("last_seen", &self.last_seen)?;
        written.serialize_field("baseline", &of(&self.baseline, |resource| !resource.is_rate()))?;
        written.serialize_field("bounds", &of(&self.bounds, |resource| !resource.is_rate()))?;
        for (name, rates) in [("disks", disks), ("network", network)] {
            if let Some(rates) = rates {
                written.serialize_field(name, &rates)?;
            }
        }
        written.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_is_known_of_disks_and_network_is_written_beside_what_the_last_releases_know() {
        let bounds = |resource| (resource, Bounds { min: 1.0, max: 2.0 });
        let plain = Container {
            key: ContainerKey { host: "h".to_owned(), name: "web".to_owned() },
            path: PathBuf::from("/web"),
            cgroup: CgroupVersion::V2,
            runtime: Runtime::Bare,
            id: "/web".to_owned(),
            incarnation: 7,
            app: None,
            user: None,
            labels: BTreeMap::new(),
            first_seen: TimeMs(1),
            last_seen: TimeMs(2),
            baseline: [(Resource::Cpu, Limit::Unlimited)].into(),
            bounds: [bounds(Resource::Memory)].into(),
        };
        let text = serde_json::to_value(&plain).unwrap();
        assert!(text.get("disks").is_none(), "{text}");
        assert_eq!(serde_json::from_value::<Container>(text).unwrap(), plain);

        let mut with_disks = plain;
        with_disks.baseline.insert(Resource::DiskWrite, Limit::At(5.0));
        with_disks.bounds.extend([bounds(Resource::DiskRead)]);
        let text = serde_json::to_value(&with_disks).unwrap();
        assert_eq!(text["bounds"].as_object().unwrap().len(), 1, "{text}");
        assert_eq!(text["disks"]["baseline"]["disk_write"]["at"], 5.0);
        assert!(text.get("network").is_none(), "{text}");
        assert_eq!(serde_json::from_value::<Container>(text).unwrap(), with_disks);

        let mut with_network = with_disks;
        with_network.baseline.insert(Resource::NetSend, Limit::Unlimited);
        with_network.bounds.extend([bounds(Resource::NetReceive)]);
        let text = serde_json::to_value(&with_network).unwrap();
        assert_eq!(
            (text["bounds"].as_object().unwrap().len(), &text["disks"]["bounds"]["net_receive"]),
            (1, &Value::Null)
        );
        assert_eq!(text["network"]["baseline"]["net_send"], "unlimited");
        assert_eq!(serde_json::from_value::<Container>(text).unwrap(), with_network);
    }
}
