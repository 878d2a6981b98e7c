//! What only a container's runtime knows: its name and its labels.

pub(crate) mod daemon;
mod docker;
mod http;
mod lxc;
pub(crate) mod lxd;
mod oci;
pub(crate) mod podman;
pub(crate) mod sent;
pub(crate) mod socket;

use std::collections::BTreeMap;
use std::path::PathBuf;

use tidegate_model::Runtime;

use crate::config::ActuatorConfig;
use crate::discovery::Identity;
use crate::runtime::daemon::Daemon;
use crate::runtime::lxd::Lxd;

/// A container's name and labels as its runtime knows them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Described {
    pub(crate) name: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether the runtime should be asked again: it is there, and failed.
    pub(crate) incomplete: bool,
}

/// The runtimes of one host, and where they keep what they know.
#[derive(Debug)]
pub(crate) struct Runtimes {
    pub(crate) docker: Daemon,
    pub(crate) podman: Daemon,
    /// LXD and Incus.
    pub(crate) lxd: Lxd,
    /// The system's systemd, at its message bus.
    pub(crate) systemd: Daemon,
    docker_root: PathBuf,
    podman_root: PathBuf,
    lxc_root: PathBuf,
    containerd_state: PathBuf,
    crio_state: PathBuf,
}

impl Runtimes {
    pub(crate) fn new(config: &ActuatorConfig) -> Self {
        Self {
            docker: Daemon::new("Docker", &config.docker_socket),
            podman: Daemon::new("Podman", &config.podman_socket),
            lxd: Lxd::new(&config.lxd_sockets),
            systemd: Daemon::new("systemd", &config.system_bus),
            docker_root: config.docker_root.clone(),
            podman_root: config.podman_root.clone(),
            lxc_root: config.lxc_root.clone(),
            containerd_state: config.containerd_state.clone(),
            crio_state: config.crio_state.clone(),
        }
    }

    /// Asks the runtime. What cannot be found out is left out: then the name from the path counts.
    pub(crate) fn describe(&self, identity: &Identity) -> Described {
        let id = &identity.id;
        match identity.runtime {
            Runtime::Docker => docker::ask(&self.docker, id)
                .unwrap_or_else(|incomplete| Described { incomplete, ..docker::read(id, &self.docker_root) }),
            Runtime::Podman => podman::ask(&self.podman, id)
                .unwrap_or_else(|incomplete| Described { incomplete, ..podman::read(id, &self.podman_root) }),
            Runtime::Lxc => match self.lxd.ask(id, lxc::is_there(&identity.name, &self.lxc_root)) {
                Ok(Some(described)) => described,
                Ok(None) => lxc::read(&identity.name, &self.lxc_root),
                // It has its name, whoever made it: nobody need wait for that.
                Err(_) => Described {
                    name: Some(identity.name.clone()),
                    incomplete: true,
                    ..lxc::read(&identity.name, &self.lxc_root)
                },
            },
            Runtime::Cri => oci::read(id, &self.containerd_state, &self.crio_state),
            _ => Described::default(),
        }
    }

    /// The daemons that may have made a container.
    pub(crate) fn daemons(&self, runtime: Runtime) -> Vec<&Daemon> {
        match runtime {
            Runtime::Docker => vec![&self.docker],
            Runtime::Podman => vec![&self.podman],
            Runtime::Lxc => self.lxd.daemons().collect(),
            _ => Vec::new(),
        }
    }

    /// Whether it makes sense to ask about a container again: somebody is there, and nobody rests.
    pub(crate) fn are_ready(&self, runtime: Runtime) -> bool {
        let present: Vec<&Daemon> = self.daemons(runtime).into_iter().filter(|daemon| daemon.is_present()).collect();
        !present.is_empty() && present.into_iter().all(Daemon::is_ready)
    }
}
