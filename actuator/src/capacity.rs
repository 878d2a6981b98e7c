//! The machine's capacity: online CPUs and physical memory.

use std::fs;
use std::path::Path;

use tidegate_model::{Bytes, Cores, Host, Resource, TimeMs};

use crate::error::ActuatorError;

const ONLINE: &str = "/sys/devices/system/cpu/online";
const MEMINFO: &str = "/proc/meminfo";

/// What the machine has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Capacity {
    pub(crate) cpus: u32,
    pub(crate) memory: u64,
}

impl Capacity {
    /// Reads it from the kernel. `available_parallelism` would not do: it honours our own affinity and quota.
    pub(crate) fn read() -> Result<Self, ActuatorError> {
        let online = read(ONLINE)?;
        let meminfo = read(MEMINFO)?;
        let cpus = count_cpus(&online).ok_or_else(|| ActuatorError::malformed(ONLINE, &online, "a list of CPUs"))?;
        let memory =
            mem_total(&meminfo).ok_or_else(|| ActuatorError::malformed(MEMINFO, &meminfo, "MemTotal in kB"))?;
        Ok(Self { cpus, memory })
    }

    /// The capacity in the resource's base unit; of a weight there is no end, and nobody knows what disks and networks can do.
    pub(crate) fn of(self, resource: Resource) -> f64 {
        match resource {
            Resource::Cpu => f64::from(self.cpus),
            Resource::Memory | Resource::MemoryHigh => self.memory as f64,
            _ => f64::INFINITY,
        }
    }

    pub(crate) fn host(self, name: &str, now: TimeMs) -> Host {
        Host { name: name.to_owned(), cpu: Cores(f64::from(self.cpus)), memory: Bytes(self.memory), last_seen: now }
    }
}

fn read(path: &str) -> Result<String, ActuatorError> {
    fs::read_to_string(Path::new(path)).map_err(|error| ActuatorError::file("read", path, error))
}

/// Counts the CPUs of a kernel list such as `0-3,8`.
fn count_cpus(list: &str) -> Option<u32> {
    let mut count = 0;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count += last.checked_sub(first)? + 1;
    }
    (count > 0).then_some(count)
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_counted() {
        assert_eq!(count_cpus("0-1\n"), Some(2));
        assert_eq!(count_cpus("0-3,8,10-11"), Some(7));
        assert_eq!(count_cpus("0"), Some(1));
        assert_eq!(count_cpus(""), None);
        assert_eq!(count_cpus("3-1"), None);
    }

    #[test]
    fn mem_total_is_in_kibibytes() {
        assert_eq!(mem_total("MemTotal:       1000 kB\nMemFree: 1 kB\n"), Some(1_024_000));
        assert_eq!(mem_total("MemFree: 1 kB\n"), None);
    }
}
