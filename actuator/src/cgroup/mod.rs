//! Cgroups as files: where the hierarchies are, one cgroup's directories held open, and what v1 and v2 call things.

pub(crate) mod dir;
pub(crate) mod disks;
pub(crate) mod mounts;
pub(crate) mod parse;
pub(crate) mod sampler;
pub(crate) mod v1;
pub(crate) mod v2;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_model::{CgroupVersion, Limit, Resource, Write};

use crate::cgroup::dir::Dir;
use crate::cgroup::disks::Disks;
use crate::cgroup::mounts::Mounts;
use crate::error::ActuatorError;
use crate::network::{Network, Networks};
use crate::quota::CpuMax;

/// The weights that v2 knows (`CGROUP_WEIGHT_MIN`, `_MAX` in include/linux/cgroup.h).
pub(crate) const WEIGHTS: std::ops::RangeInclusive<u64> = 1..=10_000;

/// Where the controllers of this host are. On v2 all of them are in one place.
#[derive(Clone, Debug)]
pub(crate) struct Hierarchy {
    pub(crate) version: CgroupVersion,
    cpu: Option<PathBuf>,
    cpuacct: Option<PathBuf>,
    memory: Option<PathBuf>,
    cpuset: Option<PathBuf>,
    io: Option<PathBuf>,
    disks: Disks,
    networks: Networks,
}

impl Hierarchy {
    /// Looks at what is mounted. A hybrid host keeps its cpu and memory controllers in v1, so v1 counts there.
    pub(crate) fn find(mount: &Path) -> Result<Self, ActuatorError> {
        let mounts = Mounts::find(mount);
        let v1 = |controller: &str| mounts.v1.get(controller).map(|m| m.path.clone());
        if v1("cpu").is_some() || v1("memory").is_some() {
            return Ok(Self {
                version: CgroupVersion::V1,
                cpu: v1("cpu"),
                cpuacct: v1("cpuacct"),
                memory: v1("memory"),
                cpuset: v1("cpuset"),
                io: v1("blkio"),
                disks: Disks::default(),
                networks: Networks::default(),
            });
        }
        let root = mounts.v2.map(|m| m.path).ok_or_else(|| ActuatorError::NoHierarchy { mount: mount.to_owned() })?;
        Ok(Self {
            version: CgroupVersion::V2,
            cpu: Some(root.clone()),
            cpuacct: Some(root.clone()),
            memory: Some(root.clone()),
            cpuset: Some(root.clone()),
            io: Some(root),
            disks: Disks::default(),
            networks: Networks::default(),
        })
    }

    /// The same, with the disks that limits are for.
    pub(crate) fn with_disks(self, disks: Disks) -> Self {
        Self { disks, ..self }
    }

    /// The same, with the networks that limits are for.
    pub(crate) fn with_networks(self, networks: Networks) -> Self {
        Self { networks, ..self }
    }

    /// Looks for disks again; true when there are others than before.
    pub(crate) fn refresh_disks(&self) -> bool {
        self.disks.refresh()
    }

    /// The directories to walk for containers: the one whose inode names an incarnation comes first.
    pub(crate) fn walk_roots(&self) -> Vec<&Path> {
        let mut roots: Vec<&Path> = Vec::new();
        for root in [&self.cpu, &self.memory].into_iter().flatten() {
            if !roots.contains(&root.as_path()) {
                roots.push(root);
            }
        }
        roots
    }

    /// Every controller's directory, each once: where a new cgroup has to be made.
    pub(crate) fn roots(&self) -> Vec<&Path> {
        let mut roots = self.walk_roots();
        roots.extend(self.cpuacct.as_deref().filter(|root| Some(*root) != self.cpu.as_deref()));
        roots
    }

    /// Opens the directories of the cgroup `path` (below the hierarchy's root). A controller that lacks it is `None`.
    pub(crate) fn open(&self, path: &Path) -> Result<Cgroup, ActuatorError> {
        let open = |root: &Option<PathBuf>| match root {
            None => Ok(None),
            Some(root) => match Dir::open(&below(root, path)) {
                Ok(dir) => Ok(Some(Arc::new(dir))),
                Err(error) if error.is_missing() => Ok(None),
                Err(error) => Err(error),
            },
        };
        let cpu = open(&self.cpu)?;
        let shared = |root: &Option<PathBuf>| match (root == &self.cpu, &cpu) {
            (true, Some(dir)) => Ok(Some(Arc::clone(dir))),
            _ => open(root),
        };
        let (cpuacct, memory) = (shared(&self.cpuacct)?, shared(&self.memory)?);
        let io = shared(&self.io)?;
        let (disks, network) = (self.disks.clone(), self.networks.of_container());
        Ok(Cgroup { version: self.version, path: path.to_owned(), cpu, cpuacct, memory, io, disks, network })
    }

    /// The directory of a cgroup that holds its cpuset; `None` where there is none. It is opened for each use: few need it.
    pub(crate) fn cpuset(&self, cgroup: &Cgroup) -> Result<Option<Arc<Dir>>, ActuatorError> {
        self.beside(&self.cpuset, cgroup)
    }

    /// As [`Hierarchy::cpuset`], with what limits its disks.
    pub(crate) fn io(&self, cgroup: &Cgroup) -> Result<Option<Arc<Dir>>, ActuatorError> {
        self.beside(&self.io, cgroup)
    }

    fn beside(&self, root: &Option<PathBuf>, cgroup: &Cgroup) -> Result<Option<Arc<Dir>>, ActuatorError> {
        if let (true, Some(dir)) = (*root == self.cpu, &cgroup.cpu) {
            return Ok(Some(Arc::clone(dir)));
        }
        let Some(root) = root else { return Ok(None) };
        match Dir::open(&below(root, &cgroup.path)) {
            Ok(dir) => Ok(Some(Arc::new(dir))),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a cgroup has no directory yet in which disks are limited, though there is such a hierarchy.
    pub(crate) fn lacks_io(&self, cgroup: &Cgroup) -> bool {
        self.io.is_some() && cgroup.io.is_none()
    }

    /// Whether every directory of `cgroup` is still the one that its path leads to, and none is missing; but for the one of
    /// disks, which many a container never gets.
    pub(crate) fn is_current(&self, cgroup: &Cgroup) -> bool {
        let wanted = [self.cpu.is_some(), self.cpuacct.is_some(), self.memory.is_some()];
        wanted.into_iter().zip(cgroup.dirs()).all(|(wanted, dir)| match dir {
            None => !wanted,
            // The first one was just seen by the walk with this inode.
            Some(dir) => cgroup.primary().is_some_and(|primary| Arc::ptr_eq(primary, dir)) || dir.is_current(),
        })
    }
}

/// `path` below `root`, though `path` is absolute.
pub(crate) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// One cgroup with its directories open. What is written through it can only land in the cgroup that was opened, whatever
/// happens to the path meanwhile.
#[derive(Debug)]
pub(crate) struct Cgroup {
    pub(crate) version: CgroupVersion,
    /// Below the hierarchy's root.
    pub(crate) path: PathBuf,
    pub(crate) cpu: Option<Arc<Dir>>,
    pub(crate) cpuacct: Option<Arc<Dir>>,
    pub(crate) memory: Option<Arc<Dir>>,
    /// Where it is missing, nothing that goes to disks is measured or limited.
    pub(crate) io: Option<Arc<Dir>>,
    /// Of the host.
    pub(crate) disks: Disks,
    /// Of whoever is in it, in which no file of it has a part.
    pub(crate) network: Network,
}

impl Cgroup {
    fn dirs(&self) -> [Option<&Arc<Dir>>; 3] {
        [self.cpu.as_ref(), self.cpuacct.as_ref(), self.memory.as_ref()]
    }

    /// The directory whose inode names the incarnation: the first that the walk sees, too.
    pub(crate) fn primary(&self) -> Option<&Arc<Dir>> {
        self.cpu.as_ref().or(self.memory.as_ref())
    }

    /// Whether its path still leads to it.
    pub(crate) fn still_exists(&self) -> bool {
        self.primary().is_some_and(|dir| dir.is_current())
    }

    /// Whether both have the same directories open.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let inodes = |cgroup: &Self| cgroup.dirs().map(|dir| dir.map(|dir| dir.inode()));
        inodes(self) == inodes(other) && self.io.is_some() == other.io.is_some()
    }

    /// The directory of the controller that limits `resource`; none limits a network.
    pub(crate) fn dir(&self, resource: Resource) -> Option<&Dir> {
        match resource.of() {
            Resource::Memory => self.memory.as_deref(),
            Resource::DiskRead | Resource::DiskWrite => self.io.as_deref(),
            Resource::NetReceive | Resource::NetSend => None,
            _ => self.cpu.as_deref(),
        }
    }

    /// The cgroup's own limit, or the knob, as it stands in its file.
    pub(crate) fn own_limit(&self, resource: Resource) -> Result<Limit, ActuatorError> {
        if resource.is_network() {
            return self.network.limit(resource);
        }
        let dir = self.dir(resource).ok_or_else(|| self.no_controller(resource))?;
        match (resource, self.version) {
            (Resource::Cpu, _) => Ok(self.cpu_max(dir)?.limit()),
            (Resource::Memory, CgroupVersion::V1) => v1::memory_limit(dir, v1::LIMIT),
            (Resource::Memory, CgroupVersion::V2) => v2::memory_limit(dir, v2::MAX),
            (Resource::NetReceive | Resource::NetSend, _) => self.network.limit(resource),
            (Resource::DiskRead | Resource::DiskWrite, version) => {
                let name = disks::file(version, resource);
                disks::limit(&dir.read(name)?, version, resource, &self.disks.devices(), &dir.path().join(name))
            }
            (Resource::MemoryHigh, CgroupVersion::V1) => v1::memory_limit(dir, v1::SOFT_LIMIT),
            (Resource::MemoryHigh, CgroupVersion::V2) => v2::memory_limit(dir, v2::HIGH),
            (Resource::CpuWeight, CgroupVersion::V1) => {
                v1::weight(&dir.read(v1::SHARES)?, &dir.path().join(v1::SHARES))
            }
            (Resource::CpuWeight, CgroupVersion::V2) => {
                v2::weight(&dir.read(v2::WEIGHT)?, &dir.path().join(v2::WEIGHT))
            }
        }
    }

    /// How much memory it uses, page cache included.
    pub(crate) fn memory_used(&self, dir: &Dir) -> Result<u64, ActuatorError> {
        match self.version {
            CgroupVersion::V1 => v1::usage(dir),
            CgroupVersion::V2 => v2::usage(dir),
        }
    }

    pub(crate) fn no_controller(&self, resource: Resource) -> ActuatorError {
        let controller = self.controller(resource);
        ActuatorError::Config(format!("{} has no directory in the {controller} hierarchy", self.path.display()))
    }

    /// The kernel's name of the controller that limits `resource`.
    pub(crate) fn controller(&self, resource: Resource) -> &'static str {
        match (resource.of(), self.version) {
            (Resource::DiskRead | Resource::DiskWrite, CgroupVersion::V1) => "blkio",
            (Resource::DiskRead | Resource::DiskWrite, CgroupVersion::V2) => "io",
            (resource, _) => resource.as_str(),
        }
    }

    pub(crate) fn cpu_max(&self, dir: &Dir) -> Result<CpuMax, ActuatorError> {
        match self.version {
            CgroupVersion::V1 => v1::cpu_max(dir),
            CgroupVersion::V2 => v2::cpu_max(dir),
        }
    }

    /// Writes the quota in one write; the period stays as it is.
    pub(crate) fn write_quota(&self, dir: &Dir, quota: Option<u64>, period: u64) -> Result<Write, ActuatorError> {
        match self.version {
            CgroupVersion::V1 => dir.write(v1::QUOTA, &v1::quota_text(quota)),
            CgroupVersion::V2 => dir.write(v2::CPU_MAX, &v2::quota_text(quota, period)),
        }
    }

    /// The name of the burst file.
    pub(crate) fn burst_file(&self) -> &'static str {
        match self.version {
            CgroupVersion::V1 => v1::BURST,
            CgroupVersion::V2 => v2::BURST,
        }
    }

    /// The name of the file that holds the limit.
    pub(crate) fn limit_file(&self, resource: Resource) -> &'static str {
        match (resource, self.version) {
            (Resource::Cpu, CgroupVersion::V1) => v1::QUOTA,
            (Resource::Cpu, CgroupVersion::V2) => v2::CPU_MAX,
            (Resource::Memory, CgroupVersion::V1) => v1::LIMIT,
            (Resource::Memory, CgroupVersion::V2) => v2::MAX,
            (Resource::DiskRead | Resource::DiskWrite, version) => disks::file(version, resource),
            // In none.
            (Resource::NetReceive | Resource::NetSend, _) => "",
            (Resource::MemoryHigh, CgroupVersion::V1) => v1::SOFT_LIMIT,
            (Resource::MemoryHigh, CgroupVersion::V2) => v2::HIGH,
            (Resource::CpuWeight, CgroupVersion::V1) => v1::SHARES,
            (Resource::CpuWeight, CgroupVersion::V2) => v2::WEIGHT,
        }
    }
}

/// A limit of a cgroup above a container.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AncestorLimit {
    pub(crate) path: PathBuf,
    pub(crate) value: f64,
}

impl Hierarchy {
    /// The tightest limit among the ancestors of `path`, the root excluded since it has none. Knobs are each cgroup's own:
    /// for them there is none.
    pub(crate) fn tightest_ancestor(
        &self,
        path: &Path,
        resource: Resource,
    ) -> Result<Option<AncestorLimit>, ActuatorError> {
        let mut tightest: Option<AncestorLimit> = None;
        // With v1 a cgroup's limits on disks do not hold those below it, and a network is nobody's but its own.
        if resource.is_knob() || resource.is_network() || (resource.is_disk() && self.version == CgroupVersion::V1) {
            return Ok(tightest);
        }
        for ancestor in path.ancestors().skip(1).filter(|a| a.components().count() > 1) {
            let Some(value) = self.limit_at(ancestor, resource)? else { continue };
            if tightest.as_ref().is_none_or(|t| value < t.value) {
                tightest = Some(AncestorLimit { path: ancestor.to_owned(), value });
            }
        }
        Ok(tightest)
    }

    /// The own limit of the cgroup at `path`; `None` when unlimited or when its parent does not enable the controller.
    pub(crate) fn limit_at(&self, path: &Path, resource: Resource) -> Result<Option<f64>, ActuatorError> {
        match self.open(path)?.own_limit(resource) {
            Ok(limit) => Ok(limit.value()),
            Err(ActuatorError::Config(_)) => Ok(None),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
