//! Integrals of measurements over time, in which time without measurements is no time at all.
//!
//! A measurement counts from its time to that of the next one of its series. How far they usually are apart is the median
//! of a piece of the range. When the next one comes later than half as much again, something is missing: then the
//! measurement counts for the usual distance only, and the rest of the hole is neither used nor allocated.

use super::cover::{Cover, pieces, seconds};

/// By how much two measurements may be further apart than usual without one missing between them.
const JITTER: f64 = 1.5;
/// No series that is scaled is measured less often; what is further apart is a hole.
const LONGEST_USUAL_MS: i64 = 10 * 60 * 1_000;
/// From this share of its limit on a container is at it: kernels let nothing go above.
const AT_LIMIT: f64 = 0.99;

/// One measurement and the limit that was in force then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measured {
    /// Index of its series.
    pub(crate) series: usize,
    /// ms UTC.
    pub(crate) time: i64,
    pub(crate) value: f64,
    pub(crate) limit: Option<f64>,
}

/// What the measurements of one series come to, or of several together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sums {
    /// Unit times seconds.
    pub(crate) used: f64,
    /// Unit times seconds, while a limit was known.
    pub(crate) allocated: f64,
    /// The part of `used` for which a limit was known.
    pub(crate) used_of_allocated: f64,
    /// Seconds with data; of several series the sum.
    pub(crate) known_s: f64,
    /// Seconds with data and a limit.
    pub(crate) limited_s: f64,
    /// Seconds at the limit.
    pub(crate) at_limit_s: f64,
    /// The largest value.
    pub(crate) peak: Option<f64>,
    pub(crate) samples: u64,
}

impl Sums {
    pub(crate) fn add(&mut self, other: &Sums) {
        self.used += other.used;
        self.allocated += other.allocated;
        self.used_of_allocated += other.used_of_allocated;
        self.known_s += other.known_s;
        self.limited_s += other.limited_s;
        self.at_limit_s += other.at_limit_s;
        self.samples += other.samples;
    }
}

/// One series on its way through the range.
#[derive(Clone, Debug, Default)]
struct Series {
    /// Its newest measurement, which counts until it is known when the next one comes.
    open: Option<Measured>,
    usual_ms: Option<i64>,
    sums: Sums,
    cover: Cover,
    /// Sum and count of the cell that is being added up.
    cell: (f64, u32),
}

/// A range of time and the buckets of its chart, all in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) from: i64,
    pub(crate) to: i64,
    /// Start of the first bucket, at or before `from`.
    pub(crate) first: i64,
    pub(crate) step: i64,
    pub(crate) count: usize,
}

/// All series of one resource. Takes measurements in the order of their times, a piece of the range at a time.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    grid: Grid,
    series: Vec<Series>,
    cover: Cover,
    limited: Cover,
    used: Vec<f64>,
    allocated: Vec<f64>,
    peak: Option<f64>,
}

impl Ledger {
    /// Of so many series.
    pub(crate) fn new(series: usize, grid: Grid) -> Self {
        Self {
            grid,
            series: vec![Series::default(); series],
            cover: Cover::default(),
            limited: Cover::default(),
            used: vec![0.0; grid.count],
            allocated: vec![0.0; grid.count],
            peak: None,
        }
    }

    /// Takes the next piece of the range. Measurements of before the range count for what they reach into it.
    pub(crate) fn take(&mut self, piece: &[Measured]) {
        self.learn_distances(piece);
        self.find_peaks(piece);
        for measured in piece {
            let of = &mut self.series[measured.series];
            let usual = of.usual_ms;
            if let Some(open) = of.open.replace(*measured) {
                let apart = measured.time - open.time;
                let is_hole = usual.is_some_and(|usual| apart as f64 > usual as f64 * JITTER);
                self.close(&open, if is_hole { open.time + usual.unwrap_or(0) } else { measured.time });
            }
        }
    }

    /// Ends the range: the last measurements count for the usual distance.
    pub(crate) fn finish(&mut self) {
        for at in 0..self.series.len() {
            if let Some(open) = self.series[at].open.take() {
                self.close(&open, open.time + self.series[at].usual_ms.unwrap_or(0));
            }
        }
    }

    /// The median of the distances in this piece; of too few of them, what was usual before.
    fn learn_distances(&mut self, piece: &[Measured]) {
        const ENOUGH: usize = 3;
        let mut last: Vec<Option<i64>> = self.series.iter().map(|series| series.open.map(|open| open.time)).collect();
        let mut apart: Vec<Vec<i64>> = vec![Vec::new(); self.series.len()];
        for measured in piece {
            let before = last[measured.series].replace(measured.time);
            apart[measured.series].extend(before.map(|before| measured.time - before).filter(|apart| *apart > 0));
        }
        for (series, mut apart) in self.series.iter_mut().zip(apart) {
            if apart.is_empty() || (apart.len() < ENOUGH && series.usual_ms.is_some()) {
                continue;
            }
            // Of an even number the shorter one of the middle: a hole must not pass for what is usual.
            let middle = (apart.len() - 1) / 2;
            let (_, median, _) = apart.select_nth_unstable(middle);
            series.usual_ms = Some((*median).min(LONGEST_USUAL_MS));
        }
    }

    /// The largest value of each series, and the largest sum of all at an instant: cells of time as long as the series
    /// that is measured least often is measured apart.
    fn find_peaks(&mut self, piece: &[Measured]) {
        let Grid { from, to, .. } = self.grid;
        let cell_ms = self.series.iter().filter_map(|series| series.usual_ms).max().unwrap_or(1_000).max(1);
        let mut cell = i64::MIN;
        let mut in_cell: Vec<usize> = Vec::new();
        for measured in piece.iter().filter(|measured| (from..to).contains(&measured.time)) {
            if measured.time.div_euclid(cell_ms) != cell {
                self.end_cell(&mut in_cell);
                cell = measured.time.div_euclid(cell_ms);
            }
            let series = &mut self.series[measured.series];
            series.sums.samples += 1;
            series.sums.peak = larger(series.sums.peak, measured.value);
            if series.cell.1 == 0 {
                in_cell.push(measured.series);
            }
            series.cell = (series.cell.0 + measured.value, series.cell.1 + 1);
        }
        self.end_cell(&mut in_cell);
    }

    fn end_cell(&mut self, in_cell: &mut Vec<usize>) {
        if in_cell.is_empty() {
            return;
        }
        let sum = in_cell.drain(..).map(|at| {
            let (sum, count) = std::mem::take(&mut self.series[at].cell);
            sum / f64::from(count)
        });
        self.peak = larger(self.peak, sum.sum());
    }

    /// A measurement counts until `end`, as far as that lies in the range.
    fn close(&mut self, measured: &Measured, end: i64) {
        let (start, end) = (measured.time.max(self.grid.from), end.min(self.grid.to));
        if start >= end {
            return;
        }
        let (long, Measured { value, limit, .. }) = (seconds(end - start), *measured);
        let series = &mut self.series[measured.series];
        series.sums.used += value * long;
        series.sums.known_s += long;
        series.cover.add(start, end);
        self.cover.add(start, end);
        if let Some(limit) = limit {
            series.sums.allocated += limit * long;
            series.sums.used_of_allocated += value * long;
            series.sums.limited_s += long;
            series.sums.at_limit_s += if value >= limit * AT_LIMIT { long } else { 0.0 };
            self.limited.add(start, end);
        }
        let Grid { first, step, count, .. } = self.grid;
        pieces(start, end, first, step, count, |at, long| {
            self.used[at] += value * long;
            self.allocated[at] += limit.unwrap_or(0.0) * long;
        });
    }

    /// What one series comes to.
    pub(crate) fn sums(&self, series: usize) -> &Sums {
        &self.series[series].sums
    }

    /// Holes in one series.
    pub(crate) fn gaps(&self, series: usize) -> usize {
        self.series[series].cover.gaps()
    }

    /// What all series come to; the peak is that of their sums.
    pub(crate) fn total(&self) -> Sums {
        let mut total = Sums { peak: self.peak, ..Sums::default() };
        self.series.iter().for_each(|series| total.add(&series.sums));
        total
    }

    /// Seconds at which at least one series has data.
    pub(crate) fn cover(&self) -> &Cover {
        &self.cover
    }

    /// Seconds at which at least one series has a limit.
    pub(crate) fn limited_s(&self) -> f64 {
        self.limited.seconds()
    }

    /// Means of used and allocated in each bucket, over the time with data in it.
    pub(crate) fn means(&self) -> (Vec<Option<f64>>, Vec<Option<f64>>) {
        let Grid { first, step, count, .. } = self.grid;
        let mean = |sums: &[f64], cover: &Cover| {
            let covered = cover.by_bucket(first, step, count);
            sums.iter().zip(covered).map(|(sum, long)| (long > 0.0).then(|| sum / long)).collect()
        };
        (mean(&self.used, &self.cover), mean(&self.allocated, &self.limited))
    }
}

fn larger(peak: Option<f64>, value: f64) -> Option<f64> {
    Some(peak.map_or(value, |peak| peak.max(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over so many seconds, a multiple of ten.
    fn ledger(series: usize, long_s: i64) -> Ledger {
        let grid =
            Grid { from: 0, to: long_s * 1_000, first: 0, step: 10_000, count: usize::try_from(long_s / 10).unwrap() };
        Ledger::new(series, grid)
    }

    fn measured(series: usize, ms: i64, value: f64, limit: Option<f64>) -> Measured {
        Measured { series, time: ms, value, limit }
    }

    fn of(ledger: &mut Ledger, pieces: &[&[Measured]]) -> Sums {
        pieces.iter().for_each(|piece| ledger.take(piece));
        ledger.finish();
        ledger.total()
    }

    #[test]
    fn a_constant_load_is_its_value_times_its_time() {
        let second: Vec<_> = (0..60).map(|s| measured(0, s * 1_000, 0.5, Some(2.0))).collect();
        for pieces in [vec![&second[..]], second.chunks(7).collect()] {
            let sums = of(&mut ledger(1, 60), &pieces);
            assert_eq!((sums.used, sums.allocated, sums.known_s), (30.0, 120.0, 60.0));
            assert_eq!((sums.samples, sums.peak, sums.at_limit_s), (60, Some(0.5), 0.0));
        }
    }

    #[test]
    fn a_hole_counts_neither_as_used_nor_as_allocated() {
        // Half a minute is missing: seconds 20 to 49.
        let rest = (0..60).filter(|s| !(20..50).contains(s));
        let rows: Vec<_> = rest.map(|s| measured(0, s * 1_000, 2.0, Some(4.0))).collect();
        let mut ledger = ledger(1, 60);
        let sums = of(&mut ledger, &[&rows]);
        assert_eq!((sums.used, sums.allocated, sums.known_s), (60.0, 120.0, 30.0));
        assert_eq!(ledger.gaps(0), 1);
        let (used, allocated) = ledger.means();
        assert_eq!(used, [Some(2.0), Some(2.0), None, None, None, Some(2.0)]);
        assert_eq!(allocated[5], Some(4.0));
    }

    #[test]
    fn clocks_that_jitter_make_no_holes() {
        let rows: Vec<_> = (0..30).map(|s| measured(0, s * 1_000 + (s % 3) * 200, 1.0, None)).collect();
        let sums = of(&mut ledger(1, 30), &[&rows]);
        assert!((sums.used - 30.0).abs() < 0.5 && (sums.known_s - sums.used).abs() < 1e-9, "{sums:?}");
        assert_eq!((sums.allocated, sums.limited_s), (0.0, 0.0));
    }

    #[test]
    fn what_reaches_into_the_range_counts_for_that_part_and_not_beyond_its_end() {
        // Every ten seconds from -5 s on, over a range of 20 s.
        let rows: Vec<_> = [-15, -5, 5, 15].map(|s| measured(0, s * 1_000, 3.0, Some(6.0))).to_vec();
        let mut ledger = ledger(1, 20);
        let sums = of(&mut ledger, &[&rows]);
        assert_eq!((sums.used, sums.known_s, sums.samples), (60.0, 20.0, 2));
        assert_eq!(ledger.means().0, [Some(3.0), Some(3.0)]);
    }

    #[test]
    fn a_value_counts_until_the_next_one_and_one_alone_for_nothing() {
        let rows = [measured(0, 0, 1.0, None), measured(0, 10_000, 5.0, None), measured(0, 20_000, 0.0, None)];
        assert_eq!(of(&mut ledger(1, 30), &[&rows]).used, 60.0);
        let alone = of(&mut ledger(1, 30), &[&rows[..1]]);
        assert_eq!((alone.used, alone.known_s, alone.peak), (0.0, 0.0, Some(1.0)));
    }

    #[test]
    fn several_series_add_up_and_peak_together() {
        // The first has data all the time, the second in the second half, half of its limit's time at the limit.
        let rows: Vec<_> = (0..20)
            .flat_map(|s| {
                let second = (s >= 10).then(|| measured(1, s * 1_000 + 3, 2.0, Some(if s < 15 { 2.0 } else { 8.0 })));
                [Some(measured(0, s * 1_000, 1.0, None)), second]
            })
            .flatten()
            .collect();
        let mut ledger = ledger(2, 20);
        let sums = of(&mut ledger, &[&rows]);
        assert!((sums.used - 40.0).abs() < 0.01 && (sums.known_s - 30.0).abs() < 0.01, "{sums:?}");
        assert_eq!((ledger.sums(0).used, sums.peak), (20.0, Some(3.0)));
        assert!((ledger.cover().seconds() - 20.0).abs() < 0.01, "they overlap");
        assert!((sums.at_limit_s - 5.0).abs() < 0.01 && (ledger.limited_s() - 10.0).abs() < 0.01, "{sums:?}");
        assert!((sums.used_of_allocated / sums.allocated - 20.0 / 50.0).abs() < 1e-3);
    }
}
