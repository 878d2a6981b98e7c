//! A host in the words of the Serverless Containers project's NodeRescaler, so that its scaler can drive this one.
//!
//! CPU is in percent of one core and memory in MiB; -1 stands for no limit. What is asked for goes through the same procedure
//! as any change of Tidegate's: read back, memory in use never cut, and the period of a quota kept. So a limit may be refused
//! here that the original would have written.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tidegate_model::{Clock, Container, ContainerKey, Limit, OutcomeStatus, Resource};

use crate::error::ActuatorError;
use crate::host::{LocalHost, Tracked};
use crate::pinning::{Topology, parse_list};
use crate::{Actuator, Change};

const MIB: f64 = 1_048_576.0;
/// The original refuses less.
const LEAST_MEMORY_MIB: i64 = 64;
const CPUS: &str = "cpuset.cpus";

/// Why a request cannot be carried out.
#[derive(Debug, PartialEq)]
pub enum NodeError {
    /// No container has that name.
    Unknown,
    /// What failed, a field a resource: the original's answer to a change that did not work out.
    Failed(Value),
}

impl LocalHost {
    /// The names of all containers.
    pub fn node_containers(&self) -> Vec<String> {
        self.containers.read().keys().cloned().collect()
    }

    /// The CPUs by socket and core: `{socket: {core: [thread]}}`.
    ///
    /// # Errors
    /// The machine does not tell.
    pub fn node_topology(&self) -> Result<Value, ActuatorError> {
        let topology = Topology::read(&self.config.devices)?;
        let cores = |cores: &BTreeMap<(u32, u32), Vec<u32>>| -> Map<String, Value> {
            cores.iter().map(|((_, core), threads)| (core.to_string(), json!(threads))).collect()
        };
        Ok(topology.sockets.iter().map(|(socket, found)| (socket.to_string(), Value::Object(cores(found)))).collect())
    }

    /// The limits of one container, or of the resources in `only` if there are any: `cpu`, `mem`.
    ///
    /// # Errors
    /// There is no such container, or its files cannot be read.
    pub fn node_state(&self, name: &str, only: &[String]) -> Result<Value, NodeError> {
        let tracked = self.containers.read().get(name).cloned().ok_or(NodeError::Unknown)?;
        let wanted = |resource: &str| only.is_empty() || only.iter().any(|one| one == resource);
        let mut state = Map::new();
        let mut failed = Map::new();
        let mut put = |resource: &str, found: Result<Value, ActuatorError>| match found {
            Ok(found) => drop(state.insert(resource.to_owned(), found)),
            Err(error) => drop(failed.insert(resource.to_owned(), json!({ "error": error.to_string() }))),
        };
        if wanted("cpu") {
            put("cpu", self.node_cpu(&tracked));
        }
        if wanted("mem") {
            put("mem", node_memory(&tracked));
        }
        if failed.is_empty() { Ok(Value::Object(state)) } else { Err(NodeError::Failed(Value::Object(failed))) }
    }

    fn node_cpu(&self, tracked: &Tracked) -> Result<Value, ActuatorError> {
        let cgroup = tracked.cgroup.read().clone();
        let allowance = match cgroup.own_limit(Resource::Cpu)? {
            Limit::Unlimited => -1.0,
            Limit::At(cores) => 100.0 * cores,
        };
        let text = match self.hierarchy.cpuset(&cgroup)? {
            Some(dir) => dir.read(CPUS)?.trim().to_owned(),
            None => String::new(),
        };
        // No list of its own: all CPUs of the host are allowed.
        let cpus = parse_list(&text).map(|cpus| cpus.len()).filter(|count| *count > 0);
        let cpus = cpus.unwrap_or(self.capacity.cpus as usize);
        let whole = 100.0 * cpus as f64;
        let effective = if allowance < 0.0 { whole } else { whole.min(allowance) };
        Ok(json!({
            "cpu_num": text,
            "effective_num_cpus": cpus,
            "effective_cpu_limit": effective,
            "cpu_allowance_limit": allowance,
        }))
    }

    /// Changes limits as the body of `PUT /container/NAME` asks for, and gives the state afterwards.
    ///
    /// # Errors
    /// There is no such container; a value cannot be meant; a limit was not written. Of several resources those that could
    /// be changed are changed.
    pub fn node_change(&self, name: &str, body: &Value, clock: &dyn Clock) -> Result<Value, NodeError> {
        let tracked = self.containers.read().get(name).cloned().ok_or(NodeError::Unknown)?;
        let key = tracked.container.read().key.clone();
        let mut failed = Map::new();
        for (resource, fields) in body.as_object().into_iter().flatten() {
            let done = match resource.as_str() {
                "cpu" => self.node_change_cpu(&tracked, &key, fields, clock),
                "mem" => node_change_memory(self, &key, fields, clock),
                other => Err(format!("'{other}' cannot be changed here; expected cpu or mem")),
            };
            if let Err(error) = done {
                failed.insert(resource.clone(), json!({ "error": error }));
            }
        }
        if !failed.is_empty() {
            return Err(NodeError::Failed(Value::Object(failed)));
        }
        self.node_state(name, &[])
    }

    /// Quota first, then the list of CPUs, as the original does.
    fn node_change_cpu(
        &self,
        tracked: &Tracked,
        key: &ContainerKey,
        fields: &Value,
        clock: &dyn Clock,
    ) -> Result<(), String> {
        if let Some(percent) = number(fields, "cpu_allowance_limit")? {
            let target = match percent {
                // As the original writes them.
                -1.0 | 0.0 => f64::INFINITY,
                percent if percent > 0.0 => percent / 100.0,
                other => {
                    return Err(format!(
                        "cpu_allowance_limit is {other}: expected percent of a core, or -1 for no limit"
                    ));
                }
            };
            self.node_apply(key, Resource::Cpu, target, clock)?;
        }
        let Some(list) = fields.get("cpu_num") else { return Ok(()) };
        let list = list.as_str().map(str::trim).filter(|list| list.is_empty() || parse_list(list).is_some());
        let list = list.ok_or("cpu_num is not a list of CPUs such as '0-3,6'")?;
        if !tracked.container.read().is_scaled() {
            return Err(format!("it is measured and never changed: {} = false", Container::SCALE));
        }
        if self.pins.is_some() {
            return Err("cpu_num cannot be set while this agent pins containers itself (actuator.pinning)".to_owned());
        }
        let cgroup = tracked.cgroup.read().clone();
        let dir = self.hierarchy.cpuset(&cgroup).map_err(|error| error.to_string())?;
        let dir = dir.ok_or("its cgroup has no cpuset controller")?;
        dir.write(CPUS, list).map(drop).map_err(|error| error.to_string())
    }

    fn node_apply(&self, key: &ContainerKey, resource: Resource, target: f64, clock: &dyn Clock) -> Result<(), String> {
        let decision = format!("node-{}-{}-{resource}", clock.now().0, key.name);
        let change = Change { container: key.clone(), resource, target, limit_before: None, decision };
        let outcome = self.apply(&change, clock);
        match outcome.status {
            OutcomeStatus::Applied | OutcomeStatus::Unchanged => Ok(()),
            status => Err(format!("{}: {}", status.as_str(), outcome.message)),
        }
    }
}

fn node_memory(tracked: &Tracked) -> Result<Value, ActuatorError> {
    Ok(match tracked.cgroup.read().own_limit(Resource::Memory)? {
        Limit::Unlimited => json!({ "mem_limit": -1, "unit": "unlimited" }),
        Limit::At(bytes) => json!({ "mem_limit": bytes / MIB, "unit": "M" }),
    })
}

fn node_change_memory(host: &LocalHost, key: &ContainerKey, fields: &Value, clock: &dyn Clock) -> Result<(), String> {
    let Some(mib) = number(fields, "mem_limit")? else { return Ok(()) };
    let mib = mib.trunc() as i64;
    if mib != -1 && mib < LEAST_MEMORY_MIB {
        return Err(format!("mem_limit is {mib} MiB: less than {LEAST_MEMORY_MIB} is too low"));
    }
    let target = if mib == -1 { f64::INFINITY } else { mib as f64 * MIB };
    host.node_apply(key, Resource::Memory, target, clock)
}

/// A number, or a text that is one, as the original takes them.
fn number(fields: &Value, name: &str) -> Result<Option<f64>, String> {
    let Some(value) = fields.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
    let number = value.as_f64().or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()));
    let bad = || format!("{name} is not a number: {value}");
    number.filter(|number: &f64| number.is_finite()).map(Some).ok_or_else(bad)
}
