//! The newest samples, in memory: a generation per write-ahead log file, chunks per metric.
//!
//! Rows are kept as they arrive, in columns. What has arrived last is what is asked about most, and it is asked about for all
//! series at once: the last minute of a metric is one pass over the end of its chunks. A chunk that is full or old enough is
//! sealed, from then on shared and never changed; who wants only some series of it reads it through an order by series, made
//! the first time that somebody does.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use tidegate_model::{Decision, Event};

use crate::lateness::Lateness;
use crate::newest::Newest;
use crate::scan::Wanted;
use crate::segment::SegmentList;
use crate::tables::TimeRange;

/// Rows at which a chunk is sealed. Positions in a chunk have 16 bits.
const CHUNK_ROWS: usize = 16_384;
/// Time after which a chunk is sealed, however few rows it has: scans of later times can then skip it.
const CHUNK_MS: i64 = 60_000;
/// Rows can be counted by series when their ids span at most this many times as many numbers as there are rows.
const SPREAD: usize = 4;

/// Series that are looked for one by one, and rows that are looked through at once for each.
const FEW_SERIES: usize = 16;
const STRETCH: usize = 128;

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
    group_by_series(rows);
    // The samples of a series arrive in the order of their times, as a rule.
    let sorted = rows.windows(2).all(|pair| (pair[0].series, pair[0].time) < (pair[1].series, pair[1].time));
    if sorted {
        return;
    }
    rows.sort_by_key(|row| (row.series, row.time));
    rows.dedup_by(|later, kept| {
        let same = (later.series, later.time) == (kept.series, kept.time);
        if same {
            kept.value = later.value;
        }
        same
    });
}

/// Sorts by series, stable.
fn group_by_series(rows: &mut Vec<Row>) {
    if rows.is_sorted_by_key(|row| row.series) {
        return;
    }
    let (first, last) =
        rows.iter().fold((u32::MAX, 0), |(first, last), row| (first.min(row.series), last.max(row.series)));
    let span = (last - first) as usize + 1;
    if span > SPREAD * rows.len() {
        rows.sort_by_key(|row| row.series);
        return;
    }
    // Where the rows of each series begin, and while they are put there, where its next one goes.
    let mut places = vec![0usize; span + 1];
    rows.iter().for_each(|row| places[(row.series - first) as usize + 1] += 1);
    for at in 0..span {
        places[at + 1] += places[at];
    }
    let mut grouped = vec![Row { series: 0, time: 0, value: 0.0 }; rows.len()];
    for row in rows.iter() {
        let place = &mut places[(row.series - first) as usize];
        grouped[*place] = *row;
        *place += 1;
    }
    *rows = grouped;
}

/// Whether `id` is among `series`: without a way out in between, which many compare at once.
fn has(series: &[u32], id: u32) -> bool {
    series.iter().fold(false, |found, one| found | (*one == id))
}

/// Rows in columns, in arrival order.
#[derive(Default)]
struct Columns {
    series: Vec<u32>,
    times: Vec<i64>,
    values: Vec<f64>,
}

impl Columns {
    fn push(&mut self, row: Row) {
        self.series.push(row.series);
        self.times.push(row.time);
        self.values.push(row.value);
    }

    fn reserve(&mut self, rows: usize) {
        self.series.reserve(rows);
        self.times.reserve(rows);
        self.values.reserve(rows);
    }

    fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let columns = self.series.iter().zip(&self.times).zip(&self.values);
        columns.map(|((&series, &time), &value)| Row { series, time, value })
    }
}

/// A sealed chunk, in arrival order.
pub(crate) struct Chunk {
    columns: Columns,
    min_time: i64,
    max_time: i64,
    by_series: OnceLock<BySeries>,
}

/// Where the rows of each series are in a chunk.
struct BySeries {
    /// Those that have rows, sorted.
    series: Box<[u32]>,
    /// For each, and for the end, where its positions begin.
    starts: Box<[u32]>,
    /// Positions in the chunk by (series, arrival).
    positions: Box<[u16]>,
}

impl BySeries {
    fn new(series: &[u32]) -> Self {
        // Id and position in one number sort at once, and positions break ties.
        let mut keys: Vec<u64> = series.iter().zip(0u64..).map(|(id, at)| u64::from(*id) << 16 | at & 0xFFFF).collect();
        keys.sort_unstable();
        let (mut ids, mut starts) = (Vec::new(), Vec::new());
        for (key, start) in keys.iter().zip(0..) {
            let id = (key >> 16) as u32;
            if ids.last() != Some(&id) {
                ids.push(id);
                starts.push(start);
            }
        }
        starts.push(keys.len() as u32);
        let positions = keys.into_iter().map(|key| (key & 0xFFFF) as u16).collect();
        Self { series: ids.into(), starts: starts.into(), positions }
    }

    /// The positions of the series at `place`.
    fn positions(&self, place: usize) -> &[u16] {
        &self.positions[self.starts[place] as usize..self.starts[place + 1] as usize]
    }
}

impl Chunk {
    fn overlaps(&self, from: i64, to: i64) -> bool {
        self.min_time <= to && self.max_time >= from
    }

    /// The earliest and the latest time of its rows.
    pub(crate) fn times(&self) -> TimeRange {
        TimeRange { from: self.min_time, to: self.max_time }
    }

    /// Appends the wanted rows; those of one series in the order of their arrival, and one series after the other where some
    /// are wanted.
    pub(crate) fn copy_into(&self, wanted: &Wanted<'_>, rows: &mut Vec<Row>) {
        let Some(ids) = wanted.series else { return self.each(wanted, |row| rows.push(row)) };
        let Columns { times, values, .. } = &self.columns;
        self.each_series(ids, |series, positions| {
            // Rows of a series lie far apart: with nothing else to do in between several are fetched at once.
            let all = positions.iter().map(|&at| Row { series, time: times[at as usize], value: values[at as usize] });
            rows.reserve(positions.len());
            rows.extend(all.filter(|row| wanted.from <= row.time && row.time <= wanted.to));
        });
    }

    /// Calls `each` with the wanted rows; those of one series in the order of their arrival.
    #[inline]
    pub(crate) fn each(&self, wanted: &Wanted<'_>, mut each: impl FnMut(Row)) {
        let (from, to) = (wanted.from, wanted.to);
        let Some(ids) = wanted.series else {
            if from <= self.min_time && self.max_time <= to {
                self.columns.rows().for_each(each);
            } else {
                self.columns.rows().filter(|row| from <= row.time && row.time <= to).for_each(each);
            }
            return;
        };
        self.each_series(ids, |series, positions| {
            for &at in positions {
                let time = self.columns.times[at as usize];
                if from <= time && time <= to {
                    each(Row { series, time, value: self.columns.values[at as usize] });
                }
            }
        });
    }

    /// Calls `each` with those of `ids` (sorted) that have rows, and the positions of these.
    fn each_series(&self, ids: &[u32], mut each: impl FnMut(u32, &[u16])) {
        let by_series = self.by_series.get_or_init(|| BySeries::new(&self.columns.series));
        let mut place = 0;
        for &id in ids {
            place += by_series.series[place..].partition_point(|&one| one < id);
            match by_series.series.get(place) {
                None => break,
                Some(&one) if one != id => continue,
                Some(_) => each(id, by_series.positions(place)),
            }
        }
    }
}

/// The chunk that is being filled.
struct OpenChunk {
    columns: Columns,
    min_time: i64,
    max_time: i64,
    /// When its first row arrived, in ms UTC.
    opened: i64,
    /// Whether all rows came in the order of time.
    in_order: bool,
}

impl OpenChunk {
    fn new() -> Self {
        Self { columns: Columns::default(), min_time: i64::MAX, max_time: i64::MIN, opened: 0, in_order: true }
    }

    fn len(&self) -> usize {
        self.columns.times.len()
    }

    fn seal(&mut self) -> Option<Arc<Chunk>> {
        if self.len() == 0 {
            return None;
        }
        let mut full = std::mem::replace(self, OpenChunk::new());
        full.columns.series.shrink_to_fit();
        full.columns.times.shrink_to_fit();
        full.columns.values.shrink_to_fit();
        Some(Arc::new(Chunk {
            columns: full.columns,
            min_time: full.min_time,
            max_time: full.max_time,
            by_series: OnceLock::new(),
        }))
    }
}

struct HotMetric {
    sealed: Vec<Arc<Chunk>>,
    open: OpenChunk,
    /// Samples of this time or before come after somebody asked about that time.
    watched: i64,
}

impl HotMetric {
    fn new() -> Self {
        Self { sealed: Vec::new(), open: OpenChunk::new(), watched: i64::MIN }
    }
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
    /// Goes on from generation to generation: only that of the active one is looked at.
    newest: Newest,
    late: Lateness,
}

impl Generation {
    /// A generation without rows; `newest` is what the one before it knew.
    pub(crate) fn new(wal: u64, newest: Newest) -> Self {
        Self {
            wal,
            metrics: Vec::new(),
            decisions: Vec::new(),
            events: Vec::new(),
            samples: 0,
            last_arrival: i64::MIN,
            times: None,
            newest,
            late: Lateness::default(),
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
        let mut before = None;
        for (metric, row) in rows {
            // Mostly all are of one instant.
            if before.replace(row.time) != Some(row.time) {
                self.see_time(row.time);
            }
            self.newest.see(row.series, row.time, row.value);
            let at = metric as usize;
            if at >= self.metrics.len() {
                self.metrics.resize_with(at + 1, || None);
            }
            let hot = self.metrics[at].get_or_insert_with(HotMetric::new);
            if row.time <= hot.watched {
                self.late.see(row.time);
            }
            let open = &mut hot.open;
            if open.len() == 0 {
                open.opened = arrived;
            } else if open.len() >= CHUNK_ROWS || arrived.saturating_sub(open.opened) >= CHUNK_MS {
                let rows = open.len();
                hot.sealed.extend(open.seal());
                // As many will come again, in about the same time.
                open.columns.reserve(rows);
                open.opened = arrived;
            }
            open.in_order &= open.max_time <= row.time;
            open.min_time = open.min_time.min(row.time);
            open.max_time = open.max_time.max(row.time);
            open.columns.push(row);
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

    /// Notes that somebody asks what some metrics say up to `now`; see [`Generation::watched`].
    pub(crate) fn watch(&mut self, metrics: &[u32], now: i64) {
        for metric in metrics {
            let at = *metric as usize;
            if at >= self.metrics.len() {
                self.metrics.resize_with(at + 1, || None);
            }
            let hot = self.metrics[at].get_or_insert_with(HotMetric::new);
            hot.watched = hot.watched.max(now);
        }
    }

    /// Changes when a sample arrives that would have changed the answer to a question which [`Generation::watch`] was told
    /// of; also with each new generation.
    pub(crate) fn watched(&self) -> (u64, u64) {
        (self.wal, self.late.count())
    }

    /// How far back the samples go, in ms UTC, that have changed what [`Generation::watched`] says since it said `before`:
    /// their earliest time or an earlier one, `None` without one. Of another generation's nothing is known.
    pub(crate) fn late_since(&self, before: (u64, u64)) -> Option<i64> {
        if before.0 == self.wal { self.late.since(before.1) } else { Some(i64::MIN) }
    }

    /// Drops the chunks that are older than `before`, and so decisions and events.
    pub(crate) fn forget_before(&mut self, before: i64) {
        for hot in self.metrics.iter_mut().flatten() {
            hot.sealed.retain(|chunk| {
                let stays = chunk.max_time >= before;
                if !stays {
                    self.samples -= chunk.columns.times.len();
                }
                stays
            });
        }
        self.decisions.retain(|row| row.time.0 >= before);
        self.events.retain(|row| row.time.0 >= before);
        let rows = self.decisions.iter().map(|row| row.time.0).chain(self.events.iter().map(|row| row.time.0));
        let earliest = rows.fold(self.min_time(), i64::min);
        self.times = self.times.filter(|_| !self.is_empty()).map(|(_, latest)| (earliest, latest));
    }

    /// Seals everything; nothing is appended to this generation any more. Returns what the next one goes on with.
    pub(crate) fn close(&mut self) -> Newest {
        for hot in self.metrics.iter_mut().flatten() {
            hot.sealed.extend(hot.open.seal());
        }
        std::mem::replace(&mut self.newest, Newest::new(i64::MAX))
    }

    /// The newest samples; known only by the active generation.
    pub(crate) fn newest(&self) -> &Newest {
        &self.newest
    }

    /// As [`Generation::newest`].
    pub(crate) fn newest_mut(&mut self) -> &mut Newest {
        &mut self.newest
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
        let Columns { series, times, values } = &hot.open.columns;
        // Who asks for the last moments need not look at all rows.
        let first = if hot.open.in_order { times.partition_point(|time| *time < wanted.from) } else { 0 };
        let wanted_row = |at: usize| {
            let row = Row { series: series[at], time: times[at], value: values[at] };
            wanted.has(row.series, row.time).then_some(row)
        };
        match wanted.series {
            Some(ids) if ids.len() <= FEW_SERIES => {
                let stretches =
                    (first..series.len()).step_by(STRETCH).map(|from| from..series.len().min(from + STRETCH));
                let has_one = |rows: &Range<usize>| ids.iter().any(|id| has(&series[rows.clone()], *id));
                let rows = stretches.filter(has_one).flatten().filter(|&at| has(ids, series[at]));
                rows.filter_map(wanted_row).collect()
            }
            _ => (first..series.len()).filter_map(wanted_row).collect(),
        }
    }

    /// Numbers of the metrics that may have samples here.
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
        let newest = self.active.close();
        let closed = std::mem::replace(&mut self.active, Generation::new(wal, newest));
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
        let mut generation = Generation::new(1, Newest::new(i64::MIN));
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

    #[test]
    fn what_is_forgotten_is_gone_by_chunks_and_nobody_who_follows_notices() {
        let mut generation = Generation::new(1, Newest::new(i64::MIN));
        for time in 0..10 {
            generation.push(
                time * CHUNK_MS,
                [(3, row(0, time * CHUNK_MS, 0.0)), (4, row(1, time * CHUNK_MS, 0.0))].into_iter(),
            );
        }
        generation.watch(&[3, 4], 9 * CHUNK_MS);
        let watched = generation.watched();
        generation.forget_before(4 * CHUNK_MS);
        assert_eq!((generation.samples(), generation.times()), (12, Some((4 * CHUNK_MS, 9 * CHUNK_MS))));
        assert_eq!((generation.sealed(3, 0, i64::MAX).len(), generation.sealed(4, 0, 3 * CHUNK_MS).len()), (5, 0));
        assert_eq!((generation.watched(), generation.newest().get(0)), (watched, Some((9 * CHUNK_MS, 0.0))));
        generation.close();
        generation.forget_before(i64::MAX);
        assert_eq!((generation.samples(), generation.times(), generation.is_empty()), (0, None, true));
    }

    #[test]
    fn a_sample_that_comes_after_the_question_is_noticed() {
        let mut generation = Generation::new(3, Newest::new(i64::MIN));
        generation.watch(&[1], 10);
        let before = generation.watched();
        generation.push(0, [(1, row(0, 11, 0.0)), (2, row(1, 5, 0.0))].into_iter());
        assert_eq!(generation.watched(), before);
        assert_eq!(generation.late_since(before), None);
        generation.push(0, [(1, row(0, 10, 0.0)), (1, row(0, 8, 0.0)), (1, row(0, 9, 0.0))].into_iter());
        assert_ne!(generation.watched(), before);
        assert_eq!(generation.late_since(before), Some(8));
        assert_eq!(generation.late_since(generation.watched()), None);
        assert_eq!(generation.late_since((2, 0)), Some(i64::MIN));
    }

    #[test]
    fn some_series_of_a_chunk_are_read_in_the_order_of_their_arrival() {
        let mut generation = Generation::new(1, Newest::new(i64::MIN));
        let arrivals = [(7, 1), (3, 1), (7, 2), (5, 2), (3, 2), (7, 1)];
        generation.push(0, arrivals.iter().map(|&(series, time)| (0, row(series, time, f64::from(series)))));
        generation.close();
        let read = |series: Option<&[u32]>, from, to| {
            let mut rows = Vec::new();
            let wanted = Wanted { metric: "m", series, from, to };
            generation.sealed(0, from, to).iter().for_each(|chunk| chunk.copy_into(&wanted, &mut rows));
            rows.iter().map(|row| (row.series, row.time)).collect::<Vec<_>>()
        };
        assert_eq!(read(None, 0, 9), arrivals);
        assert_eq!(read(Some(&[3, 4, 7, 9]), 0, 9), [(3, 1), (3, 2), (7, 1), (7, 2), (7, 1)]);
        assert_eq!(read(Some(&[7]), 2, 9), [(7, 2)]);
    }

    #[test]
    fn open_rows_are_those_of_a_scan_however_few_series_are_wanted() {
        let mut generation = Generation::new(1, Newest::new(i64::MIN));
        let all: Vec<Row> = (0..1_000).map(|at| row(at * 31 % 97, i64::from(at / 50), f64::from(at))).collect();
        generation.push(0, all.iter().map(|row| (0, *row)));
        for count in [0, 1, 3, FEW_SERIES as u32, 40] {
            let ids: Vec<u32> = (0..count).map(|id| id * 2 + 5).collect();
            for (from, to) in [(0, 100), (7, 11), (19, 19)] {
                let wanted = Wanted { metric: "m", series: Some(&ids), from, to };
                let expected: Vec<Row> = all.iter().copied().filter(|row| wanted.has(row.series, row.time)).collect();
                assert_eq!(generation.open_rows(0, &wanted), expected, "{count} {from}");
            }
        }
    }

    #[test]
    fn rows_in_the_order_of_time_are_sorted_as_any_others() {
        for spread in [1, 1_000_000] {
            let mut rows: Vec<Row> =
                (0..500).map(|at| row((at * 7 % 11) * spread, i64::from(at / 11), f64::from(at))).collect();
            let mut sorted = rows.clone();
            sorted.sort_by_key(|row| (row.series, row.time));
            sort_last_write_wins(&mut rows);
            assert_eq!(rows, sorted);
        }
    }
}
