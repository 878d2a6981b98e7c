//! The newest values of the containers, in one query for all of them.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Value, json};
use tidegate_model::{Bounds, CgroupVersion, Container, ContainerKey, Resource, TimeMs};
use tidegate_store::Override;
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::openapi::shapes;
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

/// A container with its newest values.
#[derive(Serialize, ToSchema)]
pub(crate) struct ContainerRow {
    host: String,
    name: String,
    /// The group of containers it belongs to.
    app: Option<String>,
    /// The group of apps it belongs to.
    user: Option<String>,
    /// Who made it, such as `docker` or `systemd`.
    runtime: &'static str,
    /// The runtime's own identifier.
    id: String,
    /// Path of the cgroup below its hierarchy's root.
    path: String,
    #[schema(value_type = String, pattern = "^v[12]$")]
    cgroup: CgroupVersion,
    /// When this incarnation was first seen, in ms UTC.
    first_seen: i64,
    /// When it was last measured, in ms UTC.
    last_seen: i64,
    /// It was not measured lately.
    gone: bool,
    baseline: Baselines,
    bounds: BoundsByResource,
    /// What a person has said of it, over labels and configuration.
    #[serde(rename = "override")]
    said: Option<OverrideRow>,
    cpu: CpuNow,
    memory: MemoryNow,
    /// What it reads from disks. Left out, as `disk_write`, where neither usage nor a limit is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    disk_read: Option<RateNow>,
    /// What it writes to them. With cgroup v1 without what goes through the page cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    disk_write: Option<RateNow>,
    /// What it receives over a network of its own. Left out, as `net_send`, where neither usage nor a limit is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    net_receive: Option<RateNow>,
    /// What it sends over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    net_send: Option<RateNow>,
}

/// The limits that were found when the container was first seen; null for none.
#[derive(Serialize, ToSchema)]
struct Baselines {
    cpu: Option<f64>,
    memory: Option<f64>,
}

/// Bandwidth, in bytes a second; null where nothing recent is known, and for no limit.
#[derive(Serialize, ToSchema)]
struct RateNow {
    usage: Option<f64>,
    limit: Option<f64>,
}

/// The lowest and highest limits that an operator allows.
#[derive(Serialize, ToSchema)]
struct BoundsByResource {
    cpu: BoundsPair,
    memory: BoundsPair,
    /// Left out where there are none, as the following.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    disk_read: Option<BoundsPair>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    disk_write: Option<BoundsPair>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    net_receive: Option<BoundsPair>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    net_send: Option<BoundsPair>,
}

/// What a person has said of a container. It holds until it is taken back.
#[derive(Serialize, ToSchema)]
struct OverrideRow {
    /// Instead of those of labels and the configuration; null where these hold.
    bounds: OverriddenBounds,
    /// The resources whose limits and knobs rules leave alone.
    #[schema(value_type = Vec<shapes::Resource>)]
    pinned: Vec<Resource>,
    why: String,
    changed_by: String,
    /// In ms UTC.
    changed_at: i64,
}

/// Of the resources that were given any.
#[derive(Serialize, ToSchema)]
struct OverriddenBounds {
    cpu: Option<BoundsPair>,
    memory: Option<BoundsPair>,
    /// Left out where there are none, as the following.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    disk_read: Option<BoundsPair>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    disk_write: Option<BoundsPair>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    net_receive: Option<BoundsPair>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    net_send: Option<BoundsPair>,
}

impl OverrideRow {
    fn of(said: &Override) -> Self {
        let bounds = |resource| {
            let bounds: &Bounds = said.bounds.get(&resource)?;
            Some(BoundsPair { min: Some(bounds.min), max: bounds.highest() })
        };
        Self {
            bounds: OverriddenBounds {
                cpu: bounds(Resource::Cpu),
                memory: bounds(Resource::Memory),
                disk_read: bounds(Resource::DiskRead),
                disk_write: bounds(Resource::DiskWrite),
                net_receive: bounds(Resource::NetReceive),
                net_send: bounds(Resource::NetSend),
            },
            pinned: said.pinned.iter().copied().collect(),
            why: said.why.clone(),
            changed_by: said.changed_by.clone(),
            changed_at: said.changed_at.0,
        }
    }
}

/// In cores, bytes or bytes a second; null for none.
#[derive(Serialize, ToSchema)]
struct BoundsPair {
    min: Option<f64>,
    max: Option<f64>,
}

/// The newest values of CPU; null where nothing recent is known.
#[derive(Serialize, ToSchema)]
struct CpuNow {
    /// In cores, as all down to `lower`.
    usage: Option<f64>,
    limit: Option<f64>,
    /// One boundary below the limit.
    upper: Option<f64>,
    /// Two boundaries below the limit.
    lower: Option<f64>,
    /// Share of the periods that were throttled.
    throttled: Option<f64>,
    /// Share of the time in which something was stalled.
    pressure: Option<f64>,
}

impl CpuNow {
    fn of(latest: Latest) -> Self {
        let Latest { usage, limit, upper, lower, throttled, pressure, .. } = latest;
        Self { usage, limit, upper, lower, throttled, pressure }
    }
}

/// The newest values of memory; null where nothing recent is known.
#[derive(Serialize, ToSchema)]
struct MemoryNow {
    /// In bytes, as all down to `lower`.
    usage: Option<f64>,
    limit: Option<f64>,
    /// One boundary below the limit.
    upper: Option<f64>,
    /// Two boundaries below the limit.
    lower: Option<f64>,
    /// Processes that the kernel killed for memory, since the container began.
    oom_kills: Option<f64>,
    /// Memory that cannot be taken back without swap, in bytes.
    unreclaimable: Option<f64>,
    /// Share of the time in which something was stalled.
    pressure: Option<f64>,
}

impl MemoryNow {
    fn of(latest: Latest) -> Self {
        let Latest { usage, limit, upper, lower, oom_kills, unreclaimable, pressure, .. } = latest;
        Self { usage, limit, upper, lower, oom_kills, unreclaimable, pressure }
    }
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

    /// A container with its newest values and what was said of it, as the API shows it.
    pub(crate) fn row(&self, container: &Container, said: Option<&Override>, now: TimeMs) -> ContainerRow {
        let baseline = |resource| container.baseline.get(&resource).and_then(|limit| limit.value());
        let bounds = |resource| {
            let bounds = container.bounds.get(&resource);
            BoundsPair { min: bounds.map(|bounds| bounds.min), max: bounds.and_then(|bounds| bounds.highest()) }
        };
        let given = |rate| container.bounds.contains_key(&rate).then(|| bounds(rate));
        let rate = |resource| {
            let Latest { usage, limit, .. } = self.latest(container, resource);
            (usage.is_some() || limit.is_some()).then_some(RateNow { usage, limit })
        };
        ContainerRow {
            host: container.key.host.clone(),
            name: container.key.name.clone(),
            app: container.app.clone(),
            user: container.user.clone(),
            runtime: container.runtime.as_str(),
            id: container.id.clone(),
            path: container.path.to_string_lossy().into_owned(),
            cgroup: container.cgroup,
            first_seen: container.first_seen.0,
            last_seen: container.last_seen.0,
            gone: is_gone(container, now),
            baseline: Baselines { cpu: baseline(Resource::Cpu), memory: baseline(Resource::Memory) },
            bounds: BoundsByResource {
                cpu: bounds(Resource::Cpu),
                memory: bounds(Resource::Memory),
                disk_read: given(Resource::DiskRead),
                disk_write: given(Resource::DiskWrite),
                net_receive: given(Resource::NetReceive),
                net_send: given(Resource::NetSend),
            },
            said: said.map(OverrideRow::of),
            cpu: CpuNow::of(self.latest(container, Resource::Cpu)),
            memory: MemoryNow::of(self.latest(container, Resource::Memory)),
            disk_read: rate(Resource::DiskRead),
            disk_write: rate(Resource::DiskWrite),
            net_receive: rate(Resource::NetReceive),
            net_send: rate(Resource::NetSend),
        }
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
