//! What is limited, and by how much.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Cores};

/// What a container consumes and Tidegate limits; or a single knob of such a resource that a rule may aim at.
///
/// In the order of their names, as tables list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Resource {
    /// CPU time, in cores.
    #[serde(rename = "cpu")]
    Cpu,
    /// The knob `cpu.weight`: a container's share of CPU time when there is not enough for all, 1 to 10000, 100 by default.
    #[serde(rename = "cpu.weight")]
    CpuWeight,
    /// What is read from disks, in bytes a second.
    #[serde(rename = "disk_read")]
    DiskRead,
    /// What is written to disks, in bytes a second.
    #[serde(rename = "disk_write")]
    DiskWrite,
    /// Memory, in bytes.
    #[serde(rename = "memory")]
    Memory,
    /// The knob `memory.high`: the usage in bytes above which the kernel reclaims and slows down, but never kills. With
    /// cgroup v1 the soft limit, which acts only when the host itself runs short.
    #[serde(rename = "memory.high")]
    MemoryHigh,
    /// What is received over the network, in bytes a second.
    #[serde(rename = "net_receive")]
    NetReceive,
    /// What is sent over the network, in bytes a second.
    #[serde(rename = "net_send")]
    NetSend,
}

impl Resource {
    /// Every resource that each container has, in a fixed order. Those that only some have are [`Resource::RATES`], the knobs
    /// [`Resource::KNOBS`].
    pub const ALL: [Resource; 2] = [Resource::Cpu, Resource::Memory];

    /// The bandwidths, in bytes a second: a container has them once something is known of them, usage, a bound or a limit. Most
    /// never use a disk that anybody counts, and many have no network of their own; they shall have no rows of it anywhere.
    /// What a host has of them nobody knows, and each limit is one of its own, with no resource to share it out of.
    pub const RATES: [Resource; 4] = [Resource::DiskRead, Resource::DiskWrite, Resource::NetReceive, Resource::NetSend];

    /// Those of [`Resource::RATES`] that are about disks.
    pub const DISKS: [Resource; 2] = [Resource::DiskRead, Resource::DiskWrite];

    /// Those of [`Resource::RATES`] that are about the network.
    pub const NETWORK: [Resource; 2] = [Resource::NetReceive, Resource::NetSend];

    /// The knobs that a rule may aim at.
    pub const KNOBS: [Resource; 2] = [Resource::CpuWeight, Resource::MemoryHigh];

    /// All resources that are measured and limited.
    pub fn limited() -> impl Iterator<Item = Resource> {
        Self::ALL.into_iter().chain(Self::RATES)
    }

    /// All resources and all knobs.
    pub fn with_knobs() -> impl Iterator<Item = Resource> {
        Self::limited().chain(Self::KNOBS)
    }

    /// The resource that a knob belongs to; a resource belongs to itself.
    pub fn of(self) -> Resource {
        match self {
            Resource::Cpu | Resource::CpuWeight => Resource::Cpu,
            Resource::Memory | Resource::MemoryHigh => Resource::Memory,
            Resource::DiskRead | Resource::DiskWrite | Resource::NetReceive | Resource::NetSend => self,
        }
    }

    /// Whether it is one of [`Resource::RATES`].
    pub fn is_rate(self) -> bool {
        Self::RATES.contains(&self)
    }

    /// Whether it is one of [`Resource::NETWORK`].
    pub fn is_network(self) -> bool {
        Self::NETWORK.contains(&self)
    }

    /// Whether it is one of [`Resource::DISKS`].
    pub fn is_disk(self) -> bool {
        Self::DISKS.contains(&self)
    }

    /// Whether it is a single knob of a resource.
    pub fn is_knob(self) -> bool {
        self.of() != self
    }

    /// The name used in SQL, tags and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Resource::Cpu => "cpu",
            Resource::CpuWeight => "cpu.weight",
            Resource::DiskRead => "disk_read",
            Resource::DiskWrite => "disk_write",
            Resource::Memory => "memory",
            Resource::MemoryHigh => "memory.high",
            Resource::NetReceive => "net_receive",
            Resource::NetSend => "net_send",
        }
    }

    /// The base unit of the resource's values.
    pub fn unit(self) -> &'static str {
        match self {
            Resource::Cpu => "cores",
            Resource::CpuWeight => "weight",
            Resource::DiskRead | Resource::DiskWrite | Resource::NetReceive | Resource::NetSend => "bytes/s",
            Resource::Memory | Resource::MemoryHigh => "bytes",
        }
    }

    /// Prints a value given in the resource's base unit: `0.45 cores`, `96.0 MiB`, `12.0 MiB/s`, `weight 200`.
    pub fn display(self, value: f64) -> String {
        match self {
            Resource::Cpu => Cores(value).to_string(),
            Resource::CpuWeight => format!("weight {value:.0}"),
            Resource::DiskRead | Resource::DiskWrite | Resource::NetReceive | Resource::NetSend => {
                format!("{}/s", Bytes(value.max(0.0) as u64))
            }
            Resource::Memory | Resource::MemoryHigh => Bytes(value.max(0.0) as u64).to_string(),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that no resource and no knob has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownResource(pub String);

impl fmt::Display for UnknownResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expected =
            "'cpu', 'memory', 'disk_read', 'disk_write', 'net_receive', 'net_send', 'cpu.weight' or 'memory.high'";
        write!(f, "unknown resource '{}': expected {expected}", self.0)
    }
}

impl std::error::Error for UnknownResource {}

impl FromStr for Resource {
    type Err = UnknownResource;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Resource::with_knobs()
            .find(|resource| resource.as_str() == name)
            .ok_or_else(|| UnknownResource(name.to_owned()))
    }
}

/// A limit as it stands in a cgroup's own file, in the resource's base unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// `max` (v2), `-1` (v1): the ancestors and the host alone bound it.
    Unlimited,
    /// Cores or bytes.
    At(f64),
}

impl Limit {
    /// The value, if there is one.
    pub fn value(self) -> Option<f64> {
        match self {
            Limit::Unlimited => None,
            Limit::At(value) => Some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_resources_in_their_order() {
        let mut all: Vec<Resource> = Resource::with_knobs().collect();
        for resource in &all {
            assert_eq!(resource.as_str().parse(), Ok(*resource));
        }
        all.sort_unstable();
        assert!(all.is_sorted_by_key(|resource| resource.as_str()));
        assert!("disk".parse::<Resource>().is_err_and(|error| error.to_string().contains("'disk_read'")));
    }

    #[test]
    fn rates_are_resources_of_their_own_in_bytes_a_second() {
        assert_eq!(Resource::NetSend.display(12.0 * 1_048_576.0), "12.0 MiB/s");
        for rate in Resource::RATES {
            assert_eq!((rate.of(), rate.is_knob(), rate.is_rate(), rate.unit()), (rate, false, true, "bytes/s"));
            assert_ne!(rate.is_disk(), rate.is_network());
        }
        assert!(!Resource::ALL.iter().any(|resource| resource.is_rate()));
    }
}
