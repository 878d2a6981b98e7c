//! Samples that come after somebody has asked about their time.

use std::collections::VecDeque;

/// Stretches of late samples that are told apart at most.
const MAX_STRETCHES: usize = 32;

/// How many there were, and how far back those go that came since.
#[derive(Debug, Default)]
pub(crate) struct Lateness {
    count: u64,
    /// (which of them, its time in ms UTC); both grow. Of the samples after the n-th, the first entry behind n has the
    /// earliest time.
    earliest: VecDeque<(u64, i64)>,
}

impl Lateness {
    pub(crate) fn see(&mut self, time: i64) {
        self.count += 1;
        while self.earliest.back().is_some_and(|(_, known)| *known >= time) {
            self.earliest.pop_back();
        }
        self.earliest.push_back((self.count, time));
        // The two oldest become one, which is told to go back as far as the earlier of them.
        if self.earliest.len() > MAX_STRETCHES
            && let Some((_, time)) = self.earliest.pop_front()
            && let Some(next) = self.earliest.front_mut()
        {
            next.1 = time;
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The earliest time, or an earlier one, of all that came after the `count`-th; `None` where nothing did.
    pub(crate) fn since(&self, count: u64) -> Option<i64> {
        let behind = self.earliest.partition_point(|(at, _)| *at <= count);
        self.earliest.get(behind).map(|(_, time)| *time)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_late_is_missed(times in proptest::collection::vec(0_i64..100, 0..200)) {
            let mut lateness = Lateness::default();
            times.iter().for_each(|time| lateness.see(*time));
            prop_assert_eq!(lateness.count(), times.len() as u64);
            prop_assert!(lateness.earliest.len() <= MAX_STRETCHES);
            for seen in 0..=times.len() {
                let earliest = times[seen..].iter().min();
                let told = lateness.since(seen as u64);
                prop_assert_eq!(told.is_some(), earliest.is_some());
                prop_assert!(told.as_ref() <= earliest);
                // Of the newest it is told exactly.
                if seen + MAX_STRETCHES >= times.len() {
                    prop_assert_eq!(told.as_ref(), earliest);
                }
            }
        }
    }
}
