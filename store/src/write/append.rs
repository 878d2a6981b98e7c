//! The write path: which samples are accepted, then the write-ahead log, then memory.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_model::{Decision, Event, SampleBatch, SeriesKey, TimeMs};

use crate::config::Durability;
use crate::error::StoreError;
use crate::hot::Row;
use crate::store::Store;
use crate::write::record::{self, SampleColumns};
use crate::write::wal::{self, Wal};

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppendReport {
    /// Number of samples that were stored.
    pub accepted: usize,
    /// Samples that were not, by row.
    pub rejected: Vec<Rejection>,
}

/// One sample that was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its index in the batch.
    pub row: usize,
    /// Why, with the numbers that a person needs to see what is wrong.
    pub reason: String,
}

/// What the writer lock has to do for one batch.
struct Accepted<'a> {
    /// The batch's own index of each row's series.
    keys: Vec<u32>,
    rows: Vec<usize>,
    /// Per series of the batch: its id, when it has one.
    ids: Vec<Option<u32>>,
    /// Series that have to be defined.
    new: Vec<(u32, &'a SeriesKey)>,
}

impl Store {
    /// Stores the samples of a batch; those that are refused do not hold up the others. Once this returns, the accepted
    /// samples are in the write-ahead log (see [`Durability`]) and visible to queries.
    ///
    /// # Errors
    /// When the log cannot be written; then nothing of the batch was stored.
    pub async fn append(&self, batch: &SampleBatch, now: TimeMs) -> Result<AppendReport, StoreError> {
        let (report, position) = self.append_samples(batch, now)?;
        self.acknowledge(position).await?;
        self.counters.appended.fetch_add(report.accepted as u64, Ordering::Relaxed);
        self.counters.rejected.fetch_add(report.rejected.len() as u64, Ordering::Relaxed);
        self.counters.last_append.fetch_max(now.0, Ordering::Relaxed);
        Ok(report)
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
        let position = wal.append(records)?;
        show(self);
        self.rotate_when_full(&mut wal);
        Ok(position)
    }

    fn append_samples(&self, batch: &SampleBatch, now: TimeMs) -> Result<(AppendReport, Option<u64>), StoreError> {
        self.refuse_when_stopped()?;
        let (rows, mut rejected) = self.accept(batch, now);
        // One writer at a time: log, memory and series ids then have one order, which the replay repeats. What is done
        // under this lock is copying and one `write`, so it may be taken in async code.
        let mut wal = self.wal.lock();
        let accepted = self.resolve(batch, rows, &mut rejected);
        rejected.sort_unstable_by_key(|rejection| rejection.row);
        let report = AppendReport { accepted: accepted.rows.len(), rejected };
        if accepted.rows.is_empty() {
            return Ok((report, None));
        }
        let columns = accepted.columns(batch);
        let mut bytes = Vec::with_capacity(64 + columns.times.len() * 20);
        if !accepted.new.is_empty() {
            record::put_series(&mut bytes, accepted.new.iter().copied());
        }
        record::put_samples(&mut bytes, now.0, &columns);
        let position = match wal.append(&bytes) {
            Ok(position) => position,
            Err(error) => {
                // The failed write may have left the definitions behind: their ids must never mean anything else.
                let next = accepted.new.iter().map(|(id, _)| id + 1).max().unwrap_or(0);
                self.index.write().reserve_below(next);
                return Err(error);
            }
        };
        self.show(&accepted, batch, &columns, now);
        self.rotate_when_full(&mut wal);
        Ok((report, Some(position)))
    }

    /// Rows of the batch that are acceptable by themselves, and the others.
    fn accept(&self, batch: &SampleBatch, now: TimeMs) -> (Vec<usize>, Vec<Rejection>) {
        let latest = now.plus(Duration::from_secs(self.config.max_future_s)).0;
        let earliest = now.minus(Duration::from_secs(self.config.max_past_s())).0;
        let unnamed: Vec<bool> = batch.keys().iter().map(|key| key.metric().is_empty()).collect();
        let mut rows = Vec::with_capacity(batch.len());
        let mut rejected = Vec::new();
        for (row, ((&time, &value), &key)) in batch.times().iter().zip(batch.values()).zip(batch.series()).enumerate() {
            let reason = if !value.is_finite() {
                format!("value is {}", if value.is_nan() { "not a number" } else { "infinite" })
            } else if time > latest {
                let ahead = span(TimeMs(time).since(now));
                let most = span(Duration::from_secs(self.config.max_future_s));
                format!("time {time} is {ahead} ahead of this server's clock, at most {most} is accepted")
            } else if time < earliest {
                let age = span(now.since(TimeMs(time)));
                let most = span(Duration::from_secs(self.config.max_past_s()));
                format!("time {time} is {age} old, at most {most} is accepted")
            } else if unnamed[key as usize] {
                "metric has no name".to_owned()
            } else {
                rows.push(row);
                continue;
            };
            rejected.push(Rejection { row, reason });
        }
        (rows, rejected)
    }

    /// Finds or gives out the series ids. Needs the writer lock, since only then nobody else gives out ids.
    fn resolve<'a>(&self, batch: &'a SampleBatch, rows: Vec<usize>, rejected: &mut Vec<Rejection>) -> Accepted<'a> {
        let index = self.index.read();
        let mut used = vec![false; batch.keys().len()];
        rows.iter().for_each(|&row| used[batch.series()[row] as usize] = true);
        let mut new: Vec<(u32, &SeriesKey)> = Vec::new();
        let mut next_id = index.next_id();
        let ids: Vec<Option<u32>> = batch
            .keys()
            .iter()
            .zip(used)
            .map(|(key, used)| {
                if !used {
                    return None;
                }
                if let Some(id) = index.id(key) {
                    return Some(id);
                }
                let full = index.len() + new.len() >= self.config.max_series || next_id == u32::MAX;
                (!full).then(|| {
                    new.push((next_id, key));
                    next_id += 1;
                    next_id - 1
                })
            })
            .collect();
        let (rows, refused): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|&row| ids[batch.series()[row] as usize].is_some());
        rejected.extend(refused.into_iter().map(|row| {
            let key = display(&batch.keys()[batch.series()[row] as usize]);
            let most = self.config.max_series;
            Rejection {
                row,
                reason: format!("new series {key} is beyond the limit of {most} series (store.max_series)"),
            }
        }));
        let keys = rows.iter().map(|&row| batch.series()[row]).collect();
        Accepted { keys, rows, ids, new }
    }

    /// Makes accepted samples visible; they are in the log.
    fn show(&self, accepted: &Accepted<'_>, batch: &SampleBatch, columns: &SampleColumns, now: TimeMs) {
        if !accepted.new.is_empty() {
            let mut index = self.index.write();
            accepted.new.iter().for_each(|&(id, key)| index.insert(id, key.clone()));
            let new: Vec<_> = accepted.new.iter().filter_map(|&(id, _)| Some((id, index.key(id)?))).collect();
            drop(index);
            self.series_log.add(new);
        }
        let mut newest = vec![i64::MIN; batch.keys().len()];
        for (&key, &time) in accepted.keys.iter().zip(&columns.times) {
            newest[key as usize] = newest[key as usize].max(time);
        }
        let index = self.index.read();
        let metrics: Vec<u32> = accepted
            .ids
            .iter()
            .zip(newest)
            .map(|(id, time)| id.and_then(|id| index.touch(id, time)).unwrap_or_default())
            .collect();
        drop(index);
        let rows = accepted.keys.iter().enumerate().map(|(at, &key)| {
            let row = Row { series: columns.series[at], time: columns.times[at], value: columns.values[at] };
            (metrics[key as usize], row)
        });
        self.data.write().active.push(now.0, rows);
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

impl Accepted<'_> {
    fn columns(&self, batch: &SampleBatch) -> SampleColumns {
        SampleColumns {
            series: self.keys.iter().filter_map(|&key| self.ids[key as usize]).collect(),
            times: self.rows.iter().map(|&row| batch.times()[row]).collect(),
            values: self.rows.iter().map(|&row| batch.values()[row]).collect(),
        }
    }
}

/// JSON that reads back: it has no way to write a number that is not finite, and the replay must not fail on one.
fn storable_json<T: serde::Serialize + for<'de> serde::Deserialize<'de>>(
    rows: &[T],
    name: impl Fn(&T) -> String,
) -> Result<Vec<u8>, StoreError> {
    let unstorable = |row: &T, why: String| StoreError::Unstorable { what: name(row), why };
    let mut json = vec![b'['];
    for (at, row) in rows.iter().enumerate() {
        if at > 0 {
            json.push(b',');
        }
        let start = json.len();
        serde_json::to_writer(&mut json, row).map_err(|error| unstorable(row, error.to_string()))?;
        serde_json::from_slice::<T>(&json[start..])
            .map_err(|error| unstorable(row, format!("a number in it is not finite ({error})")))?;
    }
    json.push(b']');
    Ok(json)
}

/// `cpu{core=0, host=a}`.
fn display(key: &SeriesKey) -> String {
    let tags: Vec<String> = key.tags().iter().map(|(tag, value)| format!("{tag}={value}")).collect();
    format!("{}{{{}}}", key.metric(), tags.join(", "))
}

/// A time span with its two largest units: `3h 20m`.
fn span(span: Duration) -> String {
    let span = if span.as_secs() > 0 { Duration::from_secs(span.as_secs()) } else { span };
    let text = humantime::format_duration(span).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
