//! Which bins of time roll-ups can answer, and what they say.
//!
//! A roll-up has seen the samples of one segment. So it is right for a bin that nothing but this segment has samples in,
//! and asked about whole. Its counts, minima and maxima are then those of the samples to the last bit. Its sums are added up
//! in another order, which makes no difference for whole numbers only, as long as they are not too large.

use std::sync::Arc;

use super::grid::Bins;
use super::visit::Visit;
use crate::catalog::SegmentKind;
use crate::error::StoreError;
use crate::scan::{Parts, Wanted};
use crate::segment::Segment;
use crate::segment::rollup::{Figures, RollupRow, Step};
use crate::store::Store;
use crate::tables::TimeRange;

impl Step {
    /// The steps whose bins lie whole in `bins`, the longest first.
    pub(crate) fn within(bins: Bins) -> impl Iterator<Item = Step> {
        [Step::Hour, Step::Minute].into_iter().filter(move |step| match bins {
            Bins::Whole => true,
            Bins::Every(width) => width % step.ms() == 0,
        })
    }
}

/// What is wanted of roll-ups.
pub(crate) struct Rolled<'a> {
    /// The steps that serve, the one to be preferred first.
    pub(crate) steps: &'a [Step],
    pub(crate) figures: Figures,
    /// Only where all samples are whole numbers.
    pub(crate) whole: bool,
}

impl Store {
    /// What roll-ups say of the samples in the range of `visit` is added to `rows`. Returns the ranges that they say nothing
    /// of, sorted. Reads files.
    pub(crate) fn rolled_up(
        &self,
        visit: &Visit<'_>,
        rolled: &Rolled<'_>,
        rows: &mut Vec<RollupRow>,
    ) -> Result<Vec<TimeRange>, StoreError> {
        let Rolled { steps, figures, whole } = *rolled;
        let TimeRange { from, to } = visit.range;
        let wanted = |from, to| Wanted { metric: &visit.members.metric, series: visit.series, from, to };
        let mut left = vec![visit.range];
        // As a rule there are none that fit, and nothing else has to be looked at.
        let segments = Arc::clone(&self.data.read().segments);
        let has_some = |segment: &Arc<Segment>| steps.iter().any(|step| segment.has_rollups(*step));
        if !segments.overlapping(SegmentKind::Samples, from, to).any(has_some) {
            return Ok(left);
        }
        let Some(Parts { segments, sealed, open }) = self.parts_of(&wanted(from, to)) else { return Ok(left) };
        let mut stored = Vec::new();
        for segment in segments.overlapping(SegmentKind::Samples, from, to) {
            if let Some(times) = segment.times_of(&visit.members.metric)? {
                stored.push((times, Some(segment)));
            }
        }
        let open = open.iter().map(|row| TimeRange { from: row.time, to: row.time });
        let hot = joined(sealed.iter().map(|chunk| chunk.times()).chain(open.reduce(span)).collect());
        stored.extend(hot.into_iter().map(|times| (times, None)));
        for &step in steps {
            for (place, (times, segment)) in stored.iter().enumerate() {
                let Some(segment) = segment else { continue };
                if whole && !segment.has_whole_numbers(&visit.members.metric)? {
                    continue;
                }
                let others = stored.iter().enumerate().filter(|(other, _)| *other != place);
                let others: Vec<TimeRange> = others.map(|(_, (times, _))| widened(*times, step)).collect();
                let inner = inside(*times, visit.range, step);
                for free in others.iter().fold(vec![inner], |free, other| without(&free, *other)) {
                    let parts: Vec<TimeRange> = left.iter().map(|left| left.intersect(free)).collect();
                    for part in parts.into_iter().filter(|part| part.from <= part.to) {
                        // Its first and last bin may reach beyond what is asked about; nothing is stored there.
                        let part = widened(part, step);
                        if !segment.read_rollups(&wanted(part.from, part.to), step, figures, rows)? {
                            break;
                        }
                        left = without(&left, part);
                    }
                }
            }
        }
        Ok(left)
    }
}

/// From the earlier beginning to the later end.
fn span(a: TimeRange, b: TimeRange) -> TimeRange {
    TimeRange { from: a.from.min(b.from), to: a.to.max(b.to) }
}

/// Ranges that overlap as one.
fn joined(mut ranges: Vec<TimeRange>) -> Vec<TimeRange> {
    ranges.sort_unstable_by_key(|range| range.from);
    ranges.dedup_by(|next, last| {
        let overlap = next.from <= last.to;
        if overlap {
            *last = span(*last, *next);
        }
        overlap
    });
    ranges
}

/// The bins that have one of `times`.
fn widened(times: TimeRange, step: Step) -> TimeRange {
    let ms = step.ms();
    let last = times.to.div_euclid(ms).saturating_mul(ms);
    TimeRange { from: times.from.div_euclid(ms).saturating_mul(ms), to: last.saturating_add(ms - 1) }
}

/// The bins of a segment with samples from `times.from` to `times.to` whose samples are all in `range`.
fn inside(times: TimeRange, range: TimeRange, step: Step) -> TimeRange {
    let bins = widened(times, step);
    let from = if range.from <= times.from {
        bins.from
    } else {
        widened(TimeRange { from: range.from - 1, ..times }, step).from + step.ms()
    };
    let to =
        if times.to <= range.to { bins.to } else { widened(TimeRange { from: range.to + 1, ..times }, step).from - 1 };
    TimeRange { from, to }
}

/// `ranges` without what lies in `cut`.
fn without(ranges: &[TimeRange], cut: TimeRange) -> Vec<TimeRange> {
    let pieces = ranges.iter().flat_map(|range| {
        let before = TimeRange { from: range.from, to: range.to.min(cut.from.saturating_sub(1)) };
        let after = TimeRange { from: range.from.max(cut.to.saturating_add(1)), to: range.to };
        // One that it does not touch stays whole.
        if cut.to < range.from || range.to < cut.from { [*range, NOTHING] } else { [before, after] }
    });
    pieces.filter(|range| range.from <= range.to).collect()
}

const NOTHING: TimeRange = TimeRange { from: i64::MAX, to: i64::MIN };

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: i64, to: i64) -> TimeRange {
        TimeRange { from, to }
    }

    #[test]
    fn what_is_cut_out_leaves_what_lies_around_it() {
        let ranges = [range(0, 9), range(20, 29)];
        assert_eq!(without(&ranges, range(5, 24)), [range(0, 4), range(25, 29)]);
        assert_eq!(without(&ranges, range(22, 23)), [range(0, 9), range(20, 21), range(24, 29)]);
        assert_eq!(without(&ranges, range(10, 19)), ranges);
        assert_eq!(without(&ranges, range(-5, 50)), []);
    }

    #[test]
    fn ranges_that_overlap_are_joined() {
        assert_eq!(joined(vec![range(5, 9), range(0, 3), range(2, 4), range(7, 8)]), [range(0, 4), range(5, 9)]);
    }

    #[test]
    fn only_bins_with_all_their_samples_in_the_range_are_whole() {
        let minute = |number: i64| number * 60_000;
        let times = range(minute(2) + 5, minute(9) + 7);
        let whole = |from, to| inside(times, range(from, to), Step::Minute);
        assert_eq!(whole(0, minute(100)), range(minute(2), minute(10) - 1));
        assert_eq!(whole(minute(2) + 5, minute(9) + 7), range(minute(2), minute(10) - 1));
        assert_eq!(whole(minute(2) + 6, minute(9) + 6), range(minute(3), minute(9) - 1));
        assert_eq!(whole(minute(4), minute(8) - 1), range(minute(4), minute(8) - 1));
        assert_eq!(whole(minute(4) + 1, minute(8) - 2), range(minute(5), minute(7) - 1));
    }
}
