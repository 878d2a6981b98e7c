//! What a window of measurements comes to.

use std::cmp::Ordering;

use super::queue::Queue;

/// Points that a window has room for at first: as many as a minute has seconds, and a few.
const FEW_POINTS: usize = 64;

/// The measurements of one container and resource in a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Window {
    /// (time in ms, value).
    points: Queue<(i64, f64)>,
    /// Whether they may lie in another order than that of [`Window::sorted`].
    unsorted: bool,
}

/// Which figures are wanted, of those that take a pass over all points each, or all of them sorted. The others come for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) max: bool,
    pub(crate) percentiles: bool,
    pub(crate) avg: bool,
    pub(crate) stddev: bool,
    pub(crate) slope: bool,
}

impl Wanted {
    pub(crate) const ALL: Self = Self { max: true, percentiles: true, avg: true, stddev: true, slope: true };
}

/// Figures over one [`Window`] that is not empty. Those that were not wanted are NaN or `None`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Statistics {
    pub(crate) samples: i64,
    /// The newest point; of several at the same time the largest value.
    pub(crate) newest: (i64, f64),
    pub(crate) avg: f64,
    pub(crate) max: f64,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    /// Of the sample (n - 1), as SQL's `stddev`; `None` for a single point.
    pub(crate) stddev: Option<f64>,
    /// Least squares, per second, as SQL's `regr_slope`; `None` where all points are at the same time.
    pub(crate) slope: Option<f64>,
}

impl Window {
    /// Points are expected in the order of time, and sorted where they are not. Returns how many bytes more are held.
    #[inline]
    pub(crate) fn push(&mut self, time: i64, value: f64) -> usize {
        let room = self.points.capacity();
        if self.points.is_full() {
            self.points.reserve(room.max(FEW_POINTS));
        }
        self.unsorted |= self.points.last().is_some_and(|last| order(last, &(time, value)).is_gt());
        self.points.push((time, value));
        (self.points.capacity() - room) * size_of::<(i64, f64)>()
    }

    /// As [`Window::push`], many at once.
    pub(crate) fn append(&mut self, points: Vec<(i64, f64)>) -> usize {
        let room = self.points.capacity();
        self.unsorted = true;
        if self.points.is_empty() {
            self.points = points.into();
        } else {
            self.points.extend(points);
        }
        self.points.capacity().saturating_sub(room) * size_of::<(i64, f64)>()
    }

    /// Forgets all points, but not the memory that they took.
    pub(crate) fn clear(&mut self) {
        self.points.clear();
        self.unsorted = false;
    }

    /// `None` when there is no point. `keys` is a place to sort in, kept from call to call.
    pub(crate) fn statistics(&mut self, keys: &mut Vec<i64>) -> Option<Statistics> {
        self.sorted();
        self.sort_values(keys);
        self.figures(keys, Wanted::ALL)
    }

    /// The points by time, those at the same time by value: a fixed order, so that sums have the same last bits for the same
    /// points.
    pub(crate) fn sorted(&mut self) -> &[(i64, f64)] {
        if std::mem::take(&mut self.unsorted) && !self.points.is_sorted_by(|a, b| order(a, b).is_le()) {
            self.points.sort_unstable_by(order);
        }
        &self.points
    }

    fn sort_values(&self, keys: &mut Vec<i64>) {
        keys.clear();
        keys.extend(self.points.iter().map(|(_, value)| key(*value)));
        keys.sort_unstable();
    }

    /// Of points that are sorted; `keys` are those of their values, sorted, or none where no percentiles are wanted.
    fn figures(&self, keys: &[i64], wanted: Wanted) -> Option<Statistics> {
        let newest = *self.points.last()?;
        let count = self.points.len() as f64;
        let avg = match wanted.avg || wanted.stddev || wanted.slope {
            true => self.points.iter().map(|(_, value)| value).sum::<f64>() / count,
            false => f64::NAN,
        };
        let squares = || self.points.iter().map(|(_, value)| (value - avg) * (value - avg)).sum::<f64>();
        Some(Statistics {
            samples: i64::try_from(self.points.len()).unwrap_or(i64::MAX),
            newest,
            avg,
            max: if wanted.max { self.max(keys) } else { f64::NAN },
            p50: percentile(keys, 0.50),
            p95: percentile(keys, 0.95),
            p99: percentile(keys, 0.99),
            stddev: (wanted.stddev && self.points.len() > 1).then(|| (squares() / (count - 1.0)).sqrt()),
            slope: if wanted.slope { self.slope(newest.0, avg) } else { None },
        })
    }

    /// Where nobody has sorted the values, a look at each takes less time than that would.
    fn max(&self, sorted: &[i64]) -> f64 {
        let largest = match sorted.last() {
            Some(largest) => Some(*largest),
            None => self.points.iter().map(|(_, value)| key(*value)).max(),
        };
        largest.map_or(f64::NAN, value)
    }

    /// Times are taken relative to the newest, since squares of milliseconds since 1970 have no digits left to differ in.
    fn slope(&self, newest: i64, avg: f64) -> Option<f64> {
        let seconds = |time: i64| (time - newest) as f64 / 1000.0;
        let mean = self.points.iter().map(|(time, _)| seconds(*time)).sum::<f64>() / self.points.len() as f64;
        let (mut spread, mut common) = (0.0, 0.0);
        for (time, value) in self.points.iter() {
            let x = seconds(*time) - mean;
            spread += x * x;
            common += x * (value - avg);
        }
        (spread > 0.0).then(|| common / spread)
    }
}

/// A window that moves on from question to question: what is new is added and what is too old is dropped, and the sorted
/// values are kept up instead of being sorted anew.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moving {
    window: Window,
    /// Those of all values, sorted, unless `stale`.
    keys: Vec<i64>,
    stale: bool,
    /// Whether somebody has wanted them since the window moved on.
    used: bool,
}

/// More values than these at once are sorted with all the others.
const FEW_CHANGES: usize = 16;

impl Moving {
    /// As [`Window::push`].
    pub(crate) fn push(&mut self, time: i64, value: f64) -> usize {
        self.stale = true;
        self.window.push(time, value)
    }

    /// As [`Window::clear`].
    pub(crate) fn clear(&mut self) {
        self.window.clear();
        self.stale = true;
    }

    /// As [`Window::append`].
    pub(crate) fn append(&mut self, points: Vec<(i64, f64)>) -> usize {
        self.stale = true;
        self.window.append(points)
    }

    /// Moves on: from now on the window begins at `from`, and `new` points are all that it has after `since`.
    pub(crate) fn go_on(&mut self, from: i64, since: i64, new: impl ExactSizeIterator<Item = (i64, f64)>) {
        self.window.sorted();
        let points = &mut self.window.points;
        let old = points.count_before(from);
        let kept = (points.len() - points.count_after(since)).max(old);
        let changes = old + (points.len() - kept) + new.len();
        self.stale |= changes > FEW_CHANGES || !std::mem::take(&mut self.used);
        if !self.stale {
            for (_, value) in points[..old].iter().chain(&points[kept..]) {
                if let Ok(at) = self.keys.binary_search(&key(*value)) {
                    self.keys.remove(at);
                }
            }
        }
        points.truncate(kept);
        points.drop_front(old);
        for (time, value) in new.filter(|(time, _)| *time >= from) {
            self.window.push(time, value);
            if !self.stale {
                let key = key(value);
                self.keys.insert(self.keys.partition_point(|known| *known < key), key);
            }
        }
    }

    /// As [`Window::statistics`], of what is wanted.
    pub(crate) fn statistics(&mut self, wanted: Wanted) -> Option<Statistics> {
        self.window.sorted();
        if wanted.percentiles && std::mem::take(&mut self.stale) {
            self.window.sort_values(&mut self.keys);
        }
        self.used |= wanted.percentiles;
        self.window.figures(if wanted.percentiles { &self.keys } else { &[] }, wanted)
    }
}

/// By time, those at the same time by value.
fn order(a: &(i64, f64), b: &(i64, f64)) -> Ordering {
    a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
}

/// A number that sorts as `f64::total_cmp` does: integers sort in a fraction of the time.
fn key(value: f64) -> i64 {
    let bits = value.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

/// The value of a [`key`]: the same turned back.
fn value(key: i64) -> f64 {
    f64::from_bits((key ^ (((key >> 63) as u64) >> 1) as i64) as u64)
}

/// The value below which the share `p` of the sorted values lies, interpolated linearly, as SQL's `percentile_cont`.
fn percentile(sorted: &[i64], p: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = p * last as f64;
    let below = value(sorted[at.floor() as usize]);
    let above = value(sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// How much a counter grew from the first to the last of its readings, sorted by time; a reading below the one before
/// it means that the counter began anew.
pub(crate) fn increase<'a>(readings: impl IntoIterator<Item = &'a (i64, f64)>) -> f64 {
    let mut readings = readings.into_iter().map(|(_, value)| *value);
    let Some(mut before) = readings.next() else { return 0.0 };
    let mut grown = 0.0;
    for reading in readings {
        grown += if reading >= before { reading - before } else { reading };
        before = reading;
    }
    grown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_known_series_has_known_figures() {
        let mut window = Window::default();
        for (time, value) in [(3_000, 4.0), (1_000, 1.0), (2_000, 3.0), (4_000, 4.0)] {
            window.push(time, value);
        }
        let found = window.statistics(&mut Vec::new()).unwrap();
        assert_eq!((found.samples, found.newest, found.avg, found.max, found.p50), (4, (4_000, 4.0), 3.0, 4.0, 3.5));
        assert!((found.stddev.unwrap() - 2.0_f64.sqrt()).abs() < 1e-12);
        assert!((found.slope.unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(found.p95, 4.0);
    }

    #[test]
    fn keys_sort_as_the_values_do() {
        let values = [f64::MIN, -1.5, -0.0, 0.0, 1e-300, 2.0, f64::MAX];
        let keys = values.map(key);
        assert!(keys.is_sorted());
        assert_eq!(keys.map(|key| value(key).to_bits()), values.map(f64::to_bits));
    }

    proptest! {
        #[test]
        fn a_window_that_moves_on_says_what_a_new_one_would(
            steps in prop::collection::vec((0_usize..40, 0_i64..30, 0_i64..4, any::<bool>(), any::<bool>()), 1..20),
            values in prop::collection::vec(prop::sample::select(vec![0.0, -0.0, 0.1, 0.2, 0.3, 1.0, -1.5]), 900),
        ) {
            let (mut moving, mut all, mut from) = (Moving::default(), Vec::<(i64, f64)>::new(), 0);
            let mut values = values.into_iter();
            for (count, length, late, percentiles, all_figures) in steps {
                // What came last is said anew.
                let since = all.last().map_or(-1, |(time, _)| time - 1_000 * late);
                all.retain(|(time, _)| *time <= since);
                let times = (1..).map(|nth| since + 1_000 * nth);
                let new: Vec<(i64, f64)> = times.zip(values.by_ref()).take(count).collect();
                all.extend(new.iter().copied());
                from = all.last().map_or(0, |(time, _)| time - 1_000 * length).max(from);
                moving.go_on(from, since, new.into_iter());
                let mut window = Window::default();
                for (time, value) in all.iter().filter(|(time, _)| *time >= from) {
                    window.push(*time, *value);
                }
                // What is wanted of it at one time must not change what it says later.
                let some = Wanted { max: true, percentiles, avg: false, stddev: false, slope: false };
                let max = |found: Option<Statistics>| found.map(|found| found.max.to_bits());
                prop_assert_eq!(max(moving.statistics(some)), max(window.statistics(&mut Vec::new())));
                if !all_figures {
                    continue;
                }
                let (found, wanted) = (moving.statistics(Wanted::ALL), window.statistics(&mut Vec::new()));
                prop_assert_eq!(format!("{found:?}"), format!("{wanted:?}"));
            }
        }
    }

    #[test]
    fn one_point_has_no_spread_and_no_slope() {
        let mut window = Window::default();
        assert_eq!(window.statistics(&mut Vec::new()), None);
        window.push(5, 2.0);
        let found = window.statistics(&mut Vec::new()).unwrap();
        assert_eq!((found.p99, found.stddev, found.slope), (2.0, None, None));
    }

    #[test]
    fn a_counter_that_begins_anew_goes_on_growing() {
        assert_eq!(increase(&[(1, 5.0), (2, 7.0), (3, 1.0), (4, 1.0)]), 3.0);
        assert_eq!(increase(&[(1, 5.0)]), 0.0);
    }
}
