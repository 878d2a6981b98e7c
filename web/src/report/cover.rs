//! A set of instants as disjoint stretches of time.

use std::collections::BTreeMap;

/// Stretches of ms, each from its start up to but without its end. Those that touch are one, so that a series without
/// gaps is one stretch however many samples it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cover {
    /// Ends by starts.
    stretches: BTreeMap<i64, i64>,
}

impl Cover {
    /// Adds a stretch; an empty one is none.
    pub(crate) fn add(&mut self, mut start: i64, mut end: i64) {
        if start >= end {
            return;
        }
        if let Some((&before, &until)) = self.stretches.range(..=start).next_back()
            && until >= start
        {
            if until >= end {
                return;
            }
            start = before;
        }
        while let Some((&next, &until)) = self.stretches.range(start..=end).next() {
            self.stretches.remove(&next);
            end = end.max(until);
        }
        self.stretches.insert(start, end);
    }

    /// Length of all stretches, in s.
    pub(crate) fn seconds(&self) -> f64 {
        self.stretches.iter().map(|(start, end)| seconds(end - start)).sum()
    }

    /// How many holes there are between the first stretch and the last.
    pub(crate) fn gaps(&self) -> usize {
        self.stretches.len().saturating_sub(1)
    }

    /// How many seconds of each bucket are covered: of `count` buckets of `step` ms from `from` on.
    pub(crate) fn by_bucket(&self, from: i64, step: i64, count: usize) -> Vec<f64> {
        let mut covered = vec![0.0; count];
        for (start, end) in &self.stretches {
            pieces(*start, *end, from, step, count, |at, long| covered[at] += long);
        }
        covered
    }
}

/// Tells of a stretch the buckets that it lies in, with how many seconds of it each has.
pub(crate) fn pieces(start: i64, end: i64, from: i64, step: i64, count: usize, mut each: impl FnMut(usize, f64)) {
    let mut at = start.max(from);
    while at < end {
        let Some(bucket) = usize::try_from((at - from) / step).ok().filter(|bucket| *bucket < count) else { return };
        let until = end.min(from + (bucket as i64 + 1) * step);
        each(bucket, seconds(until - at));
        at = until;
    }
}

/// ms as seconds.
pub(crate) fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(stretches: &[(i64, i64)]) -> Cover {
        let mut cover = Cover::default();
        stretches.iter().for_each(|(start, end)| cover.add(*start, *end));
        cover
    }

    #[test]
    fn what_touches_or_overlaps_is_one_stretch_in_whichever_order_it_comes() {
        let stretches = [(0, 1_000), (1_000, 2_000), (5_000, 6_000), (1_500, 3_000), (4_000, 5_500), (7_000, 7_000)];
        let mut reversed = stretches;
        reversed.reverse();
        for cover in [of(&stretches), of(&reversed)] {
            assert_eq!(cover.stretches.into_iter().collect::<Vec<_>>(), [(0, 3_000), (4_000, 6_000)]);
        }
        assert_eq!((of(&stretches).seconds(), of(&stretches).gaps()), (5.0, 1));
        assert_eq!(of(&[(0, 9), (1, 2), (0, 3)]), of(&[(0, 9)]));
    }

    #[test]
    fn a_stretch_is_cut_at_the_borders_of_buckets() {
        let cover = of(&[(500, 2_500), (3_900, 9_000)]);
        assert_eq!(cover.by_bucket(1_000, 1_000, 4), [1.0, 0.5, 0.1, 1.0]);
    }
}
