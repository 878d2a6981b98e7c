//! The newest samples, in memory: a generation per write-ahead log file, chunks per metric.
//!
//! Rows are appended as they arrive. A chunk that is full or old enough is sealed: sorted by (series, time), which is what
//! scans and segments want, and from then on shared and never changed.

use std::sync::Arc;

use arrow::array::{Float64Array, Int64Array, UInt32Array};
use tidegate_model::{Decision, Event};

use crate::scan::Wanted;
use crate::segment::SegmentList;

/// Rows at which a chunk is sealed.
const CHUNK_ROWS: usize = 8_192;
/// Time after which a chunk is sealed, however few rows it has: scans of later times can then skip it.
const CHUNK_MS: i64 = 60_000;

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Row {
    pub series: u32,
    /// In ms UTC.
    pub time: i64,
    pub value: f64,
}

/// Sorts by (series, time); of equal ones the last in the given order stays.
pub(crate) fn sort_last_write_wins(rows: &mut Vec<Row>) {
    // Stable, and fast on the concatenation of sorted runs that scans hand in.
    rows.sort_by_key(|row| (row.series, row.time));
    rows.dedup_by(|later, kept| {
        let same = (later.series, later.time) == (kept.series, kept.time);
        if same {
            kept.value = later.value;
        }
        same
    });
}

/// A sealed chunk: sorted by (series, time), each once.
pub(crate) struct Chunk {
    series: UInt32Array,
    times: Int64Array,
    values: Float64Array,
    min_time: i64,
    max_time: i64,
}

impl Chunk {
    fn overlaps(&self, from: i64, to: i64) -> bool {
        self.min_time <= to && self.max_time >= from
    }

    /// Appends the wanted rows, in (series, time) order.
    pub(crate) fn copy_into(&self, wanted: &Wanted<'_>, rows: &mut Vec<Row>) {
        let columns = self.series.values().iter().zip(self.times.values()).zip(self.values.values());
        rows.extend(
            columns.filter_map(|((&series, &time), &value)| {
                wanted.has(series, time).then_some(Row { series, time, value })
            }),
        );
    }
}

/// The chunk that is being filled, in arrival order.
struct OpenChunk {
    rows: Vec<Row>,
    min_time: i64,
    max_time: i64,
    /// When its first row arrived, in ms UTC.
    opened: i64,
}

impl OpenChunk {
    fn new() -> Self {
        Self { rows: Vec::new(), min_time: i64::MAX, max_time: i64::MIN, opened: 0 }
    }

    fn seal(&mut self) -> Option<Arc<Chunk>> {
        if self.rows.is_empty() {
            return None;
        }
        let full = std::mem::replace(self, OpenChunk::new());
        let mut rows = full.rows;
        sort_last_write_wins(&mut rows);
        Some(Arc::new(Chunk {
            series: rows.iter().map(|row| row.series).collect::<Vec<_>>().into(),
            times: rows.iter().map(|row| row.time).collect::<Vec<_>>().into(),
            values: rows.iter().map(|row| row.value).collect::<Vec<_>>().into(),
            min_time: full.min_time,
            max_time: full.max_time,
        }))
    }
}

struct HotMetric {
    sealed: Vec<Arc<Chunk>>,
    open: OpenChunk,
}

/// Everything in memory that is also in one write-ahead log file. It is flushed and dropped together with that file.
pub(crate) struct Generation {
    /// The log file's number.
    pub wal: u64,
    /// By the series index's metric number.
    metrics: Vec<Option<HotMetric>>,
    decisions: Vec<Arc<Decision>>,
    events: Vec<Arc<Event>>,
    /// Samples that arrived, duplicates included.
    samples: usize,
    /// When the last row arrived, in ms UTC.
    last_arrival: i64,
    /// The earliest and the latest time of any row; `None` without one.
    times: Option<(i64, i64)>,
}

impl Generation {
    pub(crate) fn new(wal: u64) -> Self {
        Self {
            wal,
            metrics: Vec::new(),
            decisions: Vec::new(),
            events: Vec::new(),
            samples: 0,
            last_arrival: i64::MIN,
            times: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.samples == 0 && self.decisions.is_empty() && self.events.is_empty()
    }

    pub(crate) fn samples(&self) -> usize {
        self.samples
    }

    /// The earliest and the latest time of any row.
    pub(crate) fn times(&self) -> Option<(i64, i64)> {
        self.times
    }

    fn see_time(&mut self, time: i64) {
        let (earliest, latest) = self.times.unwrap_or((time, time));
        self.times = Some((earliest.min(time), latest.max(time)));
    }

    pub(crate) fn last_arrival(&self) -> i64 {
        self.last_arrival
    }

    /// Appends samples that arrived at `arrived`, given with their metrics' numbers.
    pub(crate) fn push(&mut self, arrived: i64, rows: impl Iterator<Item = (u32, Row)>) {
        self.last_arrival = self.last_arrival.max(arrived);
        for (metric, row) in rows {
            self.see_time(row.time);
            let at = metric as usize;
            if at >= self.metrics.len() {
                self.metrics.resize_with(at + 1, || None);
            }
            let hot = self.metrics[at].get_or_insert_with(|| HotMetric { sealed: Vec::new(), open: OpenChunk::new() });
            let open = &mut hot.open;
            if open.rows.is_empty() {
                open.opened = arrived;
            } else if open.rows.len() >= CHUNK_ROWS || arrived.saturating_sub(open.opened) >= CHUNK_MS {
                hot.sealed.extend(open.seal());
                open.opened = arrived;
            }
            open.min_time = open.min_time.min(row.time);
            open.max_time = open.max_time.max(row.time);
            open.rows.push(row);
            self.samples += 1;
        }
    }

    pub(crate) fn push_decisions(&mut self, arrived: i64, rows: impl IntoIterator<Item = Decision>) {
        self.last_arrival = self.last_arrival.max(arrived);
        for row in rows {
            self.see_time(row.time.0);
            self.decisions.push(Arc::new(row));
        }
    }

    pub(crate) fn push_events(&mut self, arrived: i64, rows: impl IntoIterator<Item = Event>) {
        self.last_arrival = self.last_arrival.max(arrived);
        for row in rows {
            self.see_time(row.time.0);
            self.events.push(Arc::new(row));
        }
    }

    /// Seals everything; nothing is appended to this generation any more.
    pub(crate) fn close(&mut self) {
        for hot in self.metrics.iter_mut().flatten() {
            hot.sealed.extend(hot.open.seal());
        }
    }

    /// The sealed chunks of one metric that may have rows with `from <= time <= to`, in arrival order.
    pub(crate) fn sealed(&self, metric: u32, from: i64, to: i64) -> Vec<Arc<Chunk>> {
        let hot = self.metrics.get(metric as usize).and_then(Option::as_ref);
        let chunks = hot.into_iter().flat_map(|hot| &hot.sealed);
        chunks.filter(|chunk| chunk.overlaps(from, to)).cloned().collect()
    }

    /// The wanted rows of one metric's open chunk, in arrival order.
    pub(crate) fn open_rows(&self, metric: u32, wanted: &Wanted<'_>) -> Vec<Row> {
        let Some(hot) = self.metrics.get(metric as usize).and_then(Option::as_ref) else { return Vec::new() };
        if hot.open.min_time > wanted.to || hot.open.max_time < wanted.from {
            return Vec::new();
        }
        hot.open.rows.iter().filter(|row| wanted.has(row.series, row.time)).copied().collect()
    }

    /// Numbers of the metrics that have samples here.
    pub(crate) fn metric_numbers(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.metrics).filter(|(_, hot)| hot.is_some()).map(|(number, _)| number)
    }

    /// The earliest time of any sample; `i64::MAX` without one.
    pub(crate) fn min_time(&self) -> i64 {
        let metrics = self.metrics.iter().flatten();
        let times = metrics.flat_map(|hot| hot.sealed.iter().map(|chunk| chunk.min_time).chain([hot.open.min_time]));
        times.min().unwrap_or(i64::MAX)
    }

    pub(crate) fn decisions(&self) -> &[Arc<Decision>] {
        &self.decisions
    }

    pub(crate) fn events(&self) -> &[Arc<Event>] {
        &self.events
    }
}

/// What can be read: generations and segments together, since a flush moves rows from the one to the other at once.
pub(crate) struct Data {
    /// In order; sealed as a whole.
    pub closed: Vec<Arc<Generation>>,
    /// What appends go to.
    pub active: Generation,
    pub segments: Arc<SegmentList>,
}

impl Data {
    /// All generations in arrival order.
    pub(crate) fn generations(&self) -> impl Iterator<Item = &Generation> {
        self.closed.iter().map(Arc::as_ref).chain([&self.active])
    }

    /// Closes the active generation; appends then go to one for log file `wal`.
    pub(crate) fn close_active(&mut self, wal: u64) {
        let mut closed = std::mem::replace(&mut self.active, Generation::new(wal));
        closed.close();
        self.closed.push(Arc::new(closed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(series: u32, time: i64, value: f64) -> Row {
        Row { series, time, value }
    }

    #[test]
    fn of_duplicates_the_last_arrival_stays() {
        let mut rows = vec![row(1, 5, 0.1), row(0, 9, 0.2), row(1, 5, 0.3), row(0, 1, 0.4), row(1, 5, 0.5)];
        sort_last_write_wins(&mut rows);
        assert_eq!(rows, [row(0, 1, 0.4), row(0, 9, 0.2), row(1, 5, 0.5)]);
    }

    #[test]
    fn a_chunk_is_sealed_when_full_and_when_a_minute_old_and_later_scans_skip_it() {
        let mut generation = Generation::new(1);
        let full = CHUNK_ROWS as i64;
        generation.push(0, (0..full).map(|time| (3, row(0, time, 0.0))));
        generation.push(1, [(3, row(0, full, 0.0))].into_iter());
        assert_eq!(generation.sealed(3, 0, 0).len(), 1);
        assert_eq!(generation.sealed(3, full, full).len(), 0);
        generation.push(1 + CHUNK_MS, [(3, row(0, full + 1, 0.0))].into_iter());
        assert_eq!(generation.sealed(3, 0, full).len(), 2);
        assert_eq!(
            generation.open_rows(3, &Wanted { metric: "m", series: None, from: 0, to: i64::MAX }),
            [row(0, full + 1, 0.0)]
        );
        assert_eq!(generation.samples(), CHUNK_ROWS + 2);
    }
}
