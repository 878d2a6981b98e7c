//! Podman: the update call of its own API, whose body is the `resources` object of an OCI configuration.

use serde_json::{Value, json};

use crate::capacity::Capacity;
use crate::owner::{MemoryWish, NotTold, Owner, Told, docker};
use crate::quota::CpuMax;
use crate::runtime::daemon::Daemon;
use crate::runtime::podman::PREFIX;

pub(super) struct Podman<'a> {
    pub(super) daemon: &'a Daemon,
    pub(super) id: &'a str,
    pub(super) capacity: Capacity,
}

impl Podman<'_> {
    fn update(&self, body: Value, exact: bool) -> Result<Told, NotTold> {
        docker::update(self.daemon, &format!("{PREFIX}/{}/update", self.id), &body, exact)
    }
}

impl Owner for Podman<'_> {
    fn set_cpu(&self, new: CpuMax) -> Result<Told, NotTold> {
        let quota = new.quota.map_or(json!(-1), |quota| json!(quota));
        self.update(json!({ "cpu": { "quota": quota, "period": new.period } }), true)
    }

    fn set_memory(&self, new: MemoryWish) -> Result<Told, NotTold> {
        // As with Docker, there is no word for unlimited that every version takes.
        let memory = new.max.unwrap_or(self.capacity.memory);
        let with_swap = new.swap.map_or(json!(-1), |swap| json!(memory + swap));
        self.update(json!({ "memory": { "limit": memory, "swap": with_swap } }), new.max.is_some())
    }
}
