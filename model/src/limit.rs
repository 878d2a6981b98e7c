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
    /// Memory, in bytes.
    #[serde(rename = "memory")]
    Memory,
    /// The knob `memory.high`: the usage in bytes above which the kernel reclaims and slows down, but never kills. With
    /// cgroup v1 the soft limit, which acts only when the host itself runs short.
    #[serde(rename = "memory.high")]
    MemoryHigh,
}

impl Resource {
    /// Every resource that is measured and limited, in a fixed order. The knobs are [`Resource::KNOBS`].
    pub const ALL: [Resource; 2] = [Resource::Cpu, Resource::Memory];

    /// The knobs that a rule may aim at.
    pub const KNOBS: [Resource; 2] = [Resource::CpuWeight, Resource::MemoryHigh];

    /// All resources and all knobs.
    pub fn with_knobs() -> impl Iterator<Item = Resource> {
        Self::ALL.into_iter().chain(Self::KNOBS)
    }

    /// The resource that a knob belongs to; a resource belongs to itself.
    pub fn of(self) -> Resource {
        match self {
            Resource::Cpu | Resource::CpuWeight => Resource::Cpu,
            Resource::Memory | Resource::MemoryHigh => Resource::Memory,
        }
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
            Resource::Memory => "memory",
            Resource::MemoryHigh => "memory.high",
        }
    }

    /// The base unit of the resource's values.
    pub fn unit(self) -> &'static str {
        match self {
            Resource::Cpu => "cores",
            Resource::CpuWeight => "weight",
            Resource::Memory | Resource::MemoryHigh => "bytes",
        }
    }

    /// Prints a value given in the resource's base unit: `0.45 cores`, `96.0 MiB`, `weight 200`.
    pub fn display(self, value: f64) -> String {
        match self {
            Resource::Cpu => Cores(value).to_string(),
            Resource::CpuWeight => format!("weight {value:.0}"),
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
        write!(f, "unknown resource '{}': expected 'cpu', 'memory', 'cpu.weight' or 'memory.high'", self.0)
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
