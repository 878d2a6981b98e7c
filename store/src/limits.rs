//! The last known limits of containers that are not heard of any more.

use std::collections::HashMap;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use tidegate_model::{ContainerKey, Resource, TimeMs};

use crate::error::StoreError;
use crate::store::Store;
use crate::tables::SubjectSource;

/// When a limit was read, and what it was in cores or bytes.
pub type LastLimits = HashMap<(ContainerKey, Resource), (TimeMs, f64)>;

impl Store {
    /// The newest limit of each of `wanted` that was read at most `age` before `now`; of whom none was read there is none.
    /// Cheap where the newest samples are at hand, which they are but for the first time after a start.
    ///
    /// # Errors
    /// A segment that must be looked into cannot be read.
    pub fn last_limits(
        &self,
        wanted: &[(ContainerKey, Resource)],
        now: TimeMs,
        age: Duration,
    ) -> Result<LastLimits, StoreError> {
        let mut last = LastLimits::new();
        let names: HashMap<(&str, &str, &str), &(ContainerKey, Resource)> =
            wanted.iter().map(|of| ((of.0.host.as_str(), of.0.name.as_str(), of.1.as_str()), of)).collect();
        let table = SubjectSource::LIMITS.labels(self);
        let [hosts, containers, resources] = [0, 1, 2].map(|column: usize| table.columns[column].as_string_view());
        let from = now.minus(age).0;
        for members in &table.members {
            // All of them, also those that are not wanted: the store learns of whom it need not look any more.
            let found = self.newest_of(&members.metric, &members.ids, from, now.0, || Ok::<_, StoreError>(()))?;
            for (place, time, value) in found {
                let Some(label) = members.rank.get(members.ids[place as usize]) else { continue };
                let row = label as usize;
                if [hosts, containers, resources].iter().any(|column| column.is_null(row)) {
                    continue;
                }
                let name = (hosts.value(row), containers.value(row), resources.value(row));
                let Some(of) = names.get(&name) else { continue };
                let newest = last.entry((*of).clone()).or_insert((TimeMs(time), value));
                if newest.0.0 <= time {
                    *newest = (TimeMs(time), value);
                }
            }
        }
        Ok(last)
    }
}
