//! Podman: the update call of its own API, whose body is the `resources` object of an OCI configuration.

use serde_json::{Value, json};

use crate::capacity::Capacity;
use crate::owner::docker::{self, Recorded, cpu_said, memory_said};
use crate::owner::late::Said;
use crate::owner::{MemoryWish, NotTold, Owner, Told};
use crate::quota::CpuMax;
use crate::runtime::daemon::Daemon;
use crate::runtime::podman::PREFIX;

pub(super) struct Podman<'a> {
    pub(super) daemon: &'a Daemon,
    pub(super) id: &'a str,
    pub(super) capacity: Capacity,
}

impl Podman<'_> {
    fn recorded(&self) -> Result<Recorded, NotTold> {
        Recorded::ask(self.daemon, &format!("{PREFIX}/{}/json", self.id))
    }

    fn update(&self, body: Value, said: Said, exact: bool) -> Result<Told, NotTold> {
        docker::update(self.daemon, &format!("{PREFIX}/{}/update", self.id), &body, said, exact)
    }

    /// As with Docker, there is no word for unlimited that every version takes.
    fn memory(&self, new: MemoryWish) -> Value {
        let memory = new.max.unwrap_or(self.capacity.memory);
        let with_swap = new.swap.map_or(json!(-1), |swap| json!(memory + swap));
        json!({ "limit": memory, "swap": with_swap })
    }
}

fn cpu(new: CpuMax) -> Value {
    let quota = new.quota.map_or(json!(-1), |quota| json!(quota));
    json!({ "quota": quota, "period": new.period })
}

impl Owner for Podman<'_> {
    fn set_cpu(&self, new: CpuMax, beside: MemoryWish, _: bool) -> Result<Told, NotTold> {
        let mut body = json!({ "cpu": cpu(new) });
        let mut said = Said::from([cpu_said(new, true, self.capacity)]);
        if self.recorded()?.forgot_memory(beside.max, self.capacity) {
            body["memory"] = self.memory(beside);
            said.extend([memory_said(beside, self.capacity)]);
        }
        self.update(body, said, true)
    }

    fn set_memory(&self, new: MemoryWish, beside: CpuMax, _: bool) -> Result<Told, NotTold> {
        let mut body = json!({ "memory": self.memory(new) });
        let mut said = Said::from([memory_said(new, self.capacity)]);
        if self.recorded()?.forgot_cpu(beside, self.capacity) {
            body["cpu"] = cpu(beside);
            said.extend([cpu_said(beside, true, self.capacity)]);
        }
        self.update(body, said, new.max.is_some())
    }

    fn is_behind(&self) -> bool {
        self.daemon.is_behind()
    }
}
