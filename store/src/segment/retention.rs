//! Retention: removing segments, and then series, that are too old.

use std::sync::Arc;
use std::time::Duration;

use tidegate_model::TimeMs;

use crate::catalog::Catalog;
use crate::error::StoreError;
use crate::segment::SegmentList;
use crate::segment::flush::FlushReport;
use crate::store::Store;

impl Store {
    /// Removes segments whose newest row is past the retention: from the catalog first, then from what can be read, and
    /// each file with the last scan that still reads it.
    pub(crate) fn apply_retention(
        &self,
        catalog: &mut Catalog,
        now: TimeMs,
        report: &mut FlushReport,
    ) -> Result<(), StoreError> {
        let oldest = now.minus(Duration::from_secs(self.config.retention_s));
        let mut next = catalog.clone();
        next.segments.retain(|meta| meta.max_time >= oldest);
        report.segments_removed = catalog.segments.len() - next.segments.len();
        if report.segments_removed == 0 {
            return Ok(());
        }
        next.next_series = self.index.read().next_id();
        next.save(self.dir.path())?;
        *catalog = next;

        let mut data = self.data.write();
        let (kept, expired): (Vec<_>, Vec<_>) =
            data.segments.0.iter().cloned().partition(|segment| segment.meta.max_time >= oldest);
        data.segments = Arc::new(SegmentList(kept));
        drop(data);
        expired.iter().for_each(|segment| segment.expire());

        report.series_removed = self.forget_series(oldest)?;
        if report.series_removed > 0 {
            catalog.series_bytes = self.series_log.bytes();
            catalog.save(self.dir.path())?;
        }
        Ok(())
    }

    /// Forgets series that have no sample left. A segment or generation with newer rows may still have older ones, so only
    /// what is before everything that is stored counts as gone.
    fn forget_series(&self, oldest: TimeMs) -> Result<usize, StoreError> {
        let removed = {
            // Nobody may add samples to a series that is about to be forgotten.
            let _writer = self.wal.lock();
            let before = {
                let data = self.data.read();
                let hot = data.generations().map(|generation| generation.min_time());
                let segments = data.segments.0.iter().map(|segment| segment.meta.min_time.0);
                hot.chain(segments).min().unwrap_or(oldest.0).min(oldest.0)
            };
            self.index.write().expire(before)
        };
        if removed > 0 {
            self.series_log.rewrite(self.dir.path(), || self.index.read().all())?;
        }
        Ok(removed)
    }
}
