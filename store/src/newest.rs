//! The newest sample of every series, kept as samples arrive: what `last()` answers from.

use std::collections::HashMap;

use crate::error::StoreError;
use crate::hot::Row;
use crate::scan::Wanted;
use crate::store::Store;
use crate::tables::Slices;

/// What a scan for the series of one metric that were not known has found out: the others have no sample at or after a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LookedUp {
    from: i64,
    /// [`Newest::hidden`] at that time.
    hidden: u64,
}

/// By metric.
pub(crate) type LookUps = HashMap<String, LookedUp>;

impl Store {
    /// The newest sample with `from <= time <= now` of each of the series `ids` (sorted) of a metric, unless the retention
    /// hides it: its place in `ids`, time and value, in that order. Reads files where what is kept in memory does not tell, and asks `check` before each of them
    /// whether to go on.
    pub(crate) fn newest_of<E: From<StoreError>>(
        &self,
        metric: &str,
        ids: &[u32],
        from: i64,
        now: i64,
        mut check: impl FnMut() -> Result<(), E>,
    ) -> Result<Vec<(u32, i64, f64)>, E> {
        let from = from.max(self.horizons.of(metric));
        let known = self.lookups.lock().get(metric).copied();
        let (mut found, mut later, mut unknown) = (Vec::with_capacity(ids.len()), Vec::new(), Vec::new());
        let hidden = {
            let data = self.data.read();
            let newest = data.active.newest();
            // Those that are not known have no sample there.
            let looked_up = known.is_some_and(|known| known.from <= from && known.hidden == newest.hidden());
            for (place, &id) in (0u32..).zip(ids) {
                match newest.get(id) {
                    Some((time, value)) if time <= now => {
                        if from <= time {
                            found.push((place, time, value));
                        }
                    }
                    Some(_) => later.push(id),
                    None if looked_up => {}
                    None => unknown.push(id),
                }
            }
            newest.hidden()
        };
        if later.is_empty() && unknown.is_empty() {
            return Ok(found);
        }
        // What was newest in the past can be learned only if nothing is newer now.
        let is_newest = self.stored_times().is_none_or(|(_, latest)| latest <= now);
        let mut missing = [later, unknown.clone()].concat();
        missing.sort_unstable();
        let mut slices = Slices::new(from, now, self.stored_times()).of_series(missing.len());
        while !missing.is_empty()
            && let Some((from, to)) = slices.next()
        {
            check()?;
            let rows = self.scan_rows(&Wanted { metric, series: Some(&missing), from, to })?;
            slices.had(rows.len());
            let mut seen = Vec::new();
            for run in rows.chunk_by(|a, b| a.series == b.series) {
                let Some(Row { series, time, value }) = run.last() else { continue };
                if let Ok(place) = ids.binary_search(series) {
                    found.push((place as u32, *time, *value)); // places are counted in u32 as the ids are
                    seen.push(*series);
                }
            }
            missing.retain(|id| seen.binary_search(id).is_err());
        }
        found.sort_unstable_by_key(|(place, ..)| *place);
        if is_newest && !unknown.is_empty() {
            let all_asked = self.series_of(metric, from).iter().all(|(id, _)| ids.binary_search(id).is_ok());
            let mut data = self.data.write();
            let newest = data.active.newest_mut();
            if newest.hidden() == hidden {
                for (place, time, value) in &found {
                    newest.learn(ids[*place as usize], *time, *value);
                }
                // Who asked for some of the metric's series has learned nothing about the others.
                if all_asked {
                    self.lookups.lock().insert(metric.to_owned(), LookedUp { from, hidden });
                }
            }
        }
        Ok(found)
    }
}

/// Stands for the time of a series whose newest sample is not known here.
const UNKNOWN: i64 = i64::MIN;

/// The newest samples by series id. Only those that arrived since the start are known, and those that were looked up.
#[derive(Debug)]
pub(crate) struct Newest {
    /// (time in ms, value) by id.
    samples: Vec<(i64, f64)>,
    /// The latest time in the segments that were there at the start: a sample that is not later may be older than one that a
    /// segment has of the same series.
    floor: i64,
    hidden: u64,
}

impl Newest {
    /// `floor` is the latest time in segments.
    pub(crate) fn new(floor: i64) -> Self {
        Self { samples: Vec::new(), floor, hidden: 0 }
    }

    /// A sample arrived.
    #[inline]
    pub(crate) fn see(&mut self, series: u32, time: i64, value: f64) {
        let at = series as usize;
        if at >= self.samples.len() {
            // Ids are given out in order, so this grows by what there is.
            self.samples.resize(at + 1, (UNKNOWN, 0.0));
        }
        let newest = &mut self.samples[at];
        if newest.0 == UNKNOWN && time <= self.floor {
            self.hidden += 1;
        } else if time >= newest.0 {
            // Of several at the same time the last to arrive counts.
            *newest = (time, value);
        }
    }

    /// Time and value of the newest sample of a series; `None` when only a scan can tell.
    #[inline]
    pub(crate) fn get(&self, series: u32) -> Option<(i64, f64)> {
        self.samples.get(series as usize).copied().filter(|(time, _)| *time != UNKNOWN)
    }

    /// Changes when a sample arrives of a series that stays unknown.
    pub(crate) fn hidden(&self) -> u64 {
        self.hidden
    }

    /// Notes what a scan found to be the newest sample of a series that is not known.
    pub(crate) fn learn(&mut self, series: u32, time: i64, value: f64) {
        let at = series as usize;
        if at >= self.samples.len() {
            self.samples.resize(at + 1, (UNKNOWN, 0.0));
        }
        if self.samples[at].0 == UNKNOWN {
            self.samples[at] = (time, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stays_and_of_equal_times_the_last_arrival() {
        let mut newest = Newest::new(i64::MIN);
        for (time, value) in [(5, 1.0), (4, 2.0), (5, 3.0)] {
            newest.see(2, time, value);
        }
        assert_eq!((newest.get(2), newest.get(1), newest.get(9)), (Some((5, 3.0)), None, None));
    }

    #[test]
    fn a_sample_that_a_segment_may_have_a_newer_one_of_is_not_the_newest() {
        let mut newest = Newest::new(10);
        newest.see(0, 10, 1.0);
        assert_eq!((newest.get(0), newest.hidden()), (None, 1));
        newest.learn(0, 10, 2.0);
        newest.see(0, 9, 3.0);
        newest.learn(0, 99, 4.0);
        assert_eq!(newest.get(0), Some((10, 2.0)));
        newest.see(1, 11, 5.0);
        assert_eq!((newest.get(1), newest.hidden()), (Some((11, 5.0)), 1));
    }
}
