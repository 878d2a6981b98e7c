//! cgroup v2: one directory, one unified hierarchy.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tidegate_model::{CgroupVersion, Limit, Resource};

use crate::cgroup::Cgroup;
use crate::cgroup::dir::{DescriptorBudget, Dir, KeptFile};
use crate::cgroup::disks::{self, Disks};
use crate::cgroup::parse::{Stall, io_stat, keyed, number, pressure, required};
use crate::cgroup::sampler::{Gaps, Reading, Sampler, Throttling};
use crate::error::ActuatorError;
use crate::quota::CpuMax;

pub(crate) const CPU_MAX: &str = "cpu.max";
pub(crate) const BURST: &str = "cpu.max.burst";
pub(crate) const WEIGHT: &str = "cpu.weight";
pub(crate) const IO_MAX: &str = "io.max";
const IO_STAT: &str = "io.stat";
const CPU_STAT: &str = "cpu.stat";
const CPU_PRESSURE: &str = "cpu.pressure";
pub(crate) const CURRENT: &str = "memory.current";
pub(crate) const MAX: &str = "memory.max";
pub(crate) const HIGH: &str = "memory.high";
pub(crate) const RECLAIM: &str = "memory.reclaim";
pub(crate) const SWAP_MAX: &str = "memory.swap.max";
const STAT: &str = "memory.stat";
const EVENTS: &str = "memory.events";
const MEMORY_PRESSURE: &str = "memory.pressure";

pub(crate) fn cpu_max(dir: &Dir) -> Result<CpuMax, ActuatorError> {
    parse_cpu_max(&dir.read(CPU_MAX)?, &dir.path().join(CPU_MAX))
}

fn parse_cpu_max(text: &str, path: &Path) -> Result<CpuMax, ActuatorError> {
    let malformed = || ActuatorError::malformed(path, text, "'QUOTA PERIOD' in microseconds");
    let (quota, period) = text.trim().split_once(' ').ok_or_else(malformed)?;
    let quota = match quota {
        "max" => None,
        quota => Some(quota.parse().map_err(|_| malformed())?),
    };
    Ok(CpuMax { quota, period: period.parse().map_err(|_| malformed())? })
}

pub(crate) fn quota_text(quota: Option<u64>, period: u64) -> String {
    quota.map_or_else(|| format!("max {period}"), |quota| format!("{quota} {period}"))
}

/// One of the limit files.
pub(crate) fn memory_limit(dir: &Dir, name: &str) -> Result<Limit, ActuatorError> {
    parse_limit(&dir.read(name)?, &dir.path().join(name))
}

/// As [`memory_limit`], for a file that not every kernel has.
pub(crate) fn memory_limit_or_none(dir: &Dir, name: &str) -> Result<Option<Limit>, ActuatorError> {
    match memory_limit(dir, name) {
        Ok(limit) => Ok(Some(limit)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse_limit(text: &str, path: &Path) -> Result<Limit, ActuatorError> {
    match text.trim() {
        "max" => Ok(Limit::Unlimited),
        bytes => number(bytes, path).map(|bytes| Limit::At(bytes as f64)),
    }
}

/// The text for a limit file, given whole pages.
pub(crate) fn limit_text(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string())
}

/// What stands in `cpu.weight`.
pub(crate) fn weight(text: &str, path: &Path) -> Result<Limit, ActuatorError> {
    number(text, path).map(|weight| Limit::At(weight as f64))
}

pub(crate) fn usage(dir: &Dir) -> Result<u64, ActuatorError> {
    number(&dir.read(CURRENT)?, &dir.path().join(CURRENT))
}

/// Memory that reclaim cannot get back without swap.
pub(crate) fn unreclaimable(dir: &Dir) -> Result<u64, ActuatorError> {
    unreclaimable_of(&dir.read(STAT)?, &dir.path().join(STAT))
}

/// Anonymous and shared memory, socket buffers, and kernel memory less the slab caches that shrink under pressure.
fn unreclaimable_of(stat: &str, path: &Path) -> Result<u64, ActuatorError> {
    let optional = |key: &str| keyed(stat, key).unwrap_or(0);
    let anon = required(stat, "anon", path)?;
    let kernel = match keyed(stat, "kernel") {
        Some(kernel) => kernel.saturating_sub(optional("slab_reclaimable")),
        // Kernels before 5.18 have only the parts.
        None => ["kernel_stack", "pagetables", "percpu", "slab_unreclaimable"].into_iter().map(optional).sum(),
    };
    Ok(anon + optional("shmem") + optional("sock") + kernel)
}

pub(crate) struct V2Sampler {
    cpu: Option<CpuFiles>,
    memory: Option<MemoryFiles>,
    io: Option<IoFiles>,
    text: Vec<u8>,
}

struct IoFiles {
    stat: KeptFile,
    max: KeptFile,
    disks: Disks,
}

struct CpuFiles {
    stat: KeptFile,
    max: KeptFile,
    weight: KeptFile,
    pressure: KeptFile,
}

struct MemoryFiles {
    current: KeptFile,
    stat: KeptFile,
    max: KeptFile,
    high: KeptFile,
    events: KeptFile,
    pressure: KeptFile,
}

impl V2Sampler {
    pub(crate) fn new(cgroup: &Cgroup, budget: &Arc<DescriptorBudget>) -> Self {
        Self {
            cpu: cgroup.cpu.as_ref().map(|dir| CpuFiles {
                stat: KeptFile::new(dir, CPU_STAT, budget),
                max: KeptFile::new(dir, CPU_MAX, budget),
                weight: KeptFile::new(dir, WEIGHT, budget),
                pressure: KeptFile::new(dir, CPU_PRESSURE, budget),
            }),
            memory: cgroup.memory.as_ref().map(|dir| MemoryFiles {
                current: KeptFile::new(dir, CURRENT, budget),
                stat: KeptFile::new(dir, STAT, budget),
                max: KeptFile::new(dir, MAX, budget),
                high: KeptFile::new(dir, HIGH, budget),
                events: KeptFile::new(dir, EVENTS, budget),
                pressure: KeptFile::new(dir, MEMORY_PRESSURE, budget),
            }),
            io: cgroup.io.as_ref().map(|dir| IoFiles {
                stat: KeptFile::new(dir, IO_STAT, budget),
                max: KeptFile::new(dir, IO_MAX, budget),
                disks: cgroup.disks.clone(),
            }),
            text: Vec::new(),
        }
    }

    fn read_cpu(&mut self, reading: &mut Reading, gaps: &mut Gaps) {
        let Self { cpu: Some(files), text, .. } = self else { return };
        let path = files.stat.path();
        if let Some(stat) = gaps.take(files.stat.read(text)) {
            let at = Instant::now();
            reading.cpu_ns = gaps.take(required(stat, "usage_usec", &path)).map(|us| (us.saturating_mul(1000), at));
            // Without the cpu controller the file has no bandwidth counters; the missing cpu.max is reported then.
            reading.throttling = keyed(stat, "nr_periods")
                .zip(keyed(stat, "nr_throttled"))
                .map(|(periods, throttled)| Throttling { periods, throttled });
        }
        reading.cpu_stall = read_pressure(&mut files.pressure, text, gaps);
    }

    fn read_memory(&mut self, reading: &mut Reading, gaps: &mut Gaps) {
        let Self { memory: Some(files), text, .. } = self else { return };
        let path = files.current.path();
        let current = files.current.read(text).and_then(|text| number(text, &path));
        // Without the memory controller all of its files are missing: one line says it, the one about memory.max.
        if current.as_ref().is_err_and(ActuatorError::is_missing) {
            return;
        }
        let current = gaps.take(current);
        let path = files.stat.path();
        if let Some(stat) = gaps.take(files.stat.read(text)) {
            let inactive = gaps.take(required(stat, "inactive_file", &path));
            reading.working_set = current.zip(inactive).map(|(current, inactive)| current.saturating_sub(inactive));
            reading.unreclaimable = gaps.take(unreclaimable_of(stat, &path));
        }
        let path = files.events.path();
        let events = files.events.read(text).and_then(|text| required(text, "oom_kill", &path));
        reading.oom_kills = gaps.take(events);
        reading.memory_stall = read_pressure(&mut files.pressure, text, gaps);
    }
}

fn read_pressure(file: &mut KeptFile, text: &mut Vec<u8>, gaps: &mut Gaps) -> Option<(Stall, Instant)> {
    let path = file.path();
    let stall = file.read(text).and_then(|text| pressure(text, &path));
    gaps.take_optional(stall).map(|stall| (stall, Instant::now()))
}

impl Sampler for V2Sampler {
    fn read(&mut self, gaps: &mut Gaps) -> Reading {
        let mut reading = Reading::default();
        self.read_cpu(&mut reading, gaps);
        self.read_memory(&mut reading, gaps);
        let Self { io: Some(io), text, .. } = self else { return reading };
        // Missing where the controller is not delegated.
        reading.transferred = gaps.take_optional(io.stat.read(text)).map(|stat| (io_stat(stat), Instant::now()));
        reading
    }

    fn limit(&mut self, resource: Resource) -> Result<Option<Limit>, ActuatorError> {
        match resource {
            Resource::Cpu => {
                let Some(files) = &mut self.cpu else { return Ok(None) };
                let path = files.max.path();
                parse_cpu_max(files.max.read(&mut self.text)?, &path).map(|max| Some(max.limit()))
            }
            Resource::CpuWeight => {
                let Some(files) = &mut self.cpu else { return Ok(None) };
                let path = files.weight.path();
                weight(files.weight.read(&mut self.text)?, &path).map(Some)
            }
            Resource::DiskRead | Resource::DiskWrite => {
                let Some(files) = &mut self.io else { return Ok(None) };
                let path = files.max.path();
                let text = files.max.read(&mut self.text)?;
                disks::limit(text, CgroupVersion::V2, resource, &files.disks.devices(), &path).map(Some)
            }
            // No file of a cgroup says anything of it.
            Resource::NetReceive | Resource::NetSend => Ok(None),
            Resource::Memory | Resource::MemoryHigh => {
                let Some(files) = &mut self.memory else { return Ok(None) };
                let file = if resource.is_knob() { &mut files.high } else { &mut files.max };
                let path = file.path();
                parse_limit(file.read(&mut self.text)?, &path).map(Some)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_max_is_quota_and_period() {
        let path = Path::new("/x");
        assert_eq!(parse_cpu_max("max 100000\n", path).unwrap(), CpuMax { quota: None, period: 100_000 });
        assert_eq!(parse_cpu_max("5000 10000\n", path).unwrap(), CpuMax { quota: Some(5_000), period: 10_000 });
        assert!(parse_cpu_max("5000\n", path).is_err());
        assert!(parse_cpu_max("a b\n", path).is_err());
    }

    #[test]
    fn reclaimable_slab_does_not_count_as_unreclaimable() {
        let path = Path::new("/x");
        let stat = "anon 100\nfile 900\nkernel 50\nshmem 7\nsock 1\nslab_reclaimable 30\nslab_unreclaimable 10\n";
        assert_eq!(unreclaimable_of(stat, path).unwrap(), 128);
        let old = "anon 100\nkernel_stack 4\npercpu 2\nshmem 7\nslab_unreclaimable 10\n";
        assert_eq!(unreclaimable_of(old, path).unwrap(), 123);
        assert!(unreclaimable_of("file 1\n", path).is_err());
    }
}
