//! One pass over the samples of a metric, series by series in the order of time, without sorting anything.
//!
//! Segments are sorted by series and time, and what is in memory lies in the order of arrival, which is that of time within a
//! series as a rule. So segments are walked in the order of time and then memory in that of arrival, and for each label it is
//! watched that times only grow. Where they do not (a sample was late, or was sent twice) the samples of that label are shown
//! once more, sorted and deduplicated.

use super::arrivals::Arrivals;
use crate::catalog::SegmentKind;
use crate::error::StoreError;
use crate::hot::{Row, sort_last_write_wins};
use crate::scan::{Parts, Wanted};
use crate::store::Store;
use crate::tables::{Members, Rank, TimeRange};

/// Series times seconds that are read at once at first: about as many samples, where there is one each second.
const FIRST_ROWS: i64 = 1_000_000;
/// A piece with fewer rows makes the next one twice as wide.
const FEW_ROWS: usize = 200_000;
/// A piece with more rows makes the next one half as wide.
const MANY_ROWS: usize = 800_000;
/// Width of the narrowest first piece, in ms.
const NARROWEST_MS: i64 = 10 * 60 * 1000;
/// Width of the widest piece, in ms.
const WIDEST_MS: i64 = 7 * 24 * 3600 * 1000;

/// What is shown the samples.
pub(crate) trait Visitor {
    /// The next sample of a label.
    fn row(&mut self, label: u32, time: i64, value: f64);
    /// The next samples of a label; not empty, and all of one series.
    fn run(&mut self, label: u32, rows: &[Row]) {
        rows.iter().for_each(|row| self.row(label, row.time, row.value));
    }
    /// What was shown of the labels that are `late` was in vain; it is shown once more. Those whose samples cannot be told
    /// from theirs are added to them.
    fn forget(&mut self, late: &mut [bool]);
    /// Bytes that are held of what was shown, where that is not known beforehand.
    fn held(&self) -> usize {
        0
    }
}

/// Which samples are visited.
#[derive(Clone, Copy)]
pub(crate) struct Visit<'a> {
    /// The metric, and the label of each series.
    pub(crate) members: &'a Members,
    /// How many labels there are.
    pub(crate) labels: usize,
    /// Ids of the series, sorted; `None` for all of them.
    pub(crate) series: Option<&'a [u32]>,
    pub(crate) range: TimeRange,
}

impl Store {
    /// Shows the samples to `visitor`: each once, those of one series in the order of their times. Only those in `ranges`,
    /// which are sorted and do not overlap, are shown. Before each step `check` is told how many bytes are held, and can end
    /// the pass. Reads files.
    pub(crate) fn visit<E: From<StoreError>>(
        &self,
        visit: &Visit<'_>,
        ranges: &[TimeRange],
        visitor: &mut impl Visitor,
        check: &mut impl FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut order = Order { newest: vec![i64::MIN; visit.labels], late: vec![false; visit.labels] };
        let mut pieces = Pieces::new(visit, ranges, self.stored_times());
        while let Some(range) = pieces.next() {
            check(pieces.rows * size_of::<Row>() + visitor.held())?;
            let rows = self.visit_in_order(&Visit { range, ..*visit }, &mut order, visitor, check)?;
            pieces.had(rows);
        }
        if order.late.contains(&true) {
            visitor.forget(&mut order.late);
            self.visit_late(visit, ranges, &order.late, visitor, check)?;
        }
        check(visitor.held())
    }

    /// Shows the samples of the labels that are in order. How many rows there were of all labels.
    fn visit_in_order<E: From<StoreError>>(
        &self,
        visit: &Visit<'_>,
        order: &mut Order,
        visitor: &mut impl Visitor,
        check: &mut impl FnMut(usize) -> Result<(), E>,
    ) -> Result<usize, E> {
        let TimeRange { from, to } = visit.range;
        let wanted = self.visible(Wanted { metric: &visit.members.metric, series: visit.series, from, to });
        let Some(Parts { segments, mut sealed, open }) = self.parts_of(&wanted) else { return Ok(0) };
        let rank = &visit.members.rank;
        let mut rows = Vec::new();
        let mut count = open.len();
        // Which of them counts matters only for samples that are there twice, and those are late.
        let mut by_time: Vec<_> = segments.overlapping(SegmentKind::Samples, from, to).collect();
        by_time.sort_by_key(|segment| segment.meta.min_time);
        for segment in by_time {
            rows.clear();
            segment.read_samples(&wanted, &mut rows)?;
            count += rows.len();
            check(rows.capacity() * size_of::<Row>() + visitor.held())?;
            order.show(rank, &rows, visitor);
        }
        if visit.series.is_some() {
            // Of a few series the rows in memory come series by series too, though as they arrived.
            for chunk in &sealed {
                check(rows.capacity() * size_of::<Row>() + visitor.held())?;
                rows.clear();
                chunk.copy_into(&wanted, &mut rows);
                count += rows.len();
                order.show(rank, &rows, visitor);
            }
            sealed.clear();
        }
        drop(rows);
        let mut show = |row: Row, visitor: &mut _| {
            let Some(label) = rank.get(row.series) else { return };
            if order.follows(label, row.time, row.time) {
                Visitor::row(visitor, label, row.time, row.value);
            }
        };
        for chunk in &sealed {
            check(visitor.held())?;
            chunk.each(&wanted, |row| {
                count += 1;
                show(row, visitor);
            });
        }
        open.into_iter().for_each(|row| show(row, visitor));
        Ok(count)
    }

    /// Shows the samples of the labels that are `late`.
    fn visit_late<E: From<StoreError>>(
        &self,
        visit: &Visit<'_>,
        ranges: &[TimeRange],
        late: &[bool],
        visitor: &mut impl Visitor,
        check: &mut impl FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let labels: Vec<u32> = (0..).zip(late).filter(|(_, late)| **late).map(|(label, _)| label).collect();
        let among = visit.members.with_labels(&labels);
        let mut pieces = Pieces::new(visit, ranges, self.stored_times());
        while let Some(range) = pieces.next() {
            let mut found = LateRows { late, rows: Vec::new(), others: visitor.held() };
            self.arrivals(&Visit { range, ..*visit }, Some(&among), &mut found, check)?;
            let mut rows = found.rows;
            pieces.had(rows.len());
            sort_last_write_wins(&mut rows);
            for run in rows.chunk_by(|a, b| a.series == b.series) {
                if let Some(label) = visit.members.rank.get(run[0].series) {
                    visitor.run(label, run);
                }
            }
        }
        Ok(())
    }
}

/// Watches over the order of time, label by label.
struct Order {
    /// Time of the last sample of each label.
    newest: Vec<i64>,
    /// Labels whose samples are not in order.
    late: Vec<bool>,
}

impl Order {
    /// Whether all samples of a label have been in order up to the next ones, from `first` to `last`.
    #[inline]
    fn follows(&mut self, label: u32, first: i64, last: i64) -> bool {
        let newest = &mut self.newest[label as usize];
        let late = &mut self.late[label as usize];
        *late |= first <= *newest;
        *newest = last;
        !*late
    }

    /// Shows rows that come series by series, stretch by stretch in the order of time.
    fn show(&mut self, rank: &Rank, rows: &[Row], visitor: &mut impl Visitor) {
        for run in rows.chunk_by(|a, b| a.series == b.series && a.time < b.time) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let Some(label) = rank.get(first.series) else { continue };
            if self.follows(label, first.time, last.time) {
                visitor.run(label, run);
            }
        }
    }
}

/// The samples of some labels as they arrived.
struct LateRows<'a> {
    late: &'a [bool],
    rows: Vec<Row>,
    /// Bytes that somebody else holds.
    others: usize,
}

impl Arrivals for LateRows<'_> {
    #[inline]
    fn row(&mut self, label: u32, row: Row) {
        if self.late[label as usize] {
            self.rows.push(row);
        }
    }

    fn held(&self) -> usize {
        // Sorting takes as much once more.
        self.others + 2 * self.rows.capacity() * size_of::<Row>()
    }
}

/// Ranges of time in pieces, oldest first, whose number of rows stays within bounds.
pub(super) struct Pieces {
    /// What is left of them, the oldest last.
    ranges: Vec<TimeRange>,
    width: i64,
    /// Of the last piece.
    rows: usize,
}

impl Pieces {
    pub(super) fn new(visit: &Visit<'_>, ranges: &[TimeRange], stored: Option<(i64, i64)>) -> Self {
        let (from, to) = stored.unwrap_or((i64::MAX, i64::MIN));
        let series = visit.series.map_or(visit.members.ids.len(), <[u32]>::len).max(1);
        let width = (FIRST_ROWS / i64::try_from(series).unwrap_or(i64::MAX) * 1000).clamp(NARROWEST_MS, WIDEST_MS);
        let ranges = ranges.iter().rev().map(|range| range.intersect(TimeRange { from, to }));
        Self { ranges: ranges.filter(|range| range.from <= range.to).collect(), width, rows: 0 }
    }

    pub(super) fn next(&mut self) -> Option<TimeRange> {
        let TimeRange { from, to } = self.ranges.pop()?;
        let end = from.saturating_add(self.width - 1).min(to);
        if end < to {
            self.ranges.push(TimeRange { from: end + 1, to });
        }
        Some(TimeRange { from, to: end })
    }

    pub(super) fn had(&mut self, rows: usize) {
        self.rows = rows;
        if rows < FEW_ROWS {
            self.width = self.width.saturating_mul(2).min(WIDEST_MS);
        } else if rows > MANY_ROWS {
            self.width = (self.width / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_ranges_once_and_in_order() {
        let members = Members::new("m", vec![1], &[0]);
        let range = TimeRange::ALL;
        let visit = Visit { members: &members, labels: 1, series: None, range };
        let ranges = [TimeRange { from: -5, to: 7 }, TimeRange { from: 100, to: 4 * WIDEST_MS }];
        let mut pieces = Pieces::new(&visit, &ranges, Some((0, 3 * WIDEST_MS)));
        let mut found: Vec<TimeRange> = Vec::new();
        while let Some(piece) = pieces.next() {
            pieces.had([0, 5_000_000, 300_000][found.len() % 3]);
            found.push(piece);
        }
        assert_eq!(found[0], TimeRange { from: 0, to: 7 });
        assert_eq!((found[1].from, found[found.len() - 1].to), (100, 3 * WIDEST_MS));
        assert!(found[1..].windows(2).all(|pair| pair[0].to + 1 == pair[1].from && pair[0].from <= pair[0].to));
    }
}
