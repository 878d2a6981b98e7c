//! Flushing: moving generations from memory to segments, and dropping the log behind them.
//!
//! The order makes a crash at any point harmless: segments and series definitions are durable before the catalog names
//! them, the catalog is replaced at once, and only then the log files go. A crash before the catalog leaves files that
//! nobody names, one after it leaves log files below the catalog's floor; the next start removes both.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_model::TimeMs;

use crate::catalog::{Catalog, SegmentKind, SegmentMeta};
use crate::error::StoreError;
use crate::hot::Generation;
use crate::segment::journal::{write_decisions, write_events};
use crate::segment::{Segment, SegmentList, write_samples};
use crate::store::Store;

/// What a flush did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// Samples written, duplicates left out.
    pub samples: u64,
    /// Decisions written.
    pub decisions: u64,
    /// Events written.
    pub events: u64,
    /// Segments that were past the retention and are gone.
    pub segments_removed: usize,
    /// Series forgotten with their last samples.
    pub series_removed: usize,
    /// Log files that are no longer needed.
    pub wal_files_removed: usize,
}

/// What a flush takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Take {
    All,
    /// Only what arrived at or before this time.
    ArrivedBy(TimeMs),
}

impl Store {
    /// Writes everything in memory to segments, drops the log behind it and applies the retention.
    ///
    /// # Errors
    /// When a file cannot be written; then everything is still in memory and in the log.
    pub async fn flush(&self, now: TimeMs) -> Result<FlushReport, StoreError> {
        self.flush_blocking(Take::All, now).await
    }

    /// As [`Store::flush`], for what has been in memory for `hot_s`: what rules ask about stays there.
    pub async fn flush_aged(&self, now: TimeMs) -> Result<FlushReport, StoreError> {
        let by = now.minus(Duration::from_secs(self.config.hot_s));
        self.flush_blocking(Take::ArrivedBy(by), now).await
    }

    async fn flush_blocking(&self, take: Take, now: TimeMs) -> Result<FlushReport, StoreError> {
        let store = self.shared();
        let flush = tokio::task::spawn_blocking(move || store.flush_now(take, now));
        flush.await.map_err(|error| StoreError::Interrupted { what: "flush", why: error.to_string() })?
    }

    fn flush_now(&self, take: Take, now: TimeMs) -> Result<FlushReport, StoreError> {
        // Held throughout: one flush at a time.
        let mut catalog = self.catalog.lock();
        let generations = self.take_generations(take)?;
        let mut report = FlushReport::default();
        if let Some(last) = generations.last() {
            let wal_floor = last.wal + 1;
            self.series_log.sync()?;
            // Used up whatever happens: the catalog on disk may name its segments though replacing it has failed.
            let number = catalog.next_segment;
            catalog.next_segment += 1;
            let written = self.write_segments(number, &generations, now)?;
            for meta in &written {
                match meta.kind {
                    SegmentKind::Samples => report.samples += meta.rows,
                    SegmentKind::Decisions => report.decisions += meta.rows,
                    SegmentKind::Events => report.events += meta.rows,
                }
            }
            if let Err(error) = self.publish(&mut catalog, written.clone(), wal_floor, now) {
                self.discard(written);
                return Err(error);
            }
            report.wal_files_removed = self.wal.lock().remove_below(wal_floor);
        }
        self.apply_retention(&mut catalog, now, &mut report)?;
        self.facts.write_rest(self.dir.path())?;
        Ok(report)
    }

    /// Closes the active generation, so that log and memory can be cut there, and returns those to write. They stay
    /// readable where they are until they are published as segments.
    fn take_generations(&self, take: Take) -> Result<Vec<Arc<Generation>>, StoreError> {
        {
            let mut wal = self.wal.lock();
            let something_new = !self.data.read().active.is_empty();
            if something_new {
                self.rotate(&mut wal)?;
            }
        }
        let data = self.data.read();
        let due = data.closed.iter().take_while(|generation| match take {
            Take::All => true,
            Take::ArrivedBy(time) => generation.last_arrival() <= time.0,
        });
        Ok(due.cloned().collect())
    }

    fn write_segments(
        &self,
        number: u64,
        generations: &[Arc<Generation>],
        now: TimeMs,
    ) -> Result<Vec<SegmentMeta>, StoreError> {
        let dir = self.dir.segments();
        let decisions: Vec<_> = generations.iter().flat_map(|g| g.decisions()).map(Arc::as_ref).collect();
        let events: Vec<_> = generations.iter().flat_map(|g| g.events()).map(Arc::as_ref).collect();
        let mut written = Vec::new();
        let mut write = || -> Result<(), StoreError> {
            written.extend(write_samples(&dir, number, generations, &self.index)?);
            written.extend(write_decisions(&dir, number, &decisions)?);
            written.extend(write_events(&dir, number, &events)?);
            Ok(())
        };
        if let Err(error) = write() {
            self.discard(written);
            return Err(error);
        }
        written.iter_mut().for_each(|meta| meta.flushed = now);
        Ok(written)
    }

    /// Removes segments that were written and cannot be published: on a full disk they would be in the way of every further
    /// attempt. One that the catalog on disk names stays; replacing it may have failed only afterwards.
    pub(crate) fn discard(&self, written: Vec<SegmentMeta>) {
        let Ok(on_disk) = Catalog::load(self.dir.path()) else { return };
        for meta in written {
            if !on_disk.segments.iter().any(|named| named.file == meta.file) {
                Segment::new(&self.dir.segments(), meta, &self.horizons, &self.pages).expire();
            }
        }
    }

    /// Names the new segments in the catalog, then swaps them for the generations they were made from.
    fn publish(
        &self,
        catalog: &mut Catalog,
        written: Vec<SegmentMeta>,
        wal_floor: u64,
        now: TimeMs,
    ) -> Result<(), StoreError> {
        let mut next = catalog.clone();
        next.wal_floor = wal_floor;
        next.next_series = self.index.read().next_id();
        next.last_flush = Some(now);
        next.series_bytes = self.series_log.bytes();
        next.segments.extend(written.iter().cloned());
        next.save(self.dir.path())?;
        *catalog = next;
        self.counters.last_flush.store(now.0, Ordering::Relaxed);

        let dir = self.dir.segments();
        let mut data = self.data.write();
        let mut segments = data.segments.0.clone();
        segments
            .extend(written.into_iter().map(|meta| Arc::new(Segment::new(&dir, meta, &self.horizons, &self.pages))));
        data.segments = Arc::new(SegmentList(segments));
        data.closed.retain(|generation| generation.wal >= wal_floor);
        Ok(())
    }
}
