//! One pass over the samples of a metric as they arrived, for whoever puts them in order label by label.
//!
//! Several series of one label may have samples at the same time here, and late ones are shown like any others.

use super::visit::{Pieces, Visit};
use crate::catalog::SegmentKind;
use crate::error::StoreError;
use crate::hot::Row;
use crate::scan::{Parts, Wanted};
use crate::store::Store;
use crate::tables::TimeRange;

/// What is shown samples as they arrived.
pub(crate) trait Arrivals {
    /// The next sample of a label. Samples of the same series and time come in the order of their arrival, so the last one
    /// of them counts.
    fn row(&mut self, label: u32, row: Row);
    /// Bytes that are held of what was shown.
    fn held(&self) -> usize;
}

impl Store {
    /// Shows the samples to `arrivals`; where that saves reading, only those of the series `among` (sorted). After each step `check` is told how many bytes are held, and can end the pass. Reads
    /// files.
    pub(crate) fn arrivals<E: From<StoreError>>(
        &self,
        visit: &Visit<'_>,
        among: Option<&[u32]>,
        arrivals: &mut impl Arrivals,
        check: &mut impl FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut pieces = Pieces::new(visit, &[visit.range], self.stored_times());
        while let Some(TimeRange { from, to }) = pieces.next() {
            let wanted = self.visible(Wanted { metric: &visit.members.metric, series: visit.series, from, to });
            let Some(Parts { segments, sealed, open }) = self.parts_of(&wanted) else { return Ok(()) };
            let mut count = open.len();
            let mut rows = Vec::new();
            for segment in segments.overlapping(SegmentKind::Samples, from, to) {
                segment.read_samples(&Wanted { series: among.or(visit.series), ..wanted }, &mut rows)?;
                count += rows.len();
                check(arrivals.held() + rows.capacity() * size_of::<Row>())?;
                rows.drain(..).for_each(|row| show(visit, row, arrivals));
            }
            drop(rows);
            for chunk in &sealed {
                check(arrivals.held())?;
                chunk.each(&wanted, |row| {
                    count += 1;
                    show(visit, row, arrivals);
                });
            }
            open.into_iter().for_each(|row| show(visit, row, arrivals));
            pieces.had(count);
            check(arrivals.held())?;
        }
        Ok(())
    }
}

/// Shows a sample, unless its series appeared after the labels were made.
#[inline]
fn show(visit: &Visit<'_>, row: Row, arrivals: &mut impl Arrivals) {
    if let Some(label) = visit.members.rank.get(row.series) {
        arrivals.row(label, row);
    }
}
