//! The recent past of all limits, one behind the other: each tick goes through all of them, and as long as nobody comes or
//! goes it need not ask whose is whose.

use std::collections::HashMap;
use std::sync::Arc;

use crate::history::Track;
use crate::proposal::LimitKey;
use crate::readings::{Limits, Reading, Readings};

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tracks {
    rows: Vec<(LimitKey, Track)>,
    places: HashMap<LimitKey, usize, ahash::RandomState>,
    measured: Measured,
}

/// Where the tracks of limits that were measured together are.
#[derive(Clone, Debug, Default)]
struct Measured {
    limits: Arc<Limits>,
    /// Of each of these limits.
    places: Vec<usize>,
    /// The tracks of all other limits.
    others: Vec<usize>,
}

impl Tracks {
    pub fn get(&self, key: &LimitKey) -> Option<&Track> {
        self.places.get(key).map(|place| &self.rows[*place].1)
    }

    pub fn get_mut(&mut self, key: &LimitKey) -> Option<&mut Track> {
        self.places.get(key).map(|place| &mut self.rows[*place].1)
    }

    /// The track of a limit, a new one where there is none.
    pub fn get_or_new(&mut self, key: &LimitKey) -> &mut Track {
        let place = self.place(key);
        &mut self.rows[place].1
    }

    fn place(&mut self, key: &LimitKey) -> usize {
        if let Some(place) = self.places.get(key) {
            return *place;
        }
        let place = self.rows.len();
        self.rows.push((key.clone(), Track::default()));
        self.places.insert(key.clone(), place);
        place
    }

    pub fn iter(&self) -> impl Iterator<Item = (&LimitKey, &Track)> {
        self.rows.iter().map(|(key, track)| (key, track))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&LimitKey, &mut Track)> {
        self.rows.iter_mut().map(|(key, track)| (&*key, track))
    }

    /// Calls `seen` with the track of each limit that was measured and what was read of it, and `unseen` with all others, which
    /// tells whether to keep it: those of knobs among them. A limit that has no track gets one; `new` is called with it first.
    pub fn measured(
        &mut self,
        readings: &Readings,
        new: impl Fn(&mut Track, &Reading),
        seen: impl Fn(&mut Track, &Reading),
        unseen: impl Fn(&LimitKey, &mut Track) -> bool,
    ) {
        let known = self.measured.places.len() + self.measured.others.len() == self.rows.len();
        if !known || !Arc::ptr_eq(&self.measured.limits, readings.limits()) {
            self.meet(readings, new);
        }
        for (place, reading) in self.measured.places.iter().zip(readings.rows()) {
            seen(&mut self.rows[*place].1, reading);
        }
        let mut gone = Vec::new();
        for place in &self.measured.others {
            let (key, track) = &mut self.rows[*place];
            if !unseen(key, track) {
                gone.push(*place);
            }
        }
        if !gone.is_empty() {
            self.remove(&gone);
        }
    }

    /// Finds the tracks of the limits that were measured.
    fn meet(&mut self, readings: &Readings, new: impl Fn(&mut Track, &Reading)) {
        let mut places = Vec::with_capacity(readings.len());
        for (key, reading) in readings.iter() {
            let before = self.rows.len();
            let place = self.place(key);
            if place == before {
                new(&mut self.rows[place].1, reading);
            }
            places.push(place);
        }
        let mut measured = vec![false; self.rows.len()];
        places.iter().for_each(|place| measured[*place] = true);
        let others = (0..self.rows.len()).filter(|place| !measured[*place]).collect();
        self.measured = Measured { limits: Arc::clone(readings.limits()), places, others };
    }

    /// Forgets the tracks at some places, which are sorted.
    fn remove(&mut self, gone: &[usize]) {
        let rows = std::mem::take(&mut self.rows).into_iter().enumerate();
        self.rows = rows.filter(|(place, _)| gone.binary_search(place).is_err()).map(|(_, row)| row).collect();
        self.places = self.rows.iter().zip(0..).map(|((key, _), place)| (key.clone(), place)).collect();
        self.measured = Measured::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use tidegate_model::{ContainerKey, Resource, TimeMs};

    fn key(at: u8) -> LimitKey {
        (ContainerKey { host: "h".to_owned(), name: format!("c{at}") }, Resource::Cpu)
    }

    fn readings(of: &BTreeSet<u8>, tick: i64) -> Readings {
        of.iter().map(|at| (key(*at), Reading::last_limit(f64::from(*at), tick as f64))).collect()
    }

    proptest! {
        #[test]
        fn each_limit_has_the_track_that_a_plain_map_would_give_it(
            ticks in prop::collection::vec((prop::collection::btree_set(0_u8..12, 0..8), any::<bool>(), 0_u8..12), 1..20),
        ) {
            let (mut tracks, mut plain) = (Tracks::default(), BTreeMap::<u8, (i64, i64)>::new());
            let mut last = readings(&BTreeSet::new(), 0);
            let mut here = BTreeSet::new();
            for (tick, (of, same, other)) in (1..).zip(ticks) {
                // Mostly the same ones are there again.
                if !same {
                    here = of;
                    last = readings(&here, tick);
                }
                // Somebody who was not measured was changed.
                tracks.get_or_new(&key(other));
                plain.entry(other).or_insert((0, 0));
                tracks.measured(
                    &last,
                    |track, _| track.first_data = Some(TimeMs(tick)),
                    |track, _| track.last_data = Some(TimeMs(tick)),
                    |_, track| track.last_data.is_some_and(|last| last.0 + 3 > tick),
                );
                for at in &here {
                    plain.entry(*at).or_insert((tick, 0)).1 = tick;
                }
                plain.retain(|at, (_, last)| here.contains(at) || *last + 3 > tick && *last > 0);
                let found: BTreeMap<LimitKey, (i64, i64)> = tracks
                    .iter()
                    .map(|(key, track)| (key.clone(), (track.first_data.map_or(0, |at| at.0), track.last_data.map_or(0, |at| at.0))))
                    .collect();
                let wanted: BTreeMap<LimitKey, (i64, i64)> = plain.iter().map(|(at, both)| (key(*at), *both)).collect();
                prop_assert_eq!(&found, &wanted);
                for at in 0..12 {
                    prop_assert_eq!(tracks.get(&key(at)).is_some(), plain.contains_key(&at));
                    prop_assert_eq!(tracks.get_mut(&key(at)).is_some(), plain.contains_key(&at));
                }
            }
        }
    }
}
