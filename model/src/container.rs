//! Containers: cgroups that are measured and may be scaled.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
