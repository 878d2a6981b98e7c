//! The sums of several series at the same time: what pushed metrics come to as usage.

use super::arrivals::Arrivals;
use super::visit::Visit;
use crate::error::StoreError;
use crate::hot::Row;
use crate::store::Store;
use crate::tables::{Selected, TimeRange, unit};

/// Samples that a label has room for at first: as many as a minute has seconds, and a few.
const FEW_ROWS: usize = 64;

/// (time in ms UTC, value), in the order of time, each time once.
type Points = Vec<(i64, f64)>;

impl Store {
    /// For each label of a part whose metrics are summed, the sums in a range of time, in the unit of the part. `check` is told
    /// how many bytes are held, and can end the pass. Reads files.
    pub(crate) fn sums<E: From<StoreError>>(
        &self,
        selected: &Selected,
        scale: f64,
        range: TimeRange,
        check: &mut impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Vec<Vec<(i64, f64)>>, E> {
        let labels = selected.part.labels.count;
        let mut sums = Sums::new(labels);
        for (place, members) in selected.part.labels.members.iter().enumerate() {
            let visit = Visit { members, labels, series: selected.series(place), range };
            self.arrivals(&visit, &mut sums, check)?;
            sums.add();
            check(sums.held())?;
        }
        let Sums { mut points, .. } = sums;
        let unit = unit(scale);
        points.iter_mut().flatten().for_each(|(_, sum)| *sum = unit(*sum));
        Ok(points)
    }
}

/// Sums up metric by metric. Adding floating-point numbers in another order gives other last bits, so for each label and
/// time the order is always the same, whatever arrived when: that of the metrics, and within a metric that of the series.
struct Sums {
    /// By label.
    points: Vec<Points>,
    /// By label, the samples of the metric at hand as they arrived.
    rows: Vec<Vec<Row>>,
    bytes: usize,
}

impl Arrivals for Sums {
    #[inline]
    fn row(&mut self, label: u32, row: Row) {
        let rows = &mut self.rows[label as usize];
        let room = rows.capacity();
        if rows.len() == room {
            rows.reserve(room.max(FEW_ROWS));
            self.bytes += (rows.capacity() - room) * size_of::<Row>();
        }
        rows.push(row);
    }

    #[inline]
    fn held(&self) -> usize {
        self.bytes
    }
}

impl Sums {
    fn new(labels: usize) -> Self {
        let bytes = labels * (size_of::<Points>() + size_of::<Vec<Row>>());
        Self { points: vec![Vec::new(); labels], rows: vec![Vec::new(); labels], bytes }
    }

    /// Adds the metric at hand, which is over.
    fn add(&mut self) {
        let mut missing = Vec::new();
        for (points, rows) in self.points.iter_mut().zip(&mut self.rows).filter(|(_, rows)| !rows.is_empty()) {
            put_in_order(rows);
            let room = points.capacity();
            add_rows(points, rows, &mut missing);
            self.bytes += (points.capacity() - room) * size_of::<(i64, f64)>();
            rows.clear();
        }
    }
}

/// Sorts by time and series; of samples at the same time of one series the last stays.
fn put_in_order(rows: &mut Vec<Row>) {
    // A container's samples arrive in the order of time as a rule, and those of one time in the order of their ids.
    if rows.is_sorted_by(|a, b| (a.time, a.series) < (b.time, b.series)) {
        return;
    }
    rows.sort_by_key(|row| (row.time, row.series));
    rows.dedup_by(|later, kept| {
        let same = (later.time, later.series) == (kept.time, kept.series);
        if same {
            kept.value = later.value;
        }
        same
    });
}

/// Adds rows in the order of time to the points of the same times. `missing` is a place for what no point was there for.
fn add_rows(points: &mut Points, rows: &[Row], missing: &mut Points) {
    let mut at = 0;
    for row in rows {
        while points.get(at).is_some_and(|(time, _)| *time < row.time) {
            at += 1;
        }
        let known = points.get_mut(at).filter(|(time, _)| *time == row.time);
        // One that is missing may have come of the series before.
        match known.or_else(|| missing.last_mut().filter(|(time, _)| *time == row.time)) {
            Some((_, sum)) => *sum += row.value,
            None => missing.push((row.time, row.value)),
        }
    }
    let in_order = match (points.last(), missing.first()) {
        (Some((last, _)), Some((first, _))) => last < first,
        _ => true,
    };
    points.append(missing);
    if !in_order {
        // Two sorted runs, which this sort merges.
        points.sort_by_key(|(time, _)| *time);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sums_are_those_of_the_last_samples_in_the_order_of_metrics_and_series(
            metrics in proptest::collection::vec(
                proptest::collection::vec((0_u32..2, 0_u32..4, 0_i64..12, 0_u32..1_000), 0..40),
                0..4,
            ),
        ) {
            let mut sums = Sums::new(2);
            let mut last = BTreeMap::new();
            for (metric, arrivals) in metrics.iter().enumerate() {
                for &(label, series, time, value) in arrivals {
                    let value = f64::from(value) / 10.0;
                    sums.row(label, Row { series: 10 * label + series, time, value });
                    last.insert((label, time, metric, series), value);
                }
                sums.add();
            }
            let mut expected: [BTreeMap<i64, f64>; 2] = Default::default();
            for ((label, time, ..), value) in last {
                expected[label as usize].entry(time).and_modify(|sum| *sum += value).or_insert(value);
            }
            let expected: Vec<Points> = expected.into_iter().map(|points| points.into_iter().collect()).collect();
            prop_assert_eq!(sums.points, expected);
        }
    }

    #[test]
    fn what_is_held_is_what_rows_and_sums_have_room_for() {
        let mut sums = Sums::new(1);
        let empty = sums.held();
        (0..1_000).for_each(|time| sums.row(0, Row { series: 0, time, value: 1.0 }));
        assert_eq!(sums.held() - empty, sums.rows[0].capacity() * size_of::<Row>());
        sums.add();
        let points = sums.points[0].capacity() * size_of::<(i64, f64)>();
        assert_eq!(sums.held() - empty, sums.rows[0].capacity() * size_of::<Row>() + points);
    }
}
