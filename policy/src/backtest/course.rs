//! What a replay looked like: use and limit of some containers over time, in as many points as fit on a screen.

use serde::Serialize;
use tidegate_actuator::simulated::Reading;
use tidegate_model::{Resource, TimeMs};

/// Points of a course at most.
const POINTS: usize = 360;
/// Containers whose courses are kept.
pub(super) const CONTAINERS: usize = 200;

/// One limit over time. All columns have the same length; there is no point where nothing was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Course {
    /// Its host.
    pub host: String,
    /// Its container.
    pub container: String,
    /// Its resource.
    pub resource: Resource,
    /// The end of each point's span.
    pub t: Vec<TimeMs>,
    /// The most that was wanted in it, in cores or bytes.
    pub wanted: Vec<f32>,
    /// What was used in the mean.
    pub used: Vec<f32>,
    /// The limit in the mean, of memory the lower one of the limit and `memory.high`; `None` without one.
    pub limit: Vec<Option<f32>>,
}

/// A point that is being put together.
#[derive(Clone, Copy, Debug, Default)]
struct Point {
    samples: u32,
    wanted: f64,
    used: f64,
    limit: f64,
}

/// The course of one limit, while it is played.
#[derive(Clone, Debug)]
pub(super) struct Drawn {
    from: i64,
    /// Width of a point, in ms.
    width: i64,
    points: Vec<Point>,
}

impl Drawn {
    pub(super) fn new(from: TimeMs, to: TimeMs) -> Self {
        let width = to.since(from).as_millis() as i64 / POINTS as i64 + 1;
        Self { from: from.0, width, points: Vec::new() }
    }

    /// A measurement of an interval that ends at `now`.
    pub(super) fn add(&mut self, now: TimeMs, reading: &Reading) {
        // Behind `from`, and at most POINTS.
        let at = ((now.0 - self.from - 1).max(0) / self.width) as usize;
        if self.points.len() <= at {
            self.points.resize(at + 1, Point::default());
        }
        let point = &mut self.points[at];
        point.samples += 1;
        point.wanted = point.wanted.max(reading.wanted);
        point.used += reading.used;
        point.limit += reading.limit;
    }

    pub(super) fn course(&self, host: &str, container: &str, resource: Resource) -> Course {
        let (host, container) = (host.to_owned(), container.to_owned());
        let (t, wanted, used, limit) = Default::default();
        let mut course = Course { host, container, resource, t, wanted, used, limit };
        for (at, point) in (1_i64..).zip(&self.points).filter(|(_, point)| point.samples > 0) {
            let mean = |sum: f64| (sum / f64::from(point.samples)) as f32;
            course.t.push(TimeMs(self.from + at * self.width));
            course.wanted.push(point.wanted as f32);
            course.used.push(mean(point.used));
            course.limit.push(Some(mean(point.limit)).filter(|limit| limit.is_finite()));
        }
        course
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_replay_comes_down_to_points_that_keep_what_was_wanted_most() {
        let (from, to) = (TimeMs(0), TimeMs(7_200_000));
        let mut drawn = Drawn::new(from, to);
        for second in 1..=7_200_i64 {
            let wanted = if second == 4_000 { 9.0 } else { 1.0 };
            let limit = if second <= 3_600 { 2.0 } else { f64::INFINITY };
            let reading = Reading { wanted, limit, used: 1.0, throttled: 0.0, killed: false };
            // Nobody was there for a while.
            if !(600..1_200).contains(&second) {
                drawn.add(TimeMs(second * 1_000), &reading);
            }
        }
        let course = drawn.course("node0", "web", Resource::Cpu);
        assert!(course.t.len() <= POINTS && course.t.len() > 320, "{}", course.t.len());
        assert!(course.t.is_sorted() && course.t.last().unwrap().0 >= to.0);
        assert_eq!(course.wanted.iter().filter(|wanted| **wanted == 9.0).count(), 1);
        assert_eq!((course.limit[0], *course.limit.last().unwrap(), course.used[0]), (Some(2.0), None, 1.0));
        assert!(!course.t.iter().any(|t| (640_000..1_180_000).contains(&t.0)), "a gap has no points");
    }
}
