//! The newest values of the containers, in one query for all of them.

use std::collections::HashMap;

use serde_json::{Value, json};
use tidegate_model::{Container, ContainerKey, Resource, TimeMs};

use crate::error::ApiError;
use crate::queries;
use crate::rows::{Rows, number, text};
use crate::{App, WebState};

/// The newest values of one container and resource; `None` where nothing recent is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Latest {
    usage: Option<f64>,
    limit: Option<f64>,
    upper: Option<f64>,
    lower: Option<f64>,
    throttled: Option<f64>,
    pressure: Option<f64>,
    oom_kills: Option<f64>,
    unreclaimable: Option<f64>,
}

/// The newest values of several containers.
pub(crate) struct Fleet(HashMap<(ContainerKey, Resource), Latest>);

impl Fleet {
    /// Every container.
    pub(crate) async fn all(app: &App, now: TimeMs) -> Result<Self, ApiError> {
        Self::read(app, &queries::latest(), now).await
    }

    /// One container.
    pub(crate) async fn one(app: &App, key: &ContainerKey, now: TimeMs) -> Result<Self, ApiError> {
        Self::read(app, &queries::latest_of(key), now).await
    }

    async fn read(app: &App, sql: &str, now: TimeMs) -> Result<Self, ApiError> {
        let rows = app.ask(sql, now).await?;
        Self::of(&rows)
    }

    fn of(rows: &Rows) -> Result<Self, ApiError> {
        let (host, container, resource) = (rows.texts("host")?, rows.texts("container")?, rows.texts("resource")?);
        let (usage, limit) = (rows.numbers("usage")?, rows.numbers("allocated")?);
        let (upper, lower) = (rows.numbers("upper")?, rows.numbers("lower")?);
        let (throttled, pressure) = (rows.numbers("throttled_last")?, rows.numbers("pressure")?);
        let (oom_kills, unreclaimable) = (rows.numbers("oom_kills")?, rows.numbers("unreclaimable")?);
        let mut fleet = HashMap::new();
        for row in 0..rows.len() {
            let (Some(host), Some(name)) = (text(&host, row), text(&container, row)) else { continue };
            let Some(resource) = text(&resource, row).and_then(|name| name.parse().ok()) else { continue };
            let latest = Latest {
                usage: number(&usage, row),
                limit: number(&limit, row),
                upper: number(&upper, row),
                lower: number(&lower, row),
                throttled: number(&throttled, row),
                pressure: number(&pressure, row),
                oom_kills: number(&oom_kills, row),
                unreclaimable: number(&unreclaimable, row),
            };
            fleet.insert((ContainerKey { host: host.to_owned(), name: name.to_owned() }, resource), latest);
        }
        Ok(Self(fleet))
    }

    fn latest(&self, container: &Container, resource: Resource) -> Latest {
        self.0.get(&(container.key.clone(), resource)).copied().unwrap_or_default()
    }

    /// A container with its newest values, as the API shows it.
    pub(crate) fn row(&self, container: &Container, now: TimeMs) -> Value {
        let (cpu, memory) = (self.latest(container, Resource::Cpu), self.latest(container, Resource::Memory));
        let baseline = |resource| container.baseline.get(&resource).and_then(|limit| limit.value());
        let bounds = |resource| {
            let bounds = container.bounds.get(&resource);
            json!({ "min": bounds.map(|bounds| bounds.min), "max": bounds.map(|bounds| bounds.max) })
        };
        json!({
            "host": container.key.host,
            "name": container.key.name,
            "app": container.app,
            "user": container.user,
            "runtime": container.runtime,
            "id": container.id,
            "path": container.path.to_string_lossy(),
            "cgroup": container.cgroup,
            "first_seen": container.first_seen,
            "last_seen": container.last_seen,
            "gone": is_gone(container, now),
            "baseline": { "cpu": baseline(Resource::Cpu), "memory": baseline(Resource::Memory) },
            "bounds": { "cpu": bounds(Resource::Cpu), "memory": bounds(Resource::Memory) },
            "cpu": {
                "usage": cpu.usage, "limit": cpu.limit, "upper": cpu.upper, "lower": cpu.lower,
                "throttled": cpu.throttled, "pressure": cpu.pressure,
            },
            "memory": {
                "usage": memory.usage, "limit": memory.limit, "upper": memory.upper, "lower": memory.lower,
                "oom_kills": memory.oom_kills, "unreclaimable": memory.unreclaimable, "pressure": memory.pressure,
            },
        })
    }

    /// All present containers in columns, which is what the live stream sends each second.
    pub(crate) fn columns(&self, containers: &[Container], now: TimeMs) -> Value {
        let cpu: Vec<Latest> = containers.iter().map(|container| self.latest(container, Resource::Cpu)).collect();
        let memory: Vec<Latest> = containers.iter().map(|container| self.latest(container, Resource::Memory)).collect();
        let column = |from: &[Latest], value: fn(&Latest) -> Option<f64>| from.iter().map(value).collect::<Vec<_>>();
        json!({
            "t": now,
            "ids": containers.iter().map(|container| container.key.to_string()).collect::<Vec<_>>(),
            "cpu": column(&cpu, |latest| latest.usage),
            "cpu_limit": column(&cpu, |latest| latest.limit),
            "cpu_upper": column(&cpu, |latest| latest.upper),
            "cpu_lower": column(&cpu, |latest| latest.lower),
            "mem": column(&memory, |latest| latest.usage),
            "mem_limit": column(&memory, |latest| latest.limit),
            "throttled": column(&cpu, |latest| latest.throttled),
            "oom": column(&memory, |latest| latest.oom_kills),
        })
    }
}

/// The containers that were measured lately, by key.
pub(crate) fn present(state: &WebState, now: TimeMs) -> Vec<Container> {
    let mut containers = state.store.containers();
    containers.retain(|container| !is_gone(container, now));
    containers.sort_by(|a, b| a.key.cmp(&b.key));
    containers
}

fn is_gone(container: &Container, now: TimeMs) -> bool {
    now.since(container.last_seen) > queries::RECENT
}
