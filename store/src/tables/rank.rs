//! Which label the series of a metric have.

use std::collections::HashMap;

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// A table from ids to labels may have this many places for each series in it. Ids are given out in the order of arrival,
/// so those of one metric lie close together as a rule.
const PLACES_PER_SERIES: usize = 64;

/// From the id of a series to its label.
#[derive(Debug)]
pub(crate) enum Rank {
    Dense { first: u32, labels: Vec<u32> },
    Sparse(Map<u32, u32>),
}

impl Rank {
    /// What stands for no label.
    const NONE: u32 = u32::MAX;

    /// `ids` sorted, with the label of each.
    pub(crate) fn new(ids: &[u32], labels: &[u32]) -> Self {
        let (Some(&first), Some(&last)) = (ids.first(), ids.last()) else { return Rank::Sparse(Map::default()) };
        let places = (last - first) as usize + 1;
        let pairs = ids.iter().zip(labels);
        if places > PLACES_PER_SERIES * ids.len() {
            return Rank::Sparse(pairs.map(|(id, label)| (*id, *label)).collect());
        }
        let mut dense = vec![Self::NONE; places];
        pairs.for_each(|(id, label)| dense[(id - first) as usize] = *label);
        Rank::Dense { first, labels: dense }
    }

    /// With the labels of further series behind `known`; all ids are sorted.
    fn with_more(&self, known: &[u32], ids: &[u32], labels: &[u32]) -> Self {
        match (self, ids.last()) {
            (Rank::Dense { first, labels: dense }, Some(last))
                if ((last - first) as usize) < PLACES_PER_SERIES * (known.len() + ids.len()) =>
            {
                let mut dense = dense.clone();
                dense.resize((last - first) as usize + 1, Self::NONE);
                ids.iter().zip(labels).for_each(|(id, label)| dense[(id - first) as usize] = *label);
                Rank::Dense { first: *first, labels: dense }
            }
            _ => {
                let of = known.iter().filter_map(|id| self.get(*id)).chain(labels.iter().copied());
                Self::new(&[known, ids].concat(), &of.collect::<Vec<_>>())
            }
        }
    }

    /// The label of a series; `None` where it has none.
    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<u32> {
        match self {
            // An id below the first one wraps around to beyond the last.
            Rank::Dense { first, labels } => {
                labels.get(id.wrapping_sub(*first) as usize).copied().filter(|label| *label != Self::NONE)
            }
            Rank::Sparse(labels) => labels.get(&id).copied(),
        }
    }
}

/// The series of one metric that have a label.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) metric: String,
    /// Sorted.
    pub(crate) ids: Vec<u32>,
    pub(crate) rank: Rank,
    /// Whether the label of each is its place.
    in_place: bool,
}

impl Members {
    /// `ids` sorted, with the label of each.
    pub(crate) fn new(metric: &str, ids: Vec<u32>, labels: &[u32]) -> Self {
        let rank = Rank::new(&ids, labels);
        let in_place = (0..).zip(labels).all(|(place, label)| place == *label);
        Self { metric: metric.to_owned(), ids, rank, in_place }
    }

    /// These and further series, whose ids are above.
    pub(super) fn with_more(&self, ids: &[u32], labels: &[u32]) -> Self {
        Self {
            metric: self.metric.clone(),
            ids: [self.ids.as_slice(), ids].concat(),
            rank: self.rank.with_more(&self.ids, ids, labels),
            in_place: self.in_place && (self.ids.len()..).zip(labels).all(|(place, label)| place == *label as usize),
        }
    }

    #[cfg(test)]
    pub(super) fn is_in_place(&self) -> bool {
        self.in_place
    }

    /// The series whose label is among `labels` (sorted), by id.
    pub(crate) fn with_labels(&self, labels: &[u32]) -> Vec<u32> {
        if self.in_place {
            return labels.iter().filter_map(|label| self.ids.get(*label as usize).copied()).collect();
        }
        let wanted = |id: &u32| self.rank.get(*id).is_some_and(|label| labels.binary_search(&label).is_ok());
        self.ids.iter().copied().filter(wanted).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_found_by_its_id_whether_ids_lie_close_together_or_far_apart() {
        for ids in [vec![7, 9, 10], vec![7, 900_000, 4_000_000_000]] {
            let rank = Rank::new(&ids, &[2, 0, 1]);
            assert_eq!(ids.iter().map(|id| rank.get(*id)).collect::<Vec<_>>(), [Some(2), Some(0), Some(1)]);
            assert_eq!([0, 8, 11, u32::MAX].map(|id| rank.get(id)), [None; 4]);
        }
        assert_eq!(Rank::new(&[], &[]).get(0), None);
    }
}
