//! What the kernel means when it says no.

use nix::libc;
use tidegate_model::{CgroupVersion, OutcomeStatus, Resource};

use crate::apply::{Job, network};
use crate::cgroup::dir::Dir;
use crate::error::ActuatorError;

/// A status and a sentence with the path, the value and the next step.
pub(crate) fn explain(error: &ActuatorError, job: &Job<'_>, dir: Option<&Dir>) -> (OutcomeStatus, String) {
    use OutcomeStatus::{Failed, Infeasible, Refused};

    let Some(dir) = dir else { return network::explain(error) };
    let Some(errno) = error.errno() else {
        let status = if matches!(error, ActuatorError::Owner(_)) { Refused } else { Failed };
        return (status, error.to_string());
    };
    match errno {
        libc::ENOENT | libc::ENODEV if !dir.is_current() => (Failed, format!("the container is gone: {error}")),
        libc::ENODEV if job.resource.is_disk() => {
            (Refused, format!("{error}; there is no such disk any more, or the kernel cannot limit it"))
        }
        libc::ENOENT | libc::ENODEV => {
            let next = match job.cgroup.version {
                CgroupVersion::V1 => "this kernel does not have it".to_owned(),
                CgroupVersion::V2 => {
                    let parent = dir.path().parent().unwrap_or(dir.path()).join("cgroup.subtree_control");
                    let controller = job.cgroup.controller(job.resource);
                    format!("write '+{controller}' to {} to enable the controller", parent.display())
                }
            };
            (Refused, format!("{error}; {next}"))
        }
        libc::EINVAL if job.resource == Resource::CpuWeight => {
            (Refused, format!("{error}; the kernel takes none while cpu.idle of the cgroup is 1"))
        }
        libc::EINVAL => (Refused, format!("{error}; the kernel does not take this value here")),
        libc::EBUSY if job.resource == Resource::Memory => {
            (Infeasible, format!("{error}; the container holds more than that, and it cannot be reclaimed"))
        }
        libc::EBUSY => (Refused, format!("{error}; the cgroup is in use in a way that forbids it")),
        libc::EACCES | libc::EPERM => {
            (Failed, format!("{error}; run as root, or have the cgroup's parent delegated to this user"))
        }
        libc::EROFS => (Failed, format!("{error}; the hierarchy is mounted read-only here")),
        libc::ENOSPC => (Refused, format!("{error}; the kernel has no room for it")),
        _ => (Failed, error.to_string()),
    }
}
