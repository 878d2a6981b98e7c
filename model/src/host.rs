//! Hosts: machines whose containers are scaled.

use serde::{Deserialize, Serialize};

use crate::clock::TimeMs;
use crate::units::{Bytes, Cores};

/// A machine and its capacity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its name, as in [`crate::ContainerKey`].
    pub name: String,
    /// Online CPUs.
    pub cpu: Cores,
    /// Physical memory.
    pub memory: Bytes,
    /// When it was last heard of.
    pub last_seen: TimeMs,
}
