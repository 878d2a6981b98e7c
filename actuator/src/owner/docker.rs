//! Docker: `POST /containers/ID/update`. What it takes it keeps: inspect shows it and a restart brings it.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tidegate_model::{Limit, Resource, Write};

use crate::capacity::Capacity;
use crate::owner::late::Said;
use crate::owner::{MemoryWish, NotTold, Owner, Told};
use crate::quota::{CpuMax, PERCENT, page_size};
use crate::runtime::daemon::Daemon;

/// How long an update is waited for. The daemon starts the low-level runtime for each one, which takes tens of ms.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(3);
/// The period that Docker's `NanoCpus` stands for, in µs; it is the kernel's default, too.
const DEFAULT_PERIOD: u64 = 100_000;
const NANO: u64 = 1_000_000_000;

pub(super) struct Docker<'a> {
    pub(super) daemon: &'a Daemon,
    pub(super) id: &'a str,
    pub(super) capacity: Capacity,
}

/// The limits as the daemon remembers them; zero is unlimited.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Recorded {
    nano_cpus: i64,
    cpu_period: i64,
    cpu_quota: i64,
    memory: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    host_config: Recorded,
}

impl Recorded {
    /// What a daemon remembers of a container.
    pub(super) fn ask(daemon: &Daemon, target: &str) -> Result<Self, NotTold> {
        let answer = daemon.get(target, UPDATE_TIMEOUT)?;
        if answer.status != 200 {
            return Err(refused(daemon, answer.status, &answer.body));
        }
        let found: Result<Inspected, _> = serde_json::from_slice(&answer.body);
        found
            .map(|found| found.host_config)
            .map_err(|error| NotTold::new(format!("{} answers what is not understood: {error}", daemon.name())))
    }

    /// Whether the CPU limit was given as a quota. Docker refuses to change one way for the other.
    fn is_by_quota(&self) -> bool {
        self.cpu_quota > 0 || self.cpu_period > 0
    }

    /// Whether it remembers another CPU limit than the one that stands. The low-level runtime sets all limits with each
    /// update, so what it remembers wrongly it would bring back.
    pub(super) fn forgot_cpu(&self, stands: CpuMax, capacity: Capacity) -> bool {
        let period = if self.cpu_period > 0 { self.cpu_period as f64 } else { DEFAULT_PERIOD as f64 };
        let recorded = match self {
            Self { nano_cpus, .. } if *nano_cpus > 0 => Some(*nano_cpus as f64 / NANO as f64),
            Self { cpu_quota, .. } if *cpu_quota > 0 => Some(*cpu_quota as f64 / period),
            _ => None,
        };
        match (recorded, stands.limit().value()) {
            (Some(recorded), Some(stands)) => (recorded - stands).abs() > PERCENT,
            (Some(recorded), None) => recorded < f64::from(capacity.cpus),
            (None, stands) => stands.is_some(),
        }
    }

    /// As [`Recorded::forgot_cpu`], for memory. Brought back, a lower limit would kill.
    pub(super) fn forgot_memory(&self, stands: Option<u64>, capacity: Capacity) -> bool {
        match (u64::try_from(self.memory).unwrap_or(0), stands) {
            (0, stands) => stands.is_some(),
            (recorded, Some(stands)) => recorded.abs_diff(stands) > page_size(),
            (recorded, None) => recorded < capacity.memory,
        }
    }
}

impl Docker<'_> {
    fn recorded(&self) -> Result<Recorded, NotTold> {
        Recorded::ask(self.daemon, &format!("/containers/{}/json", self.id))
    }

    fn update(&self, body: Map<String, Value>, said: Said, exact: bool) -> Result<Told, NotTold> {
        update(self.daemon, &format!("/containers/{}/update", self.id), &Value::Object(body), said, exact)
    }

    /// The fields that set a CPU limit, and whether they say it exactly.
    fn cpu(&self, new: CpuMax, recorded: Recorded) -> (Map<String, Value>, bool) {
        let fields = match new.quota {
            Some(quota) if !recorded.is_by_quota() && new.period == DEFAULT_PERIOD => {
                // As `docker update --cpus` does, so that this keeps working beside us.
                json!({ "NanoCpus": quota * (NANO / DEFAULT_PERIOD) })
            }
            Some(quota) => json!({ "CpuPeriod": new.period, "CpuQuota": quota }),
            None if recorded.is_by_quota() => json!({ "CpuQuota": -1 }),
            // There is no NanoCpus that means unlimited.
            None => json!({ "NanoCpus": u64::from(self.capacity.cpus) * NANO }),
        };
        let exact = new.quota.is_some() || recorded.is_by_quota();
        (object(fields), exact)
    }

    /// The fields that set a memory limit. There is none that takes it away; and without a limit on swap beside it, one on
    /// memory is refused.
    fn memory(&self, new: MemoryWish) -> (Map<String, Value>, bool) {
        let memory = new.max.unwrap_or(self.capacity.memory);
        let with_swap = new.swap.map_or(json!(-1), |swap| json!(memory + swap));
        (object(json!({ "Memory": memory, "MemorySwap": with_swap })), new.max.is_some())
    }
}

impl Owner for Docker<'_> {
    fn set_cpu(&self, new: CpuMax, beside: MemoryWish, _: bool) -> Result<Told, NotTold> {
        let recorded = self.recorded()?;
        let (mut body, exact) = self.cpu(new, recorded);
        let mut said = Said::from([cpu_said(new, exact, self.capacity)]);
        if recorded.forgot_memory(beside.max, self.capacity) {
            body.extend(self.memory(beside).0);
            said.extend([memory_said(beside, self.capacity)]);
        }
        self.update(body, said, exact)
    }

    fn set_memory(&self, new: MemoryWish, beside: CpuMax, _: bool) -> Result<Told, NotTold> {
        let recorded = self.recorded()?;
        let (mut body, exact) = self.memory(new);
        let mut said = Said::from([memory_said(new, self.capacity)]);
        if recorded.forgot_cpu(beside, self.capacity) {
            let (cpu, exact) = self.cpu(beside, recorded);
            body.extend(cpu);
            said.extend([cpu_said(beside, exact, self.capacity)]);
        }
        self.update(body, said, exact)
    }

    fn is_behind(&self) -> bool {
        self.daemon.is_behind()
    }
}

/// The CPU limit that comes of an update, where the machine's capacity stands for what cannot be said.
pub(super) fn cpu_said(new: CpuMax, exact: bool, capacity: Capacity) -> (Resource, Limit) {
    let limit = if exact { new.limit() } else { Limit::At(f64::from(capacity.cpus)) };
    (Resource::Cpu, limit)
}

/// As [`cpu_said`], for memory.
pub(super) fn memory_said(new: MemoryWish, capacity: Capacity) -> (Resource, Limit) {
    (Resource::Memory, Limit::At(new.max.unwrap_or(capacity.memory) as f64))
}

fn object(fields: Value) -> Map<String, Value> {
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Posts an update, and says what was told in words a person can repeat.
pub(super) fn update(daemon: &Daemon, target: &str, body: &Value, said: Said, exact: bool) -> Result<Told, NotTold> {
    let text = body.to_string();
    let answer = daemon.post(target, &text, UPDATE_TIMEOUT);
    let answer = answer.map_err(|why| NotTold::unanswered(daemon, why, said))?;
    if !(200..300).contains(&answer.status) {
        return Err(refused(daemon, answer.status, &answer.body));
    }
    Ok(Told { write: Write { target: format!("{}: POST {target}", daemon.name()), value: text }, exact })
}

/// Both daemons explain themselves in `message`.
fn refused(daemon: &Daemon, status: u16, body: &[u8]) -> NotTold {
    let answer: Option<Value> = serde_json::from_slice(body).ok();
    let text = answer.as_ref().and_then(|answer| answer["message"].as_str()).unwrap_or("no reason given");
    let short: String = text.trim().chars().take(200).collect();
    NotTold::new(format!("{} refused it: {short} (status {status})", daemon.name()))
}
