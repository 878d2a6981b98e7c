//! Times that follow one another at even steps: where they do, which is as a rule, no page of times has to be read to know
//! them, and the rows of a range are computed.

use std::ops::Range;

/// Stretches that there may be for each series, and rows of each stretch beyond them: with more of them the times are
/// uneven, and computing them would take as much memory as it saves reading.
const PER_SERIES: usize = 2;
const ROWS_EACH: usize = 64;
/// So many more make no difference.
const FEW: usize = 1_024;

/// The times of the rows of a metric, as stretches of even steps.
#[derive(Debug)]
pub(super) struct Times {
    stretches: Vec<Stretch>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Stretch {
    /// Number of its first row, counted from the metric's first.
    row: u32,
    /// In ms.
    step: u32,
    /// Time of its first row, in ms UTC.
    first: i64,
}

impl Stretch {
    fn time(&self, row: u32) -> i64 {
        self.first + i64::from(row - self.row) * i64::from(self.step)
    }
}

/// Finds the stretches of times that are shown row by row.
#[derive(Debug, Default)]
pub(super) struct TimesBuilder {
    stretches: Vec<Stretch>,
    row: u32,
    series: usize,
}

impl TimesBuilder {
    /// The next row's time follows as the first of another series.
    pub(super) fn begin_series(&mut self) {
        self.series += 1;
        self.stretches.push(Stretch { row: self.row, step: 0, first: 0 });
    }

    /// The next rows' times; `false` when all of them together are too uneven.
    pub(super) fn push(&mut self, times: &[i64]) -> bool {
        for &time in times {
            let Some(last) = self.stretches.last_mut() else { return false };
            match self.row - last.row {
                0 => last.first = time,
                1 if (1..=i64::from(u32::MAX)).contains(&time.saturating_sub(last.first)) => {
                    last.step = (time - last.first) as u32;
                }
                _ if last.step > 0 && last.time(self.row) == time => {}
                _ => self.stretches.push(Stretch { row: self.row, step: 0, first: time }),
            }
            self.row += 1;
        }
        self.stretches.len() <= PER_SERIES * self.series + self.row as usize / ROWS_EACH + FEW
    }

    pub(super) fn finish(mut self) -> Times {
        self.stretches.shrink_to_fit();
        Times { stretches: self.stretches }
    }
}

impl Times {
    /// Those of `rows`, the rows of one series, whose times lie in `from..=to`.
    pub(super) fn within(&self, rows: Range<u32>, from: i64, to: i64) -> Range<u32> {
        let of = self.stretches_of(&rows);
        let start = first_from(of, &rows, from);
        let end = to.checked_add(1).map_or(rows.end, |after| first_from(of, &rows, after));
        start..end.max(start)
    }

    /// Appends the times of `rows`, which are of one series.
    pub(super) fn append(&self, rows: Range<u32>, times: &mut Vec<i64>) {
        let of = self.stretches_of(&rows);
        times.reserve(rows.len());
        for (place, stretch) in of.iter().enumerate() {
            let end = of.get(place + 1).map_or(rows.end, |next| next.row);
            let (first, step) = (stretch.time(rows.start.max(stretch.row)), i64::from(stretch.step));
            let count = i64::from(end - rows.start.max(stretch.row));
            times.extend((0..count).map(|number| first + number * step));
        }
    }

    /// The stretches that have some of `rows`.
    fn stretches_of(&self, rows: &Range<u32>) -> &[Stretch] {
        let first = self.stretches.partition_point(|stretch| stretch.row <= rows.start).saturating_sub(1);
        let end = first + self.stretches[first..].partition_point(|stretch| stretch.row < rows.end);
        &self.stretches[first..end]
    }
}

/// The first of `rows`, which `of` has the times of, that is not before `time`; their end when all are.
fn first_from(of: &[Stretch], rows: &Range<u32>, time: i64) -> u32 {
    let after = of.partition_point(|stretch| stretch.first < time);
    let Some(stretch) = after.checked_sub(1).map(|before| of[before]) else { return rows.start };
    let end = of.get(after).map_or(rows.end, |next| next.row);
    let steps = match stretch.step {
        0 => 1,
        // Above zero, since the stretch begins before.
        step => (time.saturating_sub(stretch.first) as u64).div_ceil(u64::from(step)),
    };
    let row = u64::from(stretch.row).saturating_add(steps);
    u32::try_from(row).map_or(end, |row| row.min(end)).max(rows.start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the times themselves: of even and uneven series, with gaps, of few rows and many.
        #[test]
        fn rows_and_times_are_those_that_were_shown(
            series in prop::collection::vec(
                (-1_000_i64..1_000, prop::collection::vec((1_usize..40, prop_oneof![Just(10_i64), 1_i64..30]), 1..4)),
                1..6,
            ),
            bounds in prop::collection::vec((-1_200_i64..4_000, -1_200_i64..4_000), 8),
        ) {
            let (mut builder, mut all, mut ends) = (TimesBuilder::default(), Vec::new(), vec![0]);
            for (first, stretches) in series {
                builder.begin_series();
                let (mut time, start) = (first, all.len());
                for (count, step) in stretches {
                    for _ in 0..count {
                        all.push(time);
                        time += step;
                    }
                }
                builder.push(&all[start..]);
                ends.push(all.len());
            }
            let times = builder.finish();
            for pair in ends.windows(2) {
                let rows = pair[0] as u32..pair[1] as u32;
                let own = &all[pair[0]..pair[1]];
                let mut found = Vec::new();
                times.append(rows.clone(), &mut found);
                prop_assert_eq!(&found, own);
                for &(from, to) in bounds.iter().chain([&(i64::MIN, i64::MAX), &(own[0], own[own.len() - 1])]) {
                    let within = times.within(rows.clone(), from, to);
                    let expected: Vec<i64> = own.iter().copied().filter(|time| from <= *time && *time <= to).collect();
                    let mut found = Vec::new();
                    if !within.is_empty() {
                        times.append(within, &mut found);
                    }
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }

    #[test]
    fn uneven_times_are_given_up() {
        let mut builder = TimesBuilder::default();
        builder.begin_series();
        let times: Vec<i64> = (0..10_000).map(|row: i64| row * row).collect();
        assert!(!builder.push(&times));
        let mut builder = TimesBuilder::default();
        for _ in 0..100 {
            builder.begin_series();
            assert!(builder.push(&[5, 10, 15]));
        }
    }
}
