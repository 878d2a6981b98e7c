//! Reading: what the SQL half sees of the engine.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Float64Array, Int64Array, UInt32Array};
use tidegate_model::{Decision, Event, SeriesKey};

use crate::catalog::SegmentKind;
use crate::error::StoreError;
use crate::hot::{Chunk, Generation, Row, sort_last_write_wins};
use crate::segment::SegmentList;
use crate::store::Store;

/// Rows of one [`ScanChunk`] at most.
const CHUNK_ROWS: usize = 32_768;

/// A metric and the tags that its series have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetricInfo {
    pub name: String,
    /// The tag keys of all its series, sorted.
    pub tag_keys: Vec<String>,
}

/// Which samples of one metric a scan wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub metric: &'a str,
    /// Ids of the series, sorted; `None` for all of them.
    pub series: Option<&'a [u32]>,
    /// In ms UTC, inclusive at both ends.
    pub from: i64,
    pub to: i64,
}

impl Wanted<'_> {
    /// Whether a row of the metric is among them.
    pub(crate) fn has(&self, series: u32, time: i64) -> bool {
        self.from <= time && time <= self.to && self.series.is_none_or(|ids| ids.binary_search(&series).is_ok())
    }
}

/// Samples of one metric in columns, sorted by (series, time), each (series, time) once.
#[derive(Clone, Debug)]
pub(crate) struct ScanChunk {
    pub series: UInt32Array,
    /// In ms UTC.
    pub times: Int64Array,
    pub values: Float64Array,
}

/// Where samples of one metric are, in the order of arrival, which decides between duplicates: segments, sealed chunks, the
/// chunk that is being filled.
pub(crate) struct Parts {
    pub segments: Arc<SegmentList>,
    pub sealed: Vec<Arc<Chunk>>,
    /// Only the wanted ones.
    pub open: Vec<Row>,
}

impl Store {
    /// All metrics that have series, sorted by name.
    pub(crate) fn metrics(&self) -> Vec<MetricInfo> {
        self.index.read().metrics()
    }

    /// One metric, if it has series.
    pub(crate) fn metric(&self, name: &str) -> Option<MetricInfo> {
        self.index.read().metric(name)
    }

    /// The metric and tags of a series; `None` when it is unknown or was forgotten with its last samples.
    #[cfg(test)]
    pub(crate) fn series_key(&self, sid: u32) -> Option<Arc<SeriesKey>> {
        self.index.read().key(sid)
    }

    /// The series of one metric that may have samples at or after `from`, sorted by id.
    pub(crate) fn series_of(&self, metric: &str, from: i64) -> Vec<(u32, Arc<SeriesKey>)> {
        self.index.read().series_of(metric, from)
    }

    /// The earliest and the latest time of all rows, of whatever kind.
    pub(crate) fn stored_times(&self) -> Option<(i64, i64)> {
        let data = self.data.read();
        let hot = data.generations().filter_map(Generation::times);
        let segments = data.segments.0.iter().map(|segment| (segment.meta.min_time.0, segment.meta.max_time.0));
        hot.chain(segments).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// Changes whenever a metric or one of its tag keys comes or goes. Whoever keeps a plan or a list of tables compares it
    /// to know when they are out of date.
    pub fn series_generation(&self) -> u64 {
        self.index.read().generation()
    }

    /// The wanted samples, deduplicated, sorted by (series, time). Reads files.
    pub(crate) fn scan(&self, wanted: &Wanted<'_>) -> Result<Vec<ScanChunk>, StoreError> {
        Ok(self.scan_rows(wanted)?.chunks(CHUNK_ROWS).map(ScanChunk::from_rows).collect())
    }

    /// As [`Store::scan`], in rows.
    pub(crate) fn scan_rows(&self, wanted: &Wanted<'_>) -> Result<Vec<Row>, StoreError> {
        let wanted = &self.visible(*wanted);
        let Some(Parts { segments, sealed, open }) = self.parts_of(wanted) else { return Ok(Vec::new()) };
        let mut rows: Vec<Row> = Vec::new();
        for segment in segments.overlapping(SegmentKind::Samples, wanted.from, wanted.to) {
            segment.read_samples(wanted, &mut rows)?;
        }
        sealed.iter().for_each(|chunk| chunk.copy_into(wanted, &mut rows));
        rows.extend(open);
        sort_last_write_wins(&mut rows);
        Ok(rows)
    }

    /// What the retention leaves of `wanted`: late samples too, which are not in segments yet.
    pub(crate) fn visible<'a>(&self, wanted: Wanted<'a>) -> Wanted<'a> {
        Wanted { from: wanted.from.max(self.horizons.of(wanted.metric)), ..wanted }
    }

    /// Where the wanted samples are; `None` when the metric is unknown. Under the lock only what still changes is copied;
    /// segments and sealed chunks are shared and read afterwards.
    pub(crate) fn parts_of(&self, wanted: &Wanted<'_>) -> Option<Parts> {
        let metric = self.index.read().metric_id(wanted.metric)?;
        let data = self.data.read();
        let sealed = data.generations().flat_map(|g| g.sealed(metric, wanted.from, wanted.to)).collect();
        Some(Parts { segments: data.segments.clone(), sealed, open: data.active.open_rows(metric, wanted) })
    }

    /// All decisions with `from <= time <= to` (ms), sorted by time; of rows with the same id the newest. Reads files.
    pub(crate) fn scan_decisions(&self, from: i64, to: i64) -> Result<Vec<Decision>, StoreError> {
        let (segments, hot) = {
            let data = self.data.read();
            let hot: Vec<_> = data.generations().flat_map(|g| g.decisions_between(from, to)).collect();
            (data.segments.clone(), hot)
        };
        let mut rows = Vec::new();
        for segment in segments.overlapping(SegmentKind::Decisions, from, to) {
            segment.read_decisions(from, to, &mut rows)?;
        }
        rows.extend(hot.iter().map(|row| Decision::clone(row)));
        Ok(newest_by_id(rows))
    }

    /// All events with `from <= time <= to` (ms), sorted by time, then arrival. Reads files.
    pub(crate) fn scan_events(&self, from: i64, to: i64) -> Result<Vec<Event>, StoreError> {
        let (segments, hot) = {
            let data = self.data.read();
            let hot: Vec<_> = data.generations().flat_map(|g| g.events_between(from, to)).collect();
            (data.segments.clone(), hot)
        };
        let mut rows = Vec::new();
        for segment in segments.overlapping(SegmentKind::Events, from, to) {
            segment.read_events(from, to, &mut rows)?;
        }
        rows.extend(hot.iter().map(|row| Event::clone(row)));
        rows.sort_by_key(|row| row.time);
        Ok(rows)
    }
}

impl ScanChunk {
    fn from_rows(rows: &[Row]) -> Self {
        Self {
            series: rows.iter().map(|row| row.series).collect::<Vec<_>>().into(),
            times: rows.iter().map(|row| row.time).collect::<Vec<_>>().into(),
            values: rows.iter().map(|row| row.value).collect::<Vec<_>>().into(),
        }
    }
}

fn newest_by_id(mut rows: Vec<Decision>) -> Vec<Decision> {
    let newest: HashMap<String, usize> = rows.iter().enumerate().map(|(at, row)| (row.id.clone(), at)).collect();
    if newest.len() < rows.len() {
        let mut at = 0;
        rows.retain(|row| {
            at += 1;
            newest.get(&row.id) == Some(&(at - 1))
        });
    }
    rows.sort_by_key(|row| row.time);
    rows
}
