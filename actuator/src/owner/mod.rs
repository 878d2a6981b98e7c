//! Who keeps a container's limits besides the kernel, and telling them of a change in their own words.
//!
//! A limit written into the cgroup file alone is forgotten by whoever made the container: `docker inspect` shows the old
//! one, a restart brings it back, a `systemctl daemon-reload` writes it over ours. So a change goes through the owner where
//! there is one, and the kernel's file is read back afterwards.

mod dbus;
mod docker;
pub(crate) mod late;
mod lxd;
mod podman;
mod systemd;

use std::collections::BTreeMap;
use std::path::Path;

use thiserror::Error;
use tidegate_model::{CgroupVersion, Limit, Resource, Runtime, Write};

use crate::baseline::Kept;
use crate::capacity::Capacity;
use crate::cgroup::Cgroup;
use crate::owner::docker::Docker;
use crate::owner::late::{Said, Unanswered};
use crate::owner::lxd::Lxd;
use crate::owner::podman::Podman;
use crate::owner::systemd::Unit;
use crate::quota::CpuMax;
use crate::runtime::Runtimes;
use crate::runtime::daemon::{Daemon, NoAnswer};
use crate::runtime::sent::Sent;

/// A program that keeps a record of a container's limits.
///
/// Owners set all limits that they know with each change. So they are given the other limit as well, as it stands: one that
/// they remember differently is told along, or they would bring theirs back. `changed` says whether that other limit was ever
/// changed by us.
pub(crate) trait Owner {
    /// Sets the CPU limit; returns what was told to the owner.
    fn set_cpu(&self, new: CpuMax, beside: MemoryWish, changed: bool) -> Result<Told, NotTold>;

    /// Sets the memory limit.
    fn set_memory(&self, new: MemoryWish, beside: CpuMax, changed: bool) -> Result<Told, NotTold>;

    /// Sets a knob that a rule moved, and with `changed` both limits as they stand. Asked only where [`keeps_knobs`].
    fn set_knob(&self, knob: Resource, _: Limit, _: (CpuMax, MemoryWish), _: bool) -> Result<Told, NotTold> {
        Err(NotTold::new(format!("it keeps no {knob}")))
    }

    /// Whether it has still to answer an update, of whichever container.
    fn is_behind(&self) -> bool;
}

/// A memory limit for an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryWish {
    /// Whole pages, in bytes; `None` is unlimited.
    pub(crate) max: Option<u64>,
    /// How much may be swapped out, in bytes; `None` is unlimited. It stays as it is, but Docker and Podman count it
    /// together with the memory.
    pub(crate) swap: Option<u64>,
    /// `memory.high` when it has to be told along; `Some(None)` is unlimited.
    pub(crate) high: Option<Option<u64>>,
}

/// What an owner took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) write: Write,
    /// Whether the limit is as it was wished. Docker and Podman have no word for "unlimited" in some cases; they are told
    /// the machine's capacity, and the file has to be written after them.
    pub(crate) exact: bool,
}

/// Why an owner did not take it, in words.
#[derive(Debug, Error)]
#[error("{why}")]
pub(crate) struct NotTold {
    why: String,
    /// It may take it all the same, later.
    pub(crate) unanswered: Option<Box<Unanswered>>,
}

impl NotTold {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), unanswered: None }
    }

    /// An update that `daemon` did not answer, and may still carry out where it was `sent`.
    fn unanswered(daemon: &Daemon, (why, sent): (NoAnswer, Option<Sent>), said: Said) -> Self {
        let Some(sent) = sent else { return why.into() };
        let owner = daemon.name();
        let why = format!("{why}, and it may carry this out later");
        Self { why, unanswered: Some(Box::new(Unanswered { owner, said, sent })) }
    }
}

impl From<NoAnswer> for NotTold {
    fn from(why: NoAnswer) -> Self {
        Self::new(why.to_string())
    }
}

/// The owner of the container at `path`; `None` where the cgroup file is all there is. `baseline` is what stood before our
/// first change.
pub(crate) fn owner<'a>(
    runtimes: &'a Runtimes,
    runtime: Runtime,
    id: &'a str,
    path: &Path,
    capacity: Capacity,
    baseline: BTreeMap<Resource, Limit>,
) -> Option<Box<dyn Owner + 'a>> {
    match runtime {
        Runtime::Docker => Some(Box::new(Docker { daemon: &runtimes.docker, id, capacity })),
        Runtime::Podman => Some(Box::new(Podman { daemon: &runtimes.podman, id, capacity })),
        Runtime::Lxc => runtimes.lxd.find(id).map(|(daemon, instance)| {
            let owner: Box<dyn Owner> = Box::new(Lxd { daemon, instance, capacity, baseline });
            owner
        }),
        _ => unit(path).map(|unit| Box::new(Unit { systemd: &runtimes.systemd, unit }) as Box<dyn Owner>),
    }
}

/// Whether the owner of a container keeps the knobs that rules move. Docker and Podman know nothing of them, and systemd
/// knows only those of v2.
pub(crate) fn keeps_knobs(runtime: Runtime, cgroup: &Cgroup) -> bool {
    let is_units = !matches!(runtime, Runtime::Docker | Runtime::Podman) && unit(&cgroup.path).is_some();
    is_units && cgroup.version == CgroupVersion::V2
}

/// Whether systemd's bus lets us in.
pub(crate) fn reach_systemd(systemd: &Daemon) -> Result<(), NoAnswer> {
    systemd.ask(|socket| dbus::reach(socket, systemd::TIMEOUT))
}

/// Whether the owner of a container brings our limits back when it starts it again. A scope ends with what runs in it.
pub(crate) fn keeps(runtimes: &Runtimes, runtime: Runtime, id: &str, path: &Path) -> Option<Kept> {
    let over_reboots = match runtime {
        Runtime::Docker | Runtime::Podman => true,
        Runtime::Lxc if runtimes.lxd.find(id).is_some() => true,
        // Its runtime properties live in /run.
        Runtime::Systemd => false,
        Runtime::Machine if path.extension().is_some_and(|extension| extension == "service") => false,
        _ => return None,
    };
    Some(Kept { id: id.to_owned(), over_reboots })
}

/// Whether the owner of a container keeps CPU limits in whole percents of a CPU. LXD does so with the usual period.
pub(crate) fn counts_percents(runtimes: &Runtimes, runtime: Runtime, id: &str, path: &Path) -> bool {
    unit(path).is_some() || (runtime == Runtime::Lxc && runtimes.lxd.find(id).is_some())
}

/// The unit of the system's systemd that a cgroup is, if it is one.
pub(crate) fn unit(path: &Path) -> Option<String> {
    let leaf = path.file_name()?.to_str()?;
    let is_unit = leaf.ends_with(".service") || leaf.ends_with(".scope");
    // What is below user@1000.service belongs to that user's own systemd.
    let parents: Vec<_> = path.parent()?.iter().skip(1).map(|part| part.to_str().unwrap_or("")).collect();
    let of_system = !parents.is_empty() && parents.iter().all(|part| part.ends_with(".slice"));
    // A unit whose name looks like one of the kernel's files has an underscore before it.
    (is_unit && of_system).then(|| leaf.strip_prefix('_').unwrap_or(leaf).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_the_systems_systemd_are_told_by_their_paths() {
        for (path, expected) in [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/system-pg.slice/pg@1.service", Some("pg@1.service")),
            ("/machine.slice/machine-qemu\\x2d1\\x2dvm.scope", Some("machine-qemu\\x2d1\\x2dvm.scope")),
            ("/kubepods.slice/kubepods-pod1.slice/cri-containerd-1.scope", Some("cri-containerd-1.scope")),
            ("/system.slice/_cpu.service", Some("cpu.service")),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/apptainer-1.scope", None),
            ("/lxc.payload.web/system.slice/cron.service", None),
            ("/lxc.payload.web", None),
            ("/nginx.service", None),
            ("/", None),
        ] {
            assert_eq!(unit(Path::new(path)).as_deref(), expected, "{path}");
        }
    }
}
