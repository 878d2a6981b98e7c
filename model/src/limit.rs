//! What is limited, and by how much.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Cores};

/// What a container consumes and Tidegate limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// CPU time, in cores.
    Cpu,
    /// Memory, in bytes.
    Memory,
}

impl Resource {
    /// Every resource, in a fixed order.
    pub const ALL: [Resource; 2] = [Resource::Cpu, Resource::Memory];

    /// The name used in SQL, tags and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Resource::Cpu => "cpu",
            Resource::Memory => "memory",
        }
    }

    /// The base unit of the resource's values.
    pub fn unit(self) -> &'static str {
        match self {
            Resource::Cpu => "cores",
            Resource::Memory => "bytes",
        }
    }

    /// Prints a value given in the resource's base unit: `0.45 cores`, `96.0 MiB`.
    pub fn display(self, value: f64) -> String {
        match self {
            Resource::Cpu => Cores(value).to_string(),
            Resource::Memory => Bytes(value.max(0.0) as u64).to_string(),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A resource name that is none of [`Resource::ALL`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownResource(pub String);

impl fmt::Display for UnknownResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown resource '{}': expected 'cpu' or 'memory'", self.0)
    }
}

impl std::error::Error for UnknownResource {}

impl FromStr for Resource {
    type Err = UnknownResource;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Resource::ALL.into_iter().find(|r| r.as_str() == name).ok_or_else(|| UnknownResource(name.to_owned()))
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
