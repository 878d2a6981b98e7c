//! The write path: which samples are accepted, then the write-ahead log, then memory.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_model::{Decision, Event, SampleBatch, SeriesKey, SeriesRef, TimeMs};

use crate::config::Durability;
use crate::error::StoreError;
use crate::hot::Row;
use crate::store::Store;
use crate::write::record;
use crate::write::series::SeriesIndex;
use crate::write::wal::{self, Wal};

/// How many refused samples of a batch a report gives the reason of. A flood of refused samples must not become a flood
/// of texts.
pub const MAX_REASONS: usize = 1_000;

/// Stands for the metric of a series that is yet to be defined.
const UNDEFINED: u32 = u32::MAX;

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppendReport {
    /// Number of samples that were stored.
    pub accepted: usize,
    /// Samples that were not, by row: the first [`MAX_REASONS`] of them.
    pub rejected: Vec<Rejection>,
    /// The rows of further samples that were not stored.
    pub unnamed: Vec<usize>,
    /// Per key of the batch: the id of its series, by which a later batch may name it; `None` when no sample of it was
    /// stored.
    pub ids: Vec<Option<u32>>,
}

impl AppendReport {
    /// Number of samples that were not stored.
    pub fn refused(&self) -> usize {
        self.rejected.len() + self.unnamed.len()
    }

    /// The rows of all samples that were not stored, ascending.
    pub fn refused_rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.rejected.iter().map(|rejection| rejection.row).chain(self.unnamed.iter().copied())
    }

    fn refuse(&mut self, row: usize, reason: impl FnOnce() -> String) {
        if self.rejected.len() < MAX_REASONS {
            self.rejected.push(Rejection { row, reason: reason() });
        } else {
            self.unnamed.push(row);
        }
    }
}

/// One sample that was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its index in the batch.
    pub row: usize,
    /// Why, with the numbers that a person needs to see what is wrong.
    pub reason: String,
}

/// The samples of a batch that are stored, in columns, and the series that have to be defined first.
struct Admitted<'a> {
    series: Vec<u32>,
    /// The metrics' numbers.
    metrics: Vec<u32>,
    times: Cow<'a, [i64]>,
    values: Cow<'a, [f64]>,
    new: Vec<(u32, &'a SeriesKey)>,
}

impl Store {
    /// Stores the samples of a batch; those that are refused do not hold up the others. Once this returns, the accepted
    /// samples are in the write-ahead log (see [`Durability`]) and visible to queries.
    ///
    /// # Errors
    /// When the log cannot be written, or a row names a series by an id that no longer stands for one
    /// ([`StoreError::UnknownSeries`]); then nothing of the batch was stored.
    pub async fn append(&self, batch: &SampleBatch, now: TimeMs) -> Result<AppendReport, StoreError> {
        let (report, position) = self.append_samples(batch, now)?;
        self.acknowledge(position).await?;
        self.counters.appended.fetch_add(report.accepted as u64, Ordering::Relaxed);
        self.counters.rejected.fetch_add(report.refused() as u64, Ordering::Relaxed);
        self.counters.last_append.fetch_max(now.0, Ordering::Relaxed);
        Ok(report)
    }

    /// The metric and tags of a series; `None` when the id stands for none, or for none any more.
    pub fn series(&self, id: u32) -> Option<Arc<SeriesKey>> {
        self.index.read().key(id)
    }

    /// Stores decisions; durable and visible like samples. Of rows with the same id the last one counts.
    ///
    /// # Errors
    /// When the log cannot be written, or a row holds a number that is not finite; then nothing was stored.
    pub async fn append_decisions(&self, rows: &[Decision]) -> Result<(), StoreError> {
        let Some(arrived) = rows.iter().map(|row| row.time.0).max() else { return Ok(()) };
        let json = storable_json(rows, |row| format!("decision '{}' of rule '{}'", row.id, row.rule))?;
        let mut bytes = Vec::new();
        record::put_decisions(&mut bytes, arrived, &json);
        let position = self.write(&bytes, |store| {
            store.data.write().active.push_decisions(arrived, rows.iter().cloned());
        })?;
        self.acknowledge(Some(position)).await
    }

    /// Stores events; durable and visible like samples.
    ///
    /// # Errors
    /// As [`Store::append_decisions`].
    pub async fn append_events(&self, rows: &[Event]) -> Result<(), StoreError> {
        let Some(arrived) = rows.iter().map(|row| row.time.0).max() else { return Ok(()) };
        let json = storable_json(rows, |row| format!("event '{}' of rule '{}'", row.name, row.rule))?;
        let mut bytes = Vec::new();
        record::put_events(&mut bytes, arrived, &json);
        let position = self.write(&bytes, |store| {
            store.data.write().active.push_events(arrived, rows.iter().cloned());
        })?;
        self.acknowledge(Some(position)).await
    }

    async fn acknowledge(&self, position: Option<u64>) -> Result<(), StoreError> {
        match position {
            Some(position) if self.config.durability == Durability::Fsync => {
                self.commit.wait_for(&self.wal, position).await
            }
            _ => Ok(()),
        }
    }

    /// Writes records to the log and, under the same lock, makes them visible: so memory and log have one order.
    ///
    /// With `fsync` rows are visible a moment before they are acknowledged. That is harmless: a reader never sees a row
    /// vanish unless the machine itself goes down.
    fn write(&self, records: &[u8], show: impl FnOnce(&Store)) -> Result<u64, StoreError> {
        self.refuse_when_stopped()?;
        let mut wal = self.wal.lock();
        if self.scratch {
            show(self);
            return Ok(0);
        }
        let position = wal.append(records)?;
        show(self);
        self.rotate_when_full(&mut wal);
        Ok(position)
    }

    fn append_samples(&self, batch: &SampleBatch, now: TimeMs) -> Result<(AppendReport, Option<u64>), StoreError> {
        self.refuse_when_stopped()?;
        // One writer at a time: log, memory and series ids then have one order, which the replay repeats. What is done
        // under this lock is one pass over the rows, copying and one `write`, so it may be taken in async code.
        let mut wal = self.wal.lock();
        let (admitted, report) = self.admit(batch, now)?;
        if admitted.series.is_empty() {
            return Ok((report, None));
        }
        if self.scratch {
            self.show(admitted, now);
            return Ok((report, None));
        }
        let appended = wal.append_with(|bytes| {
            if !admitted.new.is_empty() {
                record::put_series(bytes, admitted.new.iter().copied());
            }
            record::put_samples(bytes, now.0, &admitted.series, &admitted.times, &admitted.values);
        });
        let position = match appended {
            Ok(position) => position,
            Err(error) => {
                // The failed write may have left the definitions behind: their ids must never mean anything else.
                let next = admitted.new.iter().map(|(id, _)| id + 1).max().unwrap_or(0);
                self.index.write().reserve_below(next);
                return Err(error);
            }
        };
        self.show(admitted, now);
        self.rotate_when_full(&mut wal);
        Ok((report, Some(position)))
    }

    /// Takes the acceptable rows and finds or gives out their series' ids. Needs the writer lock, since only then nobody
    /// else gives out ids.
    ///
    /// Series are dated here, before the log has the samples. Where it then cannot be written, they are only kept for
    /// longer than needed.
    fn admit<'a>(&self, batch: &'a SampleBatch, now: TimeMs) -> Result<(Admitted<'a>, AppendReport), StoreError> {
        let index = self.index.read();
        let accepted = self.accepted_times(now);
        let mut keys = Keys { store: self, index: &index, found: vec![None; batch.keys().len()], new: Vec::new() };
        let mut report = AppendReport::default();
        let mut series = Vec::with_capacity(batch.len());
        let mut metrics = Vec::with_capacity(batch.len());
        let columns = batch.times().iter().zip(batch.values()).zip(batch.series());
        for (row, ((&time, &value), &of)) in columns.enumerate() {
            if !value.is_finite() || !accepted.contains(&time) {
                report.refuse(row, || self.why_refused(time, value, now));
                continue;
            }
            let (id, metric) = match of {
                SeriesRef::Id(id) => (id, index.touch(id, time).ok_or(StoreError::UnknownSeries { id })?),
                SeriesRef::Key(at) => {
                    let key = &batch.keys()[at as usize];
                    match keys.id(at as usize, key) {
                        Some(id) => (id, index.touch(id, time).unwrap_or(UNDEFINED)),
                        None => {
                            report.refuse(row, || self.why_no_series(key));
                            continue;
                        }
                    }
                }
            };
            series.push(id);
            metrics.push(metric);
        }
        report.accepted = series.len();
        report.ids = keys.found.into_iter().map(Option::flatten).collect();
        let (times, values) = match report.refused() {
            0 => (Cow::Borrowed(batch.times()), Cow::Borrowed(batch.values())),
            _ => (Cow::Owned(without(batch.times(), &report)), Cow::Owned(without(batch.values(), &report))),
        };
        Ok((Admitted { series, metrics, times, values, new: keys.new }, report))
    }

    fn accepted_times(&self, now: TimeMs) -> RangeInclusive<i64> {
        let latest = now.plus(Duration::from_secs(self.config.max_future_s));
        let earliest = now.minus(Duration::from_secs(self.config.max_past_s()));
        earliest.0..=latest.0
    }

    /// Why a sample of that time and value would be refused at `now`; `None` when neither is a reason. Whether there is
    /// room for a new series shows only when it is stored.
    pub fn why_not(&self, time: TimeMs, value: f64, now: TimeMs) -> Option<String> {
        let is_acceptable = value.is_finite() && self.accepted_times(now).contains(&time.0);
        (!is_acceptable).then(|| self.why_refused(time.0, value, now))
    }

    fn why_refused(&self, time: i64, value: f64, now: TimeMs) -> String {
        if value.is_nan() {
            return "value is not a number".to_owned();
        }
        if value.is_infinite() {
            return "value is infinite".to_owned();
        }
        if time > now.0 {
            let ahead = span(TimeMs(time).since(now));
            let most = span(Duration::from_secs(self.config.max_future_s));
            return format!("time {time} is {ahead} ahead of this server's clock, at most {most} is accepted");
        }
        let age = span(now.since(TimeMs(time)));
        let most = span(Duration::from_secs(self.config.max_past_s()));
        format!("time {time} is {age} old, at most {most} is accepted")
    }

    fn why_no_series(&self, key: &SeriesKey) -> String {
        if key.metric().is_empty() {
            return "metric has no name".to_owned();
        }
        let most = self.config.max_series;
        format!("new series {} is beyond the limit of {most} series (store.max_series)", display(key))
    }

    /// Makes samples visible; they are in the log.
    fn show(&self, admitted: Admitted<'_>, now: TimeMs) {
        let Admitted { series, mut metrics, times, values, new } = admitted;
        if !new.is_empty() {
            let mut index = self.index.write();
            new.iter().for_each(|&(id, key)| index.insert(id, key.clone()));
            let defined: Vec<_> = new.iter().filter_map(|&(id, _)| Some((id, index.key(id)?))).collect();
            for ((metric, &id), &time) in metrics.iter_mut().zip(&series).zip(times.iter()) {
                if *metric == UNDEFINED {
                    *metric = index.touch(id, time).unwrap_or_default();
                }
            }
            drop(index);
            self.series_log.add(defined);
        }
        let rows = series.iter().zip(times.iter()).zip(values.iter());
        let rows = rows.map(|((&series, &time), &value)| Row { series, time, value });
        self.data.write().active.push(now.0, metrics.iter().copied().zip(rows));
        self.history.see(self, &series, &times);
        self.news.note(&metrics);
    }

    fn refuse_when_stopped(&self) -> Result<(), StoreError> {
        if self.commit.stopped() {
            return Err(StoreError::LogStopped { dir: self.dir.path().to_owned() });
        }
        Ok(())
    }

    fn rotate_when_full(&self, wal: &mut Wal) {
        if wal.file_bytes() < wal::FILE_BYTES {
            return;
        }
        // Everything is written and acknowledged; the file only grows further until the next attempt.
        if let Err(error) = self.rotate(wal) {
            tracing::warn!(%error, "write-ahead log goes on in an oversized file");
        }
    }

    /// Begins a new log file and with it a new generation.
    pub(crate) fn rotate(&self, wal: &mut Wal) -> Result<(), StoreError> {
        wal.rotate()?;
        self.data.write().close_active(wal.number());
        Ok(())
    }
}

/// The keys of a batch and the ids that have been found for them so far: only a key with an acceptable sample gets one.
struct Keys<'a, 'i> {
    store: &'i Store,
    index: &'i SeriesIndex,
    /// Per key: not looked up yet, or what came of it.
    found: Vec<Option<Option<u32>>>,
    new: Vec<(u32, &'a SeriesKey)>,
}

impl<'a> Keys<'a, '_> {
    /// The id of the key at `at`; `None` when it may not have one.
    fn id(&mut self, at: usize, key: &'a SeriesKey) -> Option<u32> {
        if let Some(found) = self.found[at] {
            return found;
        }
        let id = if key.metric().is_empty() { None } else { self.index.id(key).or_else(|| self.next_id(key)) };
        self.found[at] = Some(id);
        id
    }

    fn next_id(&mut self, key: &'a SeriesKey) -> Option<u32> {
        let id = self.index.next_id().checked_add(u32::try_from(self.new.len()).ok()?)?;
        let is_full = self.index.len() + self.new.len() >= self.store.config.max_series || id == u32::MAX;
        (!is_full).then(|| self.new.push((id, key)))?;
        Some(id)
    }
}

/// A column without the refused rows.
fn without<T: Copy>(column: &[T], report: &AppendReport) -> Vec<T> {
    let mut refused = report.refused_rows().peekable();
    let kept = column.iter().enumerate().filter(|(row, _)| refused.next_if_eq(row).is_none());
    kept.map(|(_, &cell)| cell).collect()
}

/// What is written to the log as JSON.
trait Storable: serde::Serialize + for<'de> serde::Deserialize<'de> {
    /// Whether its JSON reads back for sure. Where that is not sure it is tried.
    fn reads_back(&self) -> bool;
}

impl Storable for Decision {
    fn reads_back(&self) -> bool {
        let guards = self.guards.iter().all(|report| report.before.is_finite() && report.after.is_finite());
        guards && self.proposed.is_finite() && is_shallow(&self.inputs, DEEP)
    }
}

impl Storable for Event {
    fn reads_back(&self) -> bool {
        self.value.is_finite()
    }
}

/// Levels of JSON that its reader reads in any case; it has a limit, which is twice as high.
const DEEP: usize = 64;

fn is_shallow(value: &serde_json::Value, levels: usize) -> bool {
    let within = |inner: &serde_json::Value| levels > 0 && is_shallow(inner, levels - 1);
    match value {
        serde_json::Value::Array(values) => values.iter().all(within),
        serde_json::Value::Object(values) => values.values().all(within),
        _ => true,
    }
}

/// JSON that reads back: it has no way to write a number that is not finite, and the replay must not fail on one.
fn storable_json<T: Storable>(rows: &[T], name: impl Fn(&T) -> String) -> Result<Vec<u8>, StoreError> {
    let unstorable = |row: &T, why: String| StoreError::Unstorable { what: name(row), why };
    let mut json = vec![b'['];
    for (at, row) in rows.iter().enumerate() {
        if at > 0 {
            json.push(b',');
        }
        let start = json.len();
        serde_json::to_writer(&mut json, row).map_err(|error| unstorable(row, error.to_string()))?;
        if !row.reads_back() {
            serde_json::from_slice::<T>(&json[start..])
                .map_err(|error| unstorable(row, format!("a number in it is not finite ({error})")))?;
        }
    }
    json.push(b']');
    Ok(json)
}

/// `cpu{core=0, host=a}`.
fn display(key: &SeriesKey) -> String {
    let tags: Vec<String> = key.tags().map(|(tag, value)| format!("{tag}={value}")).collect();
    format!("{}{{{}}}", key.metric(), tags.join(", "))
}

/// A time span with its two largest units: `3h 20m`.
fn span(span: Duration) -> String {
    let span = if span.as_secs() > 0 { Duration::from_secs(span.as_secs()) } else { span };
    let text = humantime::format_duration(span).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
