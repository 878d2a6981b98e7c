//! What [`super::trail`] knows of each row, and how it moves on with the window.

use super::gather::{Mean, Target};
use super::queue::Queue;
use super::statistics::{Moving, increase};

/// Samples that are late by less than this, counted from the last question, are put in their place; for those that are
/// later the whole window is read anew.
pub(super) const REACH_MS: i64 = 30_000;

/// Row, time and value.
pub(super) type New = (u32, i64, f64);

/// What is known of a metric, by row; nothing until somebody wants it.
pub(super) struct Followed<T> {
    /// Until when everything is there.
    pub(super) upto: Option<i64>,
    /// For which instant it was brought there.
    pub(super) now: i64,
    pub(super) rows: Vec<T>,
    /// What they held when they were read.
    pub(super) bytes: usize,
}

impl<T> Default for Followed<T> {
    fn default() -> Self {
        Self { upto: None, now: i64::MIN, rows: Vec::new(), bytes: 0 }
    }
}

impl<T> Followed<T> {
    /// Samples from `late` on have come since.
    pub(super) fn rewind(&mut self, late: i64) {
        let before = late.saturating_sub(1);
        self.upto = self.upto.map(|upto| upto.min(before)).filter(|upto| *upto >= self.now.saturating_sub(REACH_MS));
    }
}

/// What moves on with the window.
pub(super) trait Follows {
    /// From now on the window begins at `from`, and `new` samples are all that it has after `since`, which is no longer ago
    /// than [`REACH_MS`].
    fn go_on(&mut self, from: i64, since: i64, new: &[New]);
}

/// Samples of a row in the order of time.
#[derive(Clone, Default)]
pub(super) struct Points(Queue<(i64, f64)>);

impl Points {
    /// All of them, or the newest alone where no mean is wanted.
    pub(super) fn mean(&self, all: bool) -> Mean {
        let from = if all { 0 } else { self.0.len().saturating_sub(1) };
        let mut mean = Mean::default();
        for (time, value) in &self.0[from..] {
            mean.push(*time, *value);
        }
        mean
    }
}

/// Readings of a counter.
#[derive(Clone, Default)]
pub(super) struct Runs {
    /// Each value with the time of the last of the samples that say so, up to [`REACH_MS`] before the newest sample.
    runs: Vec<(i64, f64)>,
    /// The samples since, which may be said anew.
    recent: Queue<(i64, f64)>,
}

impl Runs {
    /// Kills in the window; `None` where the container is not watched.
    pub(super) fn kills(&self) -> Option<f64> {
        let readings = self.runs.iter().chain(self.recent.iter());
        (!self.runs.is_empty() || !self.recent.is_empty()).then(|| increase(readings))
    }
}

impl Target for Moving {
    fn push(&mut self, time: i64, value: f64) -> usize {
        Moving::push(self, time, value)
    }

    fn append(&mut self, points: Vec<(i64, f64)>) -> usize {
        Moving::append(self, points)
    }

    fn clear(&mut self) {
        Moving::clear(self);
    }
}

impl Target for Points {
    fn push(&mut self, time: i64, value: f64) -> usize {
        let room = self.0.capacity();
        self.0.push((time, value));
        (self.0.capacity() - room) * size_of::<(i64, f64)>()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

impl Target for Runs {
    fn push(&mut self, time: i64, value: f64) -> usize {
        let room = self.runs.capacity() + self.recent.capacity();
        self.recent.push((time, value));
        let settled = self.recent.partition_point(|(at, _)| *at <= time.saturating_sub(REACH_MS));
        for (time, value) in &self.recent[..settled] {
            match self.runs.last_mut() {
                Some((last, known)) if known == value => *last = *time,
                _ => self.runs.push((*time, *value)),
            }
        }
        self.recent.drop_front(settled);
        (self.runs.capacity() + self.recent.capacity()).saturating_sub(room) * size_of::<(i64, f64)>()
    }

    fn clear(&mut self) {
        self.runs.clear();
        self.recent.clear();
    }
}

impl Follows for Moving {
    fn go_on(&mut self, from: i64, since: i64, new: &[New]) {
        Moving::go_on(self, from, since, new.iter().map(|(_, time, value)| (*time, *value)));
    }
}

impl Follows for Points {
    fn go_on(&mut self, from: i64, since: i64, new: &[New]) {
        move_on(&mut self.0, from, since);
        self.0.extend(new.iter().filter(|(_, time, _)| *time >= from).map(|(_, time, value)| (*time, *value)));
    }
}

impl Follows for Runs {
    fn go_on(&mut self, from: i64, since: i64, new: &[New]) {
        self.runs.drain(..self.runs.partition_point(|(time, _)| *time < from));
        move_on(&mut self.recent, from, since);
        for (_, time, value) in new.iter().filter(|(_, time, _)| *time >= from) {
            self.push(*time, *value);
        }
    }
}

/// Drops what is before `from` and what is after `since`.
fn move_on(points: &mut Queue<(i64, f64)>, from: i64, since: i64) {
    points.truncate(points.len() - points.count_after(since));
    points.drop_front(points.count_before(from));
}
