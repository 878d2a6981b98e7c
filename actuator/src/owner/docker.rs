//! Docker: `POST /containers/ID/update`. What it takes it keeps: inspect shows it and a restart brings it.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_model::Write;

use crate::capacity::Capacity;
use crate::owner::{MemoryWish, NotTold, Owner, Told};
use crate::quota::CpuMax;
use crate::runtime::daemon::Daemon;

/// How long an update is waited for. The daemon starts the low-level runtime for each one, which takes tens of ms.
pub(super) const UPDATE_TIMEOUT: Duration = Duration::from_secs(3);
/// The period that Docker's `NanoCpus` stands for, in µs.
const NANO_PERIOD: u64 = 100_000;

pub(super) struct Docker<'a> {
    pub(super) daemon: &'a Daemon,
    pub(super) id: &'a str,
    pub(super) capacity: Capacity,
}

/// How a container's CPU limit was given to Docker. It refuses to change one way for the other.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct HostConfig {
    cpu_period: i64,
    cpu_quota: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    host_config: HostConfig,
}

impl Docker<'_> {
    fn update(&self, body: Value, exact: bool) -> Result<Told, NotTold> {
        update(self.daemon, &format!("/containers/{}/update", self.id), &body, exact)
    }
}

impl Owner for Docker<'_> {
    fn set_cpu(&self, new: CpuMax) -> Result<Told, NotTold> {
        let answer = self.daemon.get(&format!("/containers/{}/json", self.id), UPDATE_TIMEOUT)?;
        let found: Inspected = match answer.status {
            200 => serde_json::from_slice(&answer.body)
                .map_err(|error| NotTold(format!("{} answers what is not understood: {error}", self.daemon.name())))?,
            _ => return Err(refused(self.daemon, answer.status, &answer.body)),
        };
        let by_quota = found.host_config.cpu_quota > 0 || found.host_config.cpu_period > 0;
        match new.quota {
            Some(quota) if !by_quota && new.period == NANO_PERIOD => {
                // As `docker update --cpus` does, so that this keeps working beside us.
                self.update(json!({ "NanoCpus": quota * (1_000_000_000 / NANO_PERIOD) }), true)
            }
            Some(quota) => self.update(json!({ "CpuPeriod": new.period, "CpuQuota": quota }), true),
            None if by_quota => self.update(json!({ "CpuQuota": -1 }), true),
            // There is no NanoCpus that means unlimited.
            None => self.update(json!({ "NanoCpus": u64::from(self.capacity.cpus) * 1_000_000_000 }), false),
        }
    }

    fn set_memory(&self, new: MemoryWish) -> Result<Told, NotTold> {
        // Nor a memory limit; and without a limit on swap beside it, one on memory is refused.
        let memory = new.max.unwrap_or(self.capacity.memory);
        let with_swap = new.swap.map_or(json!(-1), |swap| json!(memory + swap));
        self.update(json!({ "Memory": memory, "MemorySwap": with_swap }), new.max.is_some())
    }
}

/// Posts an update, and says what was told in words a person can repeat.
pub(super) fn update(daemon: &Daemon, target: &str, body: &Value, exact: bool) -> Result<Told, NotTold> {
    let text = body.to_string();
    let answer = daemon.post(target, &text, UPDATE_TIMEOUT)?;
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
    NotTold(format!("{} refused it: {short} (status {status})", daemon.name()))
}
