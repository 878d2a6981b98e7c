//! The demo's containers: what runs in them, and what they are allowed at first.

use crate::load::Shape;

/// One container of the demo.
pub struct Member {
    pub name: &'static str,
    pub app: &'static str,
    pub shape: Shape,
    /// Highest CPU demand in cores, on a machine of four cores or more.
    pub cores: f64,
    /// Seconds.
    pub cycle: f64,
    /// Highest memory demand in MiB.
    pub memory_mib: usize,
    /// The limits it starts with, in cores and MiB.
    pub first_limits: (f64, u64),
}

/// A fleet that shows each kind of demand; altogether about a core on average.
pub const FLEET: [Member; 6] = [
    member("web-1", "shop", Shape::Steady, 0.3, 60.0, 24, (0.2, 64)),
    member("api-1", "shop", Shape::Square, 1.2, 40.0, 32, (0.3, 64)),
    member("batch-1", "jobs", Shape::Ramp, 1.0, 60.0, 48, (0.3, 96)),
    member("spiky-1", "shop", Shape::Burst, 1.5, 30.0, 16, (0.3, 64)),
    member("cache-1", "data", Shape::Ramp, 0.05, 90.0, 180, (0.2, 64)),
    member("idle-1", "jobs", Shape::Steady, 0.02, 60.0, 8, (1.0, 256)),
];

const fn member(
    name: &'static str,
    app: &'static str,
    shape: Shape,
    cores: f64,
    cycle: f64,
    memory_mib: usize,
    first_limits: (f64, u64),
) -> Member {
    Member { name, app, shape, cores, cycle, memory_mib, first_limits }
}

/// What to multiply demands with, so that the fleet leaves a small machine usable: a half on one or two cores.
pub fn scale(cores: f64) -> f64 {
    (cores / 4.0).clamp(0.5, 1.0)
}
