//! Putting back what was found, without a controller.

use std::sync::Arc;

use tidegate_model::{Clock, ContainerKey, Limit, OutcomeStatus, Resource};

use crate::agent::wire::Report;
use crate::{Actuator as _, Change, LocalHost};

/// Puts all limits of a host back to what they were before the first change, and reports those that were not there
/// already. Memory that has to be squeezed may take seconds a container; `refuse` is asked before each limit and may have a
/// reason to leave the rest.
pub fn restore_baselines(
    host: &Arc<LocalHost>,
    reason: &str,
    refuse: &dyn Fn() -> Option<String>,
    clock: &dyn Clock,
) -> Vec<Report> {
    let mut known: Vec<(ContainerKey, Resource, Limit)> = Vec::new();
    for tracked in host.containers.read().values() {
        let container = tracked.container.read();
        known.extend(container.baseline.iter().map(|(resource, limit)| (container.key.clone(), *resource, *limit)));
    }
    // CPU first, since it never blocks and memory may.
    known.sort_by_key(|(_, resource, _)| *resource);
    let put_back = |(container, resource, limit): (ContainerKey, Resource, Limit)| {
        let decision = format!("agent-{}-{}-{}-{resource}", clock.now().0, container.host, container.name);
        let change = Change {
            container: container.clone(),
            resource,
            target: limit.value().unwrap_or(f64::INFINITY),
            limit_before: None,
            decision: decision.clone(),
        };
        let outcome = host.apply_unless(&change, refuse, clock);
        let reason = reason.to_owned();
        Report { order: None, decision, container, resource, target: limit.value(), reason, outcome }
    };
    let reports = known.into_iter().map(put_back);
    reports.filter(|report| report.outcome.status != OutcomeStatus::Unchanged).collect()
}
