//! LXD and Incus: `PATCH` of an instance's configuration. What it takes it keeps, and writes to the cgroup at once where it
//! is not what the configuration said before.
//!
//! What a key said before our first change - a percentage, a size in other units, or nothing, so that a profile counts - is
//! no limit that a cgroup could give back. So it is kept beside the limit, in the same change, under a key of our own.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tidegate_model::{Limit, Resource, Write};

use crate::capacity::Capacity;
use crate::labels;
use crate::owner::late::Said;
use crate::owner::{MemoryWish, NotTold, Owner, Told};
use crate::quota::{CpuMax, PERCENT, page_size};
use crate::runtime::daemon::{Daemon, NoAnswer};
use crate::runtime::lxd::{Config, Instance, KEPT, Known, error_text, escaped, parse, patch, wait};
use crate::runtime::sent::Sent;

/// How long a change is waited for, and how long one that goes on in the background. A change is written to a database.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(3);
/// What waiting for one in the background may take longer than the daemon was told to wait.
const WAIT_ROOM: Duration = Duration::from_secs(1);
/// A millisecond in µs: the smallest step of a CPU limit.
const MS: u64 = 1_000;
/// The period in ms where the container's own has no whole number of them.
const USUAL_PERIOD_MS: u64 = 100;
/// What is kept of a key that said nothing; behind a colon follows what a profile said.
const UNSET: &str = "unset";
/// How far a share of the machine's memory may be from what we take it for: the daemon counts what the kernel keeps, too.
const SHARE: f64 = 0.05;
/// The codes of an operation that is over, and of one that went well.
const SUCCESS: u64 = 200;
const FIRST_FINAL: u64 = 200;

pub(super) struct Lxd<'a> {
    pub(super) daemon: &'a Daemon,
    pub(super) instance: Known,
    pub(super) capacity: Capacity,
    /// What stood before our first change, of what was changed.
    pub(super) baseline: BTreeMap<Resource, Limit>,
}

/// One key that sets a limit.
struct Wish {
    key: &'static str,
    limit: Limit,
    /// Empty is no limit.
    text: String,
    /// The same where an empty text would let a profile's limit count.
    unlimited: String,
    /// Whether the text says all of it.
    exact: bool,
    /// Whether it is what stood before our first change.
    restores: bool,
}

/// What a change is answered with.
#[derive(Deserialize)]
struct Accepted {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    operation: Option<String>,
}

#[derive(Deserialize)]
struct Operation {
    status_code: u64,
    #[serde(default)]
    err: String,
}

impl Lxd<'_> {
    fn target(&self) -> String {
        let Known { project, name, .. } = &self.instance;
        format!("/1.0/instances/{}?project={}", escaped(name), escaped(project))
    }

    fn set(&self, resource: Resource, wish: Wish) -> Result<Told, NotTold> {
        let found: Instance = self.ask(&self.target())?;
        if resource == Resource::Memory && found.says("limits.memory.enforce") == "soft" {
            // It would set memory.high, or nothing that counts, and take the limit away.
            return Err(self.refused("limits.memory.enforce of the instance is soft, which is no limit"));
        }
        let kept_key = format!("{KEPT}{}", wish.key);
        let own = found.config.get(wish.key).map_or("", String::as_str);
        let kept = found.config.get(&kept_key).map(String::as_str).filter(|kept| !kept.is_empty());
        let inherited = if own.is_empty() { found.says(wish.key) } else { "" };
        // What the key said itself, and a profile where it said nothing.
        let (former, below) = match kept {
            None => (own, inherited),
            Some(kept) => match kept.strip_prefix(UNSET) {
                None => (kept, ""),
                Some(below) => ("", below.trim_start_matches(':')),
            },
        };
        let mut config = Map::new();
        let restores = wish.restores && (resource == Resource::Cpu || self.means(former, below, &wish, &found)?);
        let mut said = wish.limit;
        let text = if restores {
            if kept.is_some() {
                config.insert(kept_key, json!(""));
            }
            former.to_owned()
        } else {
            if kept.is_none() {
                let kept = match (former, below) {
                    ("", "") => UNSET.to_owned(),
                    ("", below) => format!("{UNSET}:{below}"),
                    (former, _) => former.to_owned(),
                };
                config.insert(kept_key, json!(kept));
            }
            match wish.text.is_empty() && !self.inherited(wish.key, &found)?.is_empty() {
                true => {
                    said = Limit::At(self.capacity.of(resource));
                    wish.unlimited
                }
                false => wish.text,
            }
        };
        // What stands in the configuration already is not written to the cgroup again, whatever stands there.
        let exact = wish.exact && !restores && text != found.says(wish.key);
        config.insert(wish.key.to_owned(), json!(text));
        self.change(json!({ "config": config }), Said::from([(resource, said)]), exact)
    }

    /// Whether what `limits.memory` said at first is the limit that is wished. Anything lower would be carried out at once,
    /// and may be below what is used.
    fn means(&self, former: &str, below: &str, wish: &Wish, found: &Instance) -> Result<bool, NotTold> {
        let text = if former.is_empty() { below } else { former };
        let same = match (memory(text, self.capacity), memory(&wish.text, self.capacity)) {
            (Some(Limit::At(says)), Some(Limit::At(wished))) => {
                let tolerance = if text.ends_with('%') { SHARE } else { 0.0 };
                (says - wished).abs() <= page_size() as f64 + wished * tolerance
            }
            (says, wished) => says.is_some() && says == wished,
        };
        Ok(same && (!former.is_empty() || self.inherited(wish.key, found)? == below))
    }

    /// What a key would say if the instance itself did not say anything.
    fn inherited(&self, key: &str, found: &Instance) -> Result<String, NotTold> {
        #[derive(Deserialize)]
        struct Profile {
            #[serde(default)]
            config: Config,
        }
        if found.config.get(key).is_none_or(String::is_empty) {
            return Ok(found.says(key).to_owned());
        }
        let mut says = String::new();
        for profile in &found.profiles {
            let target = format!("/1.0/profiles/{}?project={}", escaped(profile), escaped(&self.instance.project));
            let profile: Profile = self.ask(&target)?;
            says = profile.config.get(key).cloned().unwrap_or(says);
        }
        Ok(says)
    }

    fn ask<T: for<'a> Deserialize<'a>>(&self, target: &str) -> Result<T, NotTold> {
        let answer = self.daemon.get(target, UPDATE_TIMEOUT)?;
        parse(&answer).map_err(|why| self.refused(&why))
    }

    fn change(&self, body: Value, said: Said, exact: bool) -> Result<Told, NotTold> {
        let (target, text) = (self.target(), body.to_string());
        let answer = patch(self.daemon, &target, &text, UPDATE_TIMEOUT);
        let answer = answer.map_err(|why| NotTold::unanswered(self.daemon, why, said.clone()))?;
        if !(200..300).contains(&answer.status) {
            return Err(self.refused(&error_text(&answer)));
        }
        let accepted: Option<Accepted> = serde_json::from_slice(&answer.body).ok();
        // Most versions answer when it is done, others with an operation that goes on.
        if let Some(Accepted { kind, operation: Some(operation) }) = &accepted
            && kind == "async"
        {
            self.wait(operation, said)?;
        }
        let target = format!("{}: PATCH {target}", self.daemon.name());
        Ok(Told { write: Write { target, value: text }, exact })
    }

    fn wait(&self, operation: &str, said: Said) -> Result<(), NotTold> {
        let (path, query) = operation.split_once('?').unwrap_or((operation, ""));
        let more = if query.is_empty() { String::new() } else { format!("&{query}") };
        let target = format!("{path}/wait?timeout={}{more}", UPDATE_TIMEOUT.as_secs());
        let answer = wait(self.daemon, &target, UPDATE_TIMEOUT + WAIT_ROOM);
        let answer = answer.map_err(|why| NotTold::unanswered(self.daemon, why, said.clone()))?;
        let operation: Operation = parse(&answer).map_err(|why| self.refused(&why))?;
        match operation.status_code {
            SUCCESS => Ok(()),
            code if code > FIRST_FINAL => Err(self.refused(&format!("{} (status {code})", operation.err))),
            _ => {
                let why = NoAnswer::Failed(format!("{} has not done it in time", self.daemon.name()));
                // The answer has come and says nothing: there is no other to wait for.
                Err(NotTold::unanswered(self.daemon, (why, Some(Sent::new(None, |_| false))), said))
            }
        }
    }

    fn refused(&self, why: &str) -> NotTold {
        NotTold::new(format!("{} refused it: {why}", self.daemon.name()))
    }

    fn restores(&self, resource: Resource, wished: Limit) -> bool {
        let tolerance = if resource == Resource::Cpu { PERCENT } else { page_size() as f64 };
        match (self.baseline.get(&resource), wished) {
            (Some(Limit::At(former)), Limit::At(wished)) => (former - wished).abs() < tolerance,
            (former, wished) => former == Some(&wished),
        }
    }
}

impl Owner for Lxd<'_> {
    /// Only what is changed is written to the cgroup, so that the other limit need not be told along.
    fn set_cpu(&self, new: CpuMax, _: MemoryWish, _: bool) -> Result<Told, NotTold> {
        let (text, exact) = new.quota.map_or((String::new(), false), |quota| allowance(quota, new.period));
        let unlimited = format!("{}ms/{USUAL_PERIOD_MS}ms", u64::from(self.capacity.cpus) * USUAL_PERIOD_MS);
        let limit = new.limit();
        let restores = self.restores(Resource::Cpu, limit);
        self.set(Resource::Cpu, Wish { key: "limits.cpu.allowance", limit, text, unlimited, exact, restores })
    }

    fn set_memory(&self, new: MemoryWish, _: CpuMax, _: bool) -> Result<Told, NotTold> {
        let bytes = |bytes: u64| format!("{bytes}B");
        let (text, unlimited) = (new.max.map(bytes).unwrap_or_default(), bytes(self.capacity.memory));
        let limit = new.max.map_or(Limit::Unlimited, |max| Limit::At(max as f64));
        let (restores, exact) = (self.restores(Resource::Memory, limit), new.max.is_some());
        self.set(Resource::Memory, Wish { key: "limits.memory", limit, text, unlimited, exact, restores })
    }

    fn is_behind(&self) -> bool {
        self.daemon.is_behind()
    }
}

/// The limit that a text of `limits.memory` stands for; `None` where it is not understood.
fn memory(text: &str, capacity: Capacity) -> Option<Limit> {
    if text.is_empty() {
        return Some(Limit::Unlimited);
    }
    let limit = match text.strip_suffix('%') {
        Some(percent) => labels::number(percent)? * capacity.memory as f64 / 100.0,
        None => labels::bytes(text)?,
    };
    Some(Limit::At(limit))
}

/// A quota as LXD takes it, in whole milliseconds of a period of whole milliseconds, and whether it is that quota.
fn allowance(quota: u64, period: u64) -> (String, bool) {
    let period = period.max(1);
    if quota.is_multiple_of(MS) && period.is_multiple_of(MS) {
        return (format!("{}ms/{}ms", quota / MS, period / MS), true);
    }
    let quota_ms = (quota as f64 / period as f64 * USUAL_PERIOD_MS as f64).round() as u64;
    (format!("{}ms/{USUAL_PERIOD_MS}ms", quota_ms.max(1)), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_text_is_bytes_a_share_or_no_limit() {
        let capacity = Capacity { cpus: 4, memory: 8 << 30 };
        for (text, limit) in [
            ("", Some(Limit::Unlimited)),
            ("134217728B", Some(Limit::At(134_217_728.0))),
            ("1GiB", Some(Limit::At(1_073_741_824.0))),
            ("500MB", Some(Limit::At(500_000_000.0))),
            ("1048576", Some(Limit::At(1_048_576.0))),
            ("25%", Some(Limit::At(2_147_483_648.0))),
            ("lots", None),
        ] {
            assert_eq!(memory(text, capacity), limit, "{text}");
        }
    }

    #[test]
    fn an_allowance_is_in_whole_milliseconds_with_the_period_kept_where_that_can_be_said() {
        for (quota, period, text, exact) in [
            (45_000, 100_000, "45ms/100ms", true),
            (25_000, 50_000, "25ms/50ms", true),
            (400_000, 100_000, "400ms/100ms", true),
            (22_500, 50_000, "45ms/100ms", false),
            (1_500, 10_500, "14ms/100ms", false),
            (1_000, 1_000_000, "1ms/1000ms", true),
            (1_100, 1_000_000, "1ms/100ms", false),
        ] {
            assert_eq!(allowance(quota, period), (text.to_owned(), exact), "{quota} {period}");
        }
    }
}
