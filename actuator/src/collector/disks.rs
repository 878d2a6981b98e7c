//! What a container does to disks.

use tidegate_model::Resource;

use super::rates::Counted;
use super::{Round, Tags, Watched};
use crate::host::LocalHost;

impl Round {
    /// Limits and usage of disks, of whoever has any of them.
    pub(super) fn sample_disks(
        &mut self,
        host: &LocalHost,
        watched: &mut Watched,
        tags: &Tags,
        former: Counted,
        now: Counted,
    ) {
        // Where the controller is missing or not handed down there is none.
        let own = Resource::DISKS.map(|disk| {
            let Watched { tracked, sampler, .. } = watched;
            self.own_rate_limit(host, tracked, disk, || sampler.limit(disk))
        });
        let whose = (host, &*watched, tags);
        watched.uses.disks = self.sample_rates(whose, Resource::DISKS, own, (former, now), watched.uses.disks);
    }
}
