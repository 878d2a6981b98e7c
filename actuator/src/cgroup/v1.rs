//! cgroup v1: one directory a controller, one value a file.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tidegate_model::{CgroupVersion, Limit, Resource};

use crate::cgroup::dir::{DescriptorBudget, Dir, KeptFile};
use crate::cgroup::disks::{self, Disks};
use crate::cgroup::parse::{io_service_bytes, keyed, number, required};
use crate::cgroup::sampler::{Gaps, Reading, Sampler, Throttling};
use crate::cgroup::{Cgroup, WEIGHTS};
use crate::error::ActuatorError;
use crate::quota::CpuMax;

pub(crate) const QUOTA: &str = "cpu.cfs_quota_us";
pub(crate) const PERIOD: &str = "cpu.cfs_period_us";
pub(crate) const BURST: &str = "cpu.cfs_burst_us";
pub(crate) const SHARES: &str = "cpu.shares";
const IO_BYTES: &str = "blkio.throttle.io_service_bytes_recursive";
const CPU_STAT: &str = "cpu.stat";
const CPU_USAGE: &str = "cpuacct.usage";
pub(crate) const LIMIT: &str = "memory.limit_in_bytes";
pub(crate) const MEMSW_LIMIT: &str = "memory.memsw.limit_in_bytes";
pub(crate) const SOFT_LIMIT: &str = "memory.soft_limit_in_bytes";
/// In the order of v2's `rbps wbps riops wiops`.
pub(crate) const THROTTLES: [&str; 4] = [
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_iops_device",
];
const USAGE: &str = "memory.usage_in_bytes";
const KERNEL_USAGE: &str = "memory.kmem.usage_in_bytes";
const STAT: &str = "memory.stat";
const OOM_CONTROL: &str = "memory.oom_control";

/// The kernel prints "unlimited" as the largest page-aligned signed number, which depends on the page size.
const UNLIMITED_FROM: u64 = 1 << 62;

pub(crate) fn cpu_max(dir: &Dir) -> Result<CpuMax, ActuatorError> {
    let period = number(&dir.read(PERIOD)?, &dir.path().join(PERIOD))?;
    Ok(CpuMax { quota: parse_quota(&dir.read(QUOTA)?, &dir.path().join(QUOTA))?, period })
}

fn parse_quota(text: &str, path: &Path) -> Result<Option<u64>, ActuatorError> {
    if text.trim().starts_with('-') {
        return Ok(None);
    }
    number(text, path).map(Some)
}

pub(crate) fn quota_text(quota: Option<u64>) -> String {
    quota.map_or_else(|| "-1".to_owned(), |quota| quota.to_string())
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
    let bytes = number(text, path)?;
    Ok(if bytes >= UNLIMITED_FROM { Limit::Unlimited } else { Limit::At(bytes as f64) })
}

/// The shares for a weight of v2, as the kernel converts them (`sched_weight_from_cgroup` in kernel/sched/core.c).
pub(crate) fn shares_of(weight: u64) -> u64 {
    (weight * 1024 + 50) / 100
}

/// The weight of v2 for shares (`sched_weight_to_cgroup`).
pub(crate) fn weight_of(shares: u64) -> u64 {
    ((shares * 100 + 512) / 1024).clamp(*WEIGHTS.start(), *WEIGHTS.end())
}

/// The weight that the shares in `cpu.shares` stand for.
pub(crate) fn weight(text: &str, path: &Path) -> Result<Limit, ActuatorError> {
    number(text, path).map(|shares| Limit::At(weight_of(shares) as f64))
}

/// The text for a limit file, given whole pages.
pub(crate) fn limit_text(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string())
}

pub(crate) fn usage(dir: &Dir) -> Result<u64, ActuatorError> {
    number(&dir.read(USAGE)?, &dir.path().join(USAGE))
}

/// Memory that reclaim cannot get back without swap.
pub(crate) fn unreclaimable(dir: &Dir) -> Result<u64, ActuatorError> {
    let kernel = match dir.read(KERNEL_USAGE) {
        Ok(text) => number(&text, &dir.path().join(KERNEL_USAGE))?,
        // Kernels booted with cgroup.memory=nokmem have no such file and charge no kernel memory.
        Err(error) if error.is_missing() => 0,
        Err(error) => return Err(error),
    };
    unreclaimable_of(&dir.read(STAT)?, kernel, &dir.path().join(STAT))
}

/// Anonymous and shared memory of the whole subtree, and kernel memory. v1 does not say how much of its slab memory could
/// be reclaimed, so all of it counts. Where `total_shmem` is missing (kernels before 4.11), the anonymous LRU lists, which
/// hold shared memory too, take its place.
fn unreclaimable_of(stat: &str, kernel: u64, path: &Path) -> Result<u64, ActuatorError> {
    let rss = required(stat, "total_rss", path)?;
    let user = match keyed(stat, "total_shmem") {
        Some(shmem) => rss + shmem,
        None => {
            let lists = ["total_active_anon", "total_inactive_anon", "total_unevictable"];
            rss.max(lists.iter().filter_map(|key| keyed(stat, key)).sum())
        }
    };
    Ok(user + kernel)
}

pub(crate) struct V1Sampler {
    cpu_usage: Option<KeptFile>,
    cpu: Option<CpuFiles>,
    memory: Option<MemoryFiles>,
    io: Option<IoFiles>,
    text: Vec<u8>,
}

struct IoFiles {
    bytes: KeptFile,
    /// Of reading and writing.
    limits: [KeptFile; 2],
    disks: Disks,
}

struct CpuFiles {
    stat: KeptFile,
    quota: KeptFile,
    period: KeptFile,
    shares: KeptFile,
}

struct MemoryFiles {
    usage: KeptFile,
    stat: KeptFile,
    kernel: KeptFile,
    limit: KeptFile,
    soft_limit: KeptFile,
    oom: KeptFile,
}

impl V1Sampler {
    pub(crate) fn new(cgroup: &Cgroup, budget: &Arc<DescriptorBudget>) -> Self {
        Self {
            cpu_usage: cgroup.cpuacct.as_ref().map(|dir| KeptFile::new(dir, CPU_USAGE, budget)),
            cpu: cgroup.cpu.as_ref().map(|dir| CpuFiles {
                stat: KeptFile::new(dir, CPU_STAT, budget),
                quota: KeptFile::new(dir, QUOTA, budget),
                period: KeptFile::new(dir, PERIOD, budget),
                shares: KeptFile::new(dir, SHARES, budget),
            }),
            memory: cgroup.memory.as_ref().map(|dir| MemoryFiles {
                usage: KeptFile::new(dir, USAGE, budget),
                stat: KeptFile::new(dir, STAT, budget),
                kernel: KeptFile::new(dir, KERNEL_USAGE, budget),
                limit: KeptFile::new(dir, LIMIT, budget),
                soft_limit: KeptFile::new(dir, SOFT_LIMIT, budget),
                oom: KeptFile::new(dir, OOM_CONTROL, budget),
            }),
            io: cgroup.io.as_ref().map(|dir| IoFiles {
                bytes: KeptFile::new(dir, IO_BYTES, budget),
                limits: [0, 1].map(|at| KeptFile::new(dir, THROTTLES[at], budget)),
                disks: cgroup.disks.clone(),
            }),
            text: Vec::new(),
        }
    }

    fn read_memory(&mut self, reading: &mut Reading, gaps: &mut Gaps) {
        let Self { memory: Some(files), text, .. } = self else { return };
        let usage = gaps.take(read_number(&mut files.usage, text));
        let kernel = match read_number(&mut files.kernel, text) {
            Err(error) if error.errno() == Some(nix::libc::ENOENT) => Some(0),
            result => gaps.take(result),
        };
        let path = files.stat.path();
        if let Some(stat) = gaps.take(files.stat.read(text)) {
            let inactive = gaps.take(required(stat, "total_inactive_file", &path));
            reading.working_set = usage.zip(inactive).map(|(usage, inactive)| usage.saturating_sub(inactive));
            reading.unreclaimable = kernel.and_then(|kernel| gaps.take(unreclaimable_of(stat, kernel, &path)));
        }
        let path = files.oom.path();
        // Kernels before 4.13 do not count kills here; there is nothing to report then.
        reading.oom_kills = gaps.take(files.oom.read(text)).and_then(|text| keyed(text, "oom_kill"));
        if reading.oom_kills.is_none() {
            tracing::trace!(path = %path.display(), "no oom_kill counter");
        }
    }
}

impl Sampler for V1Sampler {
    fn read(&mut self, gaps: &mut Gaps) -> Reading {
        let mut reading = Reading::default();
        if let Some(file) = &mut self.cpu_usage {
            reading.cpu_ns = gaps.take(read_number(file, &mut self.text)).map(|ns| (ns, Instant::now()));
        }
        if let Some(files) = &mut self.cpu {
            let path = files.stat.path();
            reading.throttling = gaps.take(files.stat.read(&mut self.text)).and_then(|stat| {
                let periods = gaps.take(required(stat, "nr_periods", &path))?;
                let throttled = gaps.take(required(stat, "nr_throttled", &path))?;
                Some(Throttling { periods, throttled })
            });
        }
        self.read_memory(&mut reading, gaps);
        let Self { io: Some(io), text, .. } = self else { return reading };
        // Older kernels count the cgroup alone, not those below it, in another file: nothing is told there.
        reading.transferred =
            gaps.take_optional(io.bytes.read(text)).map(|stat| (io_service_bytes(stat), Instant::now()));
        reading
    }

    fn limit(&mut self, resource: Resource) -> Result<Option<Limit>, ActuatorError> {
        match resource {
            Resource::Cpu => {
                let Some(files) = &mut self.cpu else { return Ok(None) };
                let path = files.quota.path();
                let quota = parse_quota(files.quota.read(&mut self.text)?, &path)?;
                let period = read_number(&mut files.period, &mut self.text)?;
                Ok(Some(CpuMax { quota, period }.limit()))
            }
            Resource::CpuWeight => {
                let Some(files) = &mut self.cpu else { return Ok(None) };
                let path = files.shares.path();
                weight(files.shares.read(&mut self.text)?, &path).map(Some)
            }
            Resource::DiskRead | Resource::DiskWrite => {
                let Some(files) = &mut self.io else { return Ok(None) };
                let file = &mut files.limits[disks::rate_of(resource)];
                let path = file.path();
                let text = file.read(&mut self.text)?;
                disks::limit(text, CgroupVersion::V1, resource, &files.disks.devices(), &path).map(Some)
            }
            // No file of a cgroup says anything of it.
            Resource::NetReceive | Resource::NetSend => Ok(None),
            Resource::Memory | Resource::MemoryHigh => {
                let Some(files) = &mut self.memory else { return Ok(None) };
                let file = if resource.is_knob() { &mut files.soft_limit } else { &mut files.limit };
                let path = file.path();
                parse_limit(file.read(&mut self.text)?, &path).map(Some)
            }
        }
    }
}

fn read_number(file: &mut KeptFile, text: &mut Vec<u8>) -> Result<u64, ActuatorError> {
    let path = file.path();
    number(file.read(text)?, &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlimited_is_told_from_a_limit_for_any_page_size() {
        let path = Path::new("/x");
        assert_eq!(parse_limit("9223372036854771712\n", path).unwrap(), Limit::Unlimited);
        assert_eq!(parse_limit("9223372036854710272\n", path).unwrap(), Limit::Unlimited);
        assert_eq!(parse_limit("104857600\n", path).unwrap(), Limit::At(104_857_600.0));
        assert_eq!(parse_quota("-1\n", path).unwrap(), None);
        assert_eq!(parse_quota("50000\n", path).unwrap(), Some(50_000));
        assert!(parse_quota("", path).is_err());
    }

    #[test]
    fn shared_memory_is_not_reclaimable() {
        let path = Path::new("/x");
        let stat = "total_rss 100\ntotal_shmem 20\ntotal_cache 500\n";
        assert_eq!(unreclaimable_of(stat, 3, path).unwrap(), 123);
        let old = "total_rss 100\ntotal_active_anon 90\ntotal_inactive_anon 30\ntotal_unevictable 0\n";
        assert_eq!(unreclaimable_of(old, 3, path).unwrap(), 123);
        assert!(unreclaimable_of("", 3, path).is_err());
    }

    #[test]
    fn each_weight_comes_back_from_its_shares() {
        assert_eq!((shares_of(1), shares_of(100), shares_of(10_000)), (10, 1_024, 102_400));
        for weight in WEIGHTS {
            assert_eq!(weight_of(shares_of(weight)), weight);
        }
        // The shares that v1 has and v2 has not.
        assert_eq!((weight_of(2), weight_of(262_144)), (1, 10_000));
    }
}
