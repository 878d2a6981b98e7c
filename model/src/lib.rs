//! The words of the domain with their units: what every other room of Tidegate speaks.
//!
//! Owns the types that cross crate borders and the only conversions between units. Never does I/O, reads a clock by
//! itself or knows how a value was collected; it depends on serde alone.

mod clock;
mod container;
mod decision;
mod group;
mod host;
mod limit;
mod sample;
mod series;
mod tolerant;
mod units;

pub use clock::{Clock, SystemClock, TimeMs, VirtualClock};
pub use container::{Bounds, CgroupVersion, Container, ContainerKey, Runtime};
pub use decision::{Decision, Event, GuardAction, GuardReport, Mode, Outcome, OutcomeStatus, Write};
pub use group::{GroupBounds, GroupKey, GroupKind, Membership};
pub use host::Host;
pub use limit::{Limit, Resource, UnknownResource};
pub use sample::{SampleBatch, SeriesRef};
pub use series::{SeriesKey, Tags};
pub use tolerant::from_json;
pub use units::{Bytes, Cores, mebibits_to_bytes, mebibytes_to_bytes, percent_of_core_to_cores};

/// Names of the metrics that the collector writes; the store's domain tables are views over them.
pub mod metrics {
    /// Consumption. Tags `host`, `container`, `app`, `resource`; cores (mean over the interval before `time`), bytes, or of disks
    /// and networks bytes a second. Of these only containers have it of which something is known: use, a bound or a limit. v1
    /// charges what is written through the page cache to nobody.
    pub const USAGE: &str = "tidegate.usage";
    /// The limit that is in force (own, ancestors' or the host's capacity, whichever is least). Tags as [`USAGE`]. Of disks and
    /// networks nobody knows the capacity: without a limit there is no sample.
    pub const LIMIT: &str = "tidegate.limit";
    /// Share of the interval in which some task stalled, 0..=1. Tags as [`USAGE`].
    pub const PRESSURE_SOME: &str = "tidegate.pressure.some";
    /// Share of the interval in which all tasks stalled, 0..=1. Tags as [`USAGE`].
    pub const PRESSURE_FULL: &str = "tidegate.pressure.full";
    /// Share of the CFS periods of the interval in which the container was throttled, 0..=1. Tags as [`USAGE`].
    pub const THROTTLED: &str = "tidegate.throttled";
    /// OOM kills since the container was first seen, a counter. Tags as [`USAGE`], `resource` = `memory`.
    pub const OOM_KILLS: &str = "tidegate.oom_kills";
    /// Memory that the kernel cannot reclaim without swapping: anonymous, shared and kernel memory, in bytes.
    /// Tags as [`USAGE`], `resource` = `memory`.
    pub const UNRECLAIMABLE: &str = "tidegate.unreclaimable";
}
