//! Knobs in the kernel's files: what stands there, what would have to, and writing it.
//!
//! All texts here are what a file holds, tidied up so that two of the same meaning are equal: numbers without blanks, lists
//! of CPUs as short as can be, `max` for no limit on v1, too, swap alone where v1 counts memory with it, and one line with
//! all rates of a device.

use std::sync::Arc;

use tidegate_model::{CgroupVersion, Limit, OutcomeStatus, Resource, Write};

use crate::apply::memory::{does_not_fit, too_close};
use crate::cgroup::dir::Dir;
use crate::cgroup::parse::number;
use crate::cgroup::{Cgroup, Hierarchy, v1, v2};
use crate::error::ActuatorError;
use crate::knobs::setting::{Device, Knob, RATES, Rates, Setting, parse_rates, rates_text};
use crate::pinning::pins::above;
use crate::pinning::{list_text, parse_list};
use crate::quota::page_size;

const CPUS: &str = "cpuset.cpus";

/// One container's files.
pub(crate) struct Place<'a> {
    pub(crate) hierarchy: &'a Hierarchy,
    pub(crate) cgroup: &'a Cgroup,
}

impl Place<'_> {
    fn version(&self) -> CgroupVersion {
        self.cgroup.version
    }

    /// The directory with the knob's files.
    pub(crate) fn dir(&self, knob: Knob) -> Result<Arc<Dir>, ActuatorError> {
        let (controller, dir) = match knob {
            Knob::CpuWeight | Knob::CpuBurst => ("cpu", self.cgroup.cpu.clone()),
            Knob::MemoryHigh | Knob::SwapMax => ("memory", self.cgroup.memory.clone()),
            Knob::Cpus => ("cpuset", self.hierarchy.cpuset(self.cgroup)?),
            Knob::IoMax(_) => {
                (if self.version() == CgroupVersion::V1 { "blkio" } else { "io" }, self.hierarchy.io(self.cgroup)?)
            }
        };
        dir.ok_or_else(|| {
            let path = self.cgroup.path.display();
            ActuatorError::Config(format!("{path} has no directory in the {controller} hierarchy"))
        })
    }

    /// What stands there.
    pub(crate) fn read(&self, knob: Knob) -> Result<String, ActuatorError> {
        let dir = self.dir(knob)?;
        let count = |name: &str| number(&dir.read(name)?, &dir.path().join(name)).map(|number| number.to_string());
        match (knob, self.version()) {
            (Knob::CpuWeight, CgroupVersion::V1) => count(v1::SHARES),
            (Knob::CpuWeight, CgroupVersion::V2) => count(v2::WEIGHT),
            (Knob::CpuBurst, _) => count(self.cgroup.burst_file()),
            (Knob::Cpus, _) => {
                let text = dir.read(CPUS)?;
                let cpus =
                    parse_list(&text).ok_or_else(|| ActuatorError::malformed(dir.path().join(CPUS), &text, "CPUs"))?;
                Ok(list_text(cpus))
            }
            (Knob::MemoryHigh, CgroupVersion::V1) => v1::memory_limit(&dir, v1::SOFT_LIMIT).map(text),
            (Knob::MemoryHigh, CgroupVersion::V2) => v2::memory_limit(&dir, v2::HIGH).map(text),
            (Knob::SwapMax, CgroupVersion::V1) => swap_of_v1(&dir).map(text),
            (Knob::SwapMax, CgroupVersion::V2) => v2::memory_limit(&dir, v2::SWAP_MAX).map(text),
            (Knob::IoMax(device), _) => self.rates(&dir, device).map(|rates| rates_text(&rates, &Rates::default())),
        }
    }

    fn rates(&self, dir: &Dir, device: Device) -> Result<Rates, ActuatorError> {
        let name = device.to_string();
        let line =
            |text: &str| text.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(' ').map(str::to_owned));
        match self.version() {
            CgroupVersion::V2 => {
                let text = dir.read(v2::IO_MAX)?;
                let malformed = || ActuatorError::malformed(dir.path().join(v2::IO_MAX), &text, "limits of a device");
                line(&text).map_or(Ok(Rates::default()), |line| parse_rates(&line).ok_or_else(malformed))
            }
            CgroupVersion::V1 => {
                let mut rates = Rates::default();
                for (rate, file) in rates.iter_mut().zip(v1::THROTTLES) {
                    let found = line(&dir.read(file)?);
                    let found = found.map(|found| number(&found, &dir.path().join(file))).transpose()?;
                    *rate = found.map(|rate| Some(rate).filter(|rate| *rate > 0));
                }
                Ok(rates)
            }
        }
    }

    /// What would have to stand there for a setting, where `found` does now; or why it cannot be.
    pub(crate) fn wanted(&self, setting: &Setting, found: &str) -> Result<Result<String, String>, ActuatorError> {
        let dir = self.dir(setting.knob())?;
        let pages = |limit: Limit| match limit {
            Limit::At(bytes) => Limit::At((bytes as u64 / page_size() * page_size()) as f64),
            Limit::Unlimited => Limit::Unlimited,
        };
        Ok(match setting {
            Setting::Weight(weight) if self.version() == CgroupVersion::V1 => Ok(v1::shares_of(*weight).to_string()),
            Setting::Weight(weight) => Ok(weight.to_string()),
            // More than the quota is refused by the kernel, and given when the quota grows.
            Setting::Burst(us) => Ok(self.cgroup.cpu_max(&dir)?.quota.map_or(*us, |quota| quota.min(*us)).to_string()),
            Setting::Cpus(cpus) => {
                let allowed = above(&dir, self.version())?;
                let left: Vec<u32> = cpus
                    .iter()
                    .copied()
                    .filter(|cpu| allowed.as_ref().is_some_and(|allowed| !allowed.contains(cpu)))
                    .collect();
                match allowed {
                    Some(allowed) if !left.is_empty() => Err(format!(
                        "CPU {} is not among {}, which the cgroup above has",
                        list_text(left),
                        list_text(allowed)
                    )),
                    _ => Ok(list_text(cpus.iter().copied())),
                }
            }
            Setting::High(limit) => {
                let wanted = pages(*limit);
                let lowers = text(wanted) != found && self.version() == CgroupVersion::V2;
                match wanted.value().filter(|_| lowers) {
                    Some(bytes) if too_close(v2::unreclaimable(&dir)?, bytes as u64) => {
                        Err(does_not_fit(v2::unreclaimable(&dir)?, bytes as u64))
                    }
                    _ => Ok(text(wanted)),
                }
            }
            Setting::SwapMax(limit) => {
                let memory = self.cgroup.own_limit(Resource::Memory)?;
                match (self.version(), memory, limit) {
                    (CgroupVersion::V1, Limit::Unlimited, Limit::At(_)) => {
                        Err("v1 limits swap and memory together, so it waits for the container to have a memory limit"
                            .to_owned())
                    }
                    _ => Ok(text(pages(*limit))),
                }
            }
            Setting::Io(_, rates) => Ok(rates_text(rates, &parse_rates(found).unwrap_or_default())),
        })
    }

    /// What has to stand there to put back what was `found` once, where `written` was written since.
    pub(crate) fn returned(&self, knob: Knob, found: &str, written: &str) -> Result<String, ActuatorError> {
        let dir = self.dir(knob)?;
        if let Knob::IoMax(device) = knob {
            // Rates that it left alone may have been changed by rules since, and are theirs to give back.
            let parse = |text: &str| parse_rates(text).unwrap_or_default();
            let (found, written, stands) = (parse(found), parse(written), self.rates(&dir, device)?);
            let changed = |at: usize| found[at].flatten() != written[at].flatten();
            let rates = [0, 1, 2, 3].map(|at| if changed(at) { Some(found[at].flatten()) } else { None });
            return Ok(rates_text(&rates, &stands));
        }
        Ok(match (knob, found.parse::<u64>()) {
            (Knob::CpuBurst, Ok(us)) => self.cgroup.cpu_max(&dir)?.quota.map_or(us, |quota| quota.min(us)).to_string(),
            // A group with processes has CPUs once it had some: all that it can have is what it had with none of its own.
            (Knob::Cpus, _) if found.is_empty() => above(&dir, self.version())?.map(list_text).unwrap_or_default(),
            // Without a limit on memory v1 has none for swap either.
            (Knob::SwapMax, Ok(_)) if self.version() == CgroupVersion::V1 => {
                match self.cgroup.own_limit(Resource::Memory)? {
                    Limit::Unlimited => "max".to_owned(),
                    Limit::At(_) => found.to_owned(),
                }
            }
            _ => found.to_owned(),
        })
    }

    /// Whether what was `written` stands there, as far as it differs from what was `found` before.
    pub(crate) fn is_as_written(&self, knob: Knob, found: &str, written: &str) -> Result<bool, ActuatorError> {
        let stands = self.read(knob)?;
        if !matches!(knob, Knob::IoMax(_)) {
            return Ok(stands == written);
        }
        let parse = |text: &str| parse_rates(text).unwrap_or_default().map(Option::flatten);
        let (found, written, stands) = (parse(found), parse(written), parse(&stands));
        Ok((0..RATES.len()).all(|at| written[at] == found[at] || written[at] == stands[at]))
    }

    /// What stands in a file, for a person.
    pub(crate) fn shown(&self, knob: Knob, text: &str) -> String {
        match (knob, self.version(), text.parse()) {
            (Knob::CpuWeight, CgroupVersion::V1, Ok(shares)) => format!("{} ({shares} shares)", v1::weight_of(shares)),
            _ if text.is_empty() => "none of its own".to_owned(),
            _ => text.to_owned(),
        }
    }

    /// Writes what [`Place::wanted`] or [`Place::read`] said, where `found` stands.
    pub(crate) fn write(
        &self,
        knob: Knob,
        wanted: &str,
        found: &str,
        writes: &mut Vec<Write>,
    ) -> Result<(), ActuatorError> {
        let dir = self.dir(knob)?;
        let v1 = self.version() == CgroupVersion::V1;
        let bytes = || if wanted == "max" { None } else { wanted.parse::<u64>().ok() };
        let (file, value) = match knob {
            Knob::CpuWeight => (if v1 { v1::SHARES } else { v2::WEIGHT }, wanted.to_owned()),
            Knob::CpuBurst => (self.cgroup.burst_file(), wanted.to_owned()),
            // Nothing is written without at least the line's end; on v2 that is "all that the parent has".
            Knob::Cpus => (CPUS, if wanted.is_empty() { "\n".to_owned() } else { wanted.to_owned() }),
            Knob::MemoryHigh if v1 => (v1::SOFT_LIMIT, v1::limit_text(bytes())),
            // The caller holds locks that others wait for; what is beyond it is reclaimed as the container goes on.
            Knob::MemoryHigh => {
                writes.push(dir.write_nonblocking(v2::HIGH, wanted)?);
                return Ok(());
            }
            Knob::SwapMax if v1 => {
                let memory = v1::memory_limit(&dir, v1::LIMIT)?.value();
                let both = memory.zip(bytes()).map(|(memory, swap)| memory as u64 + swap);
                (v1::MEMSW_LIMIT, v1::limit_text(both))
            }
            Knob::SwapMax => (v2::SWAP_MAX, wanted.to_owned()),
            Knob::IoMax(device) if v1 => return write_throttles(&dir, device, wanted, found, writes),
            Knob::IoMax(device) => (v2::IO_MAX, format!("{device} {wanted}")),
        };
        writes.push(dir.write(file, &value)?);
        Ok(())
    }

    /// A status and a sentence that a person can act on.
    pub(crate) fn explain(&self, knob: Knob, error: &ActuatorError) -> (OutcomeStatus, String) {
        use OutcomeStatus::{Failed, Infeasible, Refused};
        let is_gone = || self.dir(knob).is_ok_and(|dir| !dir.is_current());
        let (status, why) = match error.errno() {
            None => (if matches!(error, ActuatorError::Config(_)) { Refused } else { Failed }, None),
            Some(nix::libc::ENOENT | nix::libc::ENODEV) if is_gone() => {
                (Failed, Some("the container is gone".to_owned()))
            }
            Some(nix::libc::ENODEV) => {
                (Refused, Some("there is no such disk; a partition has no limits of its own".to_owned()))
            }
            Some(nix::libc::ENOENT) if self.version() == CgroupVersion::V1 => {
                (Refused, Some("this kernel does not have it".to_owned()))
            }
            Some(nix::libc::ENOENT) => (
                Refused,
                Some("this kernel does not have it, or the cgroup above does not hand the controller down".to_owned()),
            ),
            Some(nix::libc::EBUSY) if knob == Knob::Cpus => {
                (Refused, Some("a cgroup below has a CPU that is not among them".to_owned()))
            }
            Some(nix::libc::EBUSY) => (Infeasible, Some("the container holds more than that".to_owned())),
            Some(nix::libc::ENOSPC) => (
                Refused,
                Some("its processes would be left without a CPU, or have no memory node to run on".to_owned()),
            ),
            Some(nix::libc::EACCES) if knob == Knob::Cpus => {
                (Refused, Some("the cgroup above does not have all of these CPUs".to_owned()))
            }
            Some(nix::libc::EACCES | nix::libc::EPERM) => {
                (Failed, Some("run as root, or have the cgroup delegated".to_owned()))
            }
            Some(nix::libc::EINVAL) if knob == Knob::CpuWeight => {
                (Refused, Some("the kernel takes none while cpu.idle of the cgroup is 1".to_owned()))
            }
            Some(nix::libc::EINVAL | nix::libc::ERANGE) => {
                (Refused, Some("the kernel does not take this value here".to_owned()))
            }
            Some(_) => (Failed, None),
        };
        (status, why.map_or_else(|| error.to_string(), |why| format!("{error}; {why}")))
    }
}

/// v1 limits memory and swap together; what is left of that beyond the limit on memory is for swap.
fn swap_of_v1(dir: &Dir) -> Result<Limit, ActuatorError> {
    let both = v1::memory_limit(dir, v1::MEMSW_LIMIT)?.value();
    let memory = v1::memory_limit(dir, v1::LIMIT)?.value();
    Ok(both.zip(memory).map_or(Limit::Unlimited, |(both, memory)| Limit::At((both - memory).max(0.0))))
}

/// v1 has a file a rate; zero takes a limit away.
fn write_throttles(
    dir: &Dir,
    device: Device,
    wanted: &str,
    found: &str,
    writes: &mut Vec<Write>,
) -> Result<(), ActuatorError> {
    let parse = |text: &str| parse_rates(text).unwrap_or_default();
    let (wanted, found) = (parse(wanted), parse(found));
    for at in (0..RATES.len()).filter(|at| wanted[*at].flatten() != found[*at].flatten()) {
        let rate = wanted[at].flatten().unwrap_or(0);
        writes.push(dir.write(v1::THROTTLES[at], &format!("{device} {rate}"))?);
    }
    Ok(())
}

fn text(limit: Limit) -> String {
    v2::limit_text(limit.value().map(|bytes| bytes as u64))
}
