//! The sums of several series at the same time: what pushed metrics come to as usage.
//!
//! Adding floating-point numbers in another order gives other last bits, so for each label and time the order is always the
//! same, whatever arrived when: the series of a metric by their ids, then the metrics. As a rule samples arrive in the order
//! of their times, and those of one time in the order of their series. Then a sum is added up as its samples are shown, and
//! takes no more memory than one sample, however many processes a container has. The samples of a label that did not arrive
//! in that order are shown once more, kept and sorted.

use super::arrivals::Arrivals;
use super::visit::Visit;
use crate::error::StoreError;
use crate::hot::Row;
use crate::store::Store;
use crate::tables::{Selected, TimeRange, unit};

/// Times or samples that a label has room for at first, at most: as many as a minute has seconds, and a few.
const FEW: usize = 64;
/// And at least.
const FEWEST: usize = 4;

/// (time in ms UTC, value), in the order of time, each time once.
type Points = Vec<(i64, f64)>;

impl Store {
    /// For each label of a part whose metrics are summed, the sums in a range of time, in the unit that `scale` leads to, as
    /// (time in ms UTC, value) in the order of time. `check` is told how many bytes are held, and can end the pass. Reads
    /// files.
    pub(crate) fn sums<E: From<StoreError>>(
        &self,
        selected: &Selected,
        scale: f64,
        range: TimeRange,
        check: &mut impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Vec<Vec<(i64, f64)>>, E> {
        let labels = selected.part.labels.count;
        let mut sums: Vec<Points> = vec![Vec::new(); labels];
        for (place, members) in selected.part.labels.members.iter().enumerate() {
            let held = size_of_val(&*sums) + sums.iter().map(points_size).sum::<usize>();
            let visit = Visit { members, labels, series: selected.series(place), range };
            let of_metric = self.sums_of_metric(&visit, &mut |more| check(held + more))?;
            sums.iter_mut().zip(of_metric.labels).for_each(|(sum, more)| add(sum, more.sums));
        }
        let unit = unit(scale);
        sums.iter_mut().flatten().for_each(|(_, sum)| *sum = unit(*sum));
        Ok(sums)
    }

    fn sums_of_metric<E: From<StoreError>>(
        &self,
        visit: &Visit<'_>,
        check: &mut impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Running, E> {
        let mut running = Running::new(visit.labels, visit.range);
        self.arrivals(visit, None, &mut running, check)?;
        if running.labels.iter().any(|label| label.is_late) {
            let late = (0..).zip(&running.labels).filter(|(_, label)| label.is_late).map(|(label, _)| label);
            let among = visit.members.with_labels(&late.collect::<Vec<u32>>());
            let mut late = Late::of(&running);
            self.arrivals(visit, Some(&among), &mut late, check)?;
            late.put_into(&mut running);
        }
        Ok(running)
    }
}

/// Sums of one metric that are added up as samples arrive.
struct Running {
    labels: Vec<Label>,
    /// Times that a label has room for at first.
    few: usize,
    held: usize,
}

#[derive(Clone, Default)]
struct Label {
    sums: Points,
    /// The series of the last sample.
    series: u32,
    /// Whether a sample came out of order, so that the sums are not to be had this way.
    is_late: bool,
}

impl Running {
    /// As if each label had one sum each second in a range.
    fn new(labels: usize, range: TimeRange) -> Self {
        let seconds = usize::try_from(range.to.saturating_sub(range.from) / 1000).unwrap_or(0);
        let few = (seconds + FEWEST).min(FEW);
        Self { labels: vec![Label::default(); labels], few, held: labels * size_of::<Label>() }
    }
}

impl Arrivals for Running {
    #[inline]
    fn row(&mut self, label: u32, row: Row) {
        let label = &mut self.labels[label as usize];
        if label.is_late {
            return;
        }
        match label.sums.last_mut() {
            Some((time, sum)) if row.time == *time && row.series > label.series => *sum += row.value,
            Some((time, _)) if row.time <= *time => {
                label.is_late = true;
                self.held -= points_size(&label.sums);
                label.sums = Vec::new();
            }
            _ => self.held += push(&mut label.sums, (row.time, row.value), self.few),
        }
        label.series = row.series;
    }

    #[inline]
    fn held(&self) -> usize {
        self.held
    }
}

/// The samples of the labels whose samples are not in order.
struct Late {
    /// `None` for the other labels.
    rows: Vec<Option<Vec<Row>>>,
    held: usize,
}

impl Late {
    fn of(running: &Running) -> Self {
        let rows = running.labels.iter().map(|label| label.is_late.then(Vec::new)).collect::<Vec<_>>();
        Self { held: running.held + size_of_val(&*rows), rows }
    }

    fn put_into(self, running: &mut Running) {
        for (label, rows) in running.labels.iter_mut().zip(self.rows) {
            let Some(mut rows) = rows else { continue };
            put_in_order(&mut rows);
            for row in rows {
                match label.sums.last_mut() {
                    Some((time, sum)) if row.time == *time => *sum += row.value,
                    _ => label.sums.push((row.time, row.value)),
                }
            }
        }
    }
}

impl Arrivals for Late {
    #[inline]
    fn row(&mut self, label: u32, row: Row) {
        if let Some(rows) = &mut self.rows[label as usize] {
            self.held += push(rows, row, FEW);
        }
    }

    #[inline]
    fn held(&self) -> usize {
        self.held
    }
}

/// Returns how many bytes more are held.
#[inline]
fn push<T>(all: &mut Vec<T>, one: T, few: usize) -> usize {
    let room = all.capacity();
    if all.len() == room {
        all.reserve(room.max(few));
    }
    all.push(one);
    (all.capacity() - room) * size_of::<T>()
}

fn points_size(points: &Points) -> usize {
    points.capacity() * size_of::<(i64, f64)>()
}

/// Sorts by time and series; of samples at the same time of one series the last stays.
fn put_in_order(rows: &mut Vec<Row>) {
    // Stable, so that the last to arrive comes last.
    rows.sort_by_key(|row| (row.time, row.series));
    rows.dedup_by(|later, kept| {
        let same = (later.time, later.series) == (kept.time, kept.series);
        if same {
            kept.value = later.value;
        }
        same
    });
}

/// Adds the sums of another metric.
fn add(sums: &mut Points, more: Points) {
    if sums.is_empty() {
        *sums = more;
        return;
    }
    let mut at = 0;
    let mut missing = Vec::new();
    for (time, value) in more {
        while sums.get(at).is_some_and(|(before, _)| *before < time) {
            at += 1;
        }
        match sums.get_mut(at) {
            Some((same, sum)) if *same == time => *sum += value,
            _ => missing.push((time, value)),
        }
    }
    if missing.is_empty() {
        return;
    }
    let in_order = sums.last().map(|(time, _)| time) < missing.first().map(|(time, _)| time);
    sums.append(&mut missing);
    if !in_order {
        // Two sorted runs, which this sort merges.
        sums.sort_by_key(|(time, _)| *time);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The sums of a metric's samples, shown twice where they have to be.
    fn sums_of(arrivals: &[(u32, Row)]) -> Vec<Points> {
        let mut running = Running::new(2, TimeRange::ALL);
        arrivals.iter().for_each(|(label, row)| running.row(*label, *row));
        let mut late = Late::of(&running);
        arrivals.iter().for_each(|(label, row)| late.row(*label, *row));
        late.put_into(&mut running);
        running.labels.into_iter().map(|label| label.sums).collect()
    }

    proptest! {
        #[test]
        fn sums_are_those_of_the_last_samples_in_the_order_of_metrics_and_series(
            metrics in proptest::collection::vec(
                (proptest::collection::vec((0_u32..2, 0_u32..4, 0_i64..12, 0_u32..1_000), 0..40), any::<bool>()),
                0..4,
            ),
        ) {
            let mut sums: Vec<Points> = vec![Vec::new(); 2];
            let mut expected: [BTreeMap<i64, f64>; 2] = Default::default();
            for (mut arrivals, in_order) in metrics {
                if in_order {
                    arrivals.sort_by_key(|&(_, series, time, _)| (time, series));
                }
                let row = |&(label, series, time, value): &(u32, u32, i64, u32)| {
                    (label, Row { series: 10 * label + series, time, value: f64::from(value) / 10.0 })
                };
                let arrivals: Vec<(u32, Row)> = arrivals.iter().map(row).collect();
                sums.iter_mut().zip(sums_of(&arrivals)).for_each(|(sum, more)| add(sum, more));
                let last: BTreeMap<_, f64> =
                    arrivals.iter().map(|(label, row)| ((*label, row.time, row.series), row.value)).collect();
                let mut of_metric = BTreeMap::new();
                for ((label, time, _), value) in last {
                    of_metric.entry((label, time)).and_modify(|sum| *sum += value).or_insert(value);
                }
                for ((label, time), value) in of_metric {
                    expected[label as usize].entry(time).and_modify(|sum| *sum += value).or_insert(value);
                }
            }
            let expected: Vec<Points> = expected.into_iter().map(|points| points.into_iter().collect()).collect();
            prop_assert_eq!(sums, expected);
        }
    }

    #[test]
    fn what_is_held_does_not_grow_with_the_number_of_series_in_a_sum() {
        let held = |series: u32, late: bool| {
            let mut running = Running::new(1, TimeRange::ALL);
            for time in 0..1_000 {
                (0..series).for_each(|series| running.row(0, Row { series, time, value: 1.0 }));
            }
            if late {
                running.row(0, Row { series: 0, time: 500, value: 1.0 });
            }
            assert_eq!(running.held, size_of::<Label>() + points_size(&running.labels[0].sums));
            running.held
        };
        assert_eq!(held(1, false), held(50, false));
        assert_eq!(held(50, true), size_of::<Label>());
    }

    #[test]
    fn the_samples_of_late_labels_alone_are_held() {
        let mut running = Running::new(2, TimeRange::ALL);
        let rows = [(0, 5), (1, 5), (1, 4)].map(|(label, time)| (label, Row { series: label, time, value: 1.0 }));
        rows.iter().for_each(|(label, row)| running.row(*label, *row));
        let mut late = Late::of(&running);
        let before = late.held();
        rows.iter().for_each(|(label, row)| late.row(*label, *row));
        assert_eq!(late.held() - before, FEW * size_of::<Row>());
        late.put_into(&mut running);
        assert_eq!(running.labels[1].sums, [(4, 1.0), (5, 1.0)]);
    }
}
