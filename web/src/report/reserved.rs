//! What is set aside for a container: what an operator lets its limit rise to, or else an equal share of its host.

use serde::Serialize;
use tidegate_model::{Container, ContainerKey, Host, Resource};
use utoipa::ToSchema;

/// What an amount is reserved by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReservedBy {
    /// The upper bound that an operator set.
    Bounds,
    /// The host's capacity divided by the containers on it.
    HostShare,
    /// Some by one, some by the other.
    Mixed,
}

/// An amount in cores or bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reserved {
    pub(crate) amount: f64,
    pub(crate) by: ReservedBy,
}

/// As of now: former bounds are not kept. `None` of a host whose capacity is not known, and of a container that is not.
pub(crate) fn reserved(
    key: &ContainerKey,
    resource: Resource,
    containers: &[Container],
    hosts: &[Host],
) -> Option<Reserved> {
    let container = containers.iter().find(|container| container.key == *key)?;
    if let Some(bounds) = container.bounds.get(&resource).filter(|bounds| bounds.max.is_finite()) {
        return Some(Reserved { amount: bounds.max, by: ReservedBy::Bounds });
    }
    let host = hosts.iter().find(|host| host.name == key.host)?;
    let capacity = if resource.of() == Resource::Cpu { host.cpu.0 } else { host.memory.0 as f64 };
    let neighbours = containers.iter().filter(|container| container.key.host == key.host).count();
    Some(Reserved { amount: capacity / neighbours as f64, by: ReservedBy::HostShare })
}
