//! What a container receives and sends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_model::Resource;

use super::{Round, Tags, Watched};
use crate::error::ActuatorError;
use crate::host::LocalHost;

/// How long the first process of a container may be on its way into a network of its own.
const NEW: Duration = Duration::from_secs(10);

impl Round {
    /// Limits and usage of its network, where it has one of its own.
    pub(super) fn sample_network(&mut self, host: &LocalHost, watched: &mut Watched, tags: &Tags) {
        let cgroup = Arc::clone(&watched.tracked.cgroup.read());
        let Some(dir) = cgroup.primary() else { return };
        let looked = {
            let container = watched.tracked.container.read();
            let is_new = self.now.since(container.first_seen) < NEW;
            cgroup.network.look(dir.path(), &container.key.name, is_new, self.now)
        };
        if self.gaps.take(looked) == Some(true) {
            // An interface that came has no limit yet, and nobody took it away.
            for rate in Resource::NETWORK {
                watched.tracked.owned(rate).try_lock().into_iter().for_each(|mut owned| owned.claim.doubt());
            }
        }
        let counted = cgroup
            .network
            .count(&mut self.text)
            .map(|counted| counted.map_err(|error| ActuatorError::file("read the traffic of", dir.path(), error)));
        let Some(counted) = counted else {
            watched.former_traffic = None;
            return;
        };
        let now = self.gaps.take(counted).map(|transferred| (transferred, Instant::now()));
        let former = std::mem::replace(&mut watched.former_traffic, now);
        let own = Resource::NETWORK.map(|rate| {
            let read = || match cgroup.network.limit(rate) {
                // There is no interface yet.
                Err(ActuatorError::Refused(_)) => Ok(None),
                limit => limit.map(Some),
            };
            self.own_rate_limit(host, &watched.tracked, rate, read)
        });
        let whose = (host, &*watched, tags);
        watched.uses.network = self.sample_rates(whose, Resource::NETWORK, own, (former, now), watched.uses.network);
    }
}
