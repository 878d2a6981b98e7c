//! How many containers of a host may be shrunk within a minute: a rule that is wrong about all of them hurts only some.

use std::collections::BTreeSet;
use std::time::Duration;

use tidegate_model::TimeMs;

/// The minute that is looked back.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// A container that is about to be shrunk.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shrinker<'a> {
    pub container: &'a str,
    /// The lower rank goes first.
    pub rank: u8,
    /// When one of its limits was lowered last.
    pub last: Option<TimeMs>,
}

/// How many of `containers` may be shrunk: the share, rounded down, and at least one, since a small host would never give
/// anything back otherwise.
pub(crate) fn allowed(share: f64, containers: usize) -> usize {
    // What a decimal fraction loses as a binary one must not cost a container.
    ((share * containers as f64 + 1e-9).floor() as usize).max(1)
}

/// Which containers may be shrunk when `lately` were shrunk within the last minute already. Those may be again; of the others,
/// whoever has waited longest goes first.
pub(crate) fn admitted<'a>(
    allowed: usize,
    lately: &BTreeSet<&'a str>,
    shrinkers: &[Shrinker<'a>],
) -> BTreeSet<&'a str> {
    let (known, mut others): (Vec<_>, Vec<_>) = shrinkers.iter().partition(|one| lately.contains(one.container));
    others.sort_by(|a, b| (a.rank, a.last, a.container).cmp(&(b.rank, b.last, b.container)));
    let mut chosen: BTreeSet<&str> = known.iter().map(|one| one.container).collect();
    let mut left = allowed.saturating_sub(lately.len());
    for one in others {
        // Both limits of a container count as one container.
        if chosen.contains(one.container) {
            continue;
        }
        if left == 0 {
            break;
        }
        left -= 1;
        chosen.insert(one.container);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shrinker(container: &str, last: Option<i64>) -> Shrinker<'_> {
        Shrinker { container, rank: 0, last: last.map(TimeMs) }
    }

    #[test]
    fn a_share_is_rounded_down_and_one_container_may_always_be_shrunk() {
        assert_eq!([1, 3, 9, 10, 19, 20].map(|containers| allowed(0.1, containers)), [1, 1, 1, 1, 1, 2]);
        assert_eq!(allowed(1.0, 7), 7);
        assert_eq!(allowed(0.3, 10), 3);
    }

    #[test]
    fn whoever_waited_longest_goes_first() {
        let all = [shrinker("a", Some(5)), shrinker("b", None), shrinker("c", Some(3)), shrinker("c", Some(3))];
        let none = BTreeSet::new();
        assert_eq!(admitted(2, &none, &all), BTreeSet::from(["b", "c"]));
        assert_eq!(admitted(9, &none, &all), BTreeSet::from(["a", "b", "c"]));
        let urgent = [Shrinker { rank: 1, ..shrinker("b", None) }, shrinker("a", Some(5))];
        assert_eq!(admitted(1, &none, &urgent), BTreeSet::from(["a"]));
    }

    #[test]
    fn a_container_that_counts_already_may_be_shrunk_again() {
        let all = [shrinker("a", Some(5)), shrinker("b", None)];
        assert_eq!(admitted(1, &BTreeSet::from(["a"]), &all), BTreeSet::from(["a"]));
        assert_eq!(admitted(1, &BTreeSet::from(["x"]), &all), BTreeSet::new());
    }

    proptest! {
        #[test]
        fn no_more_are_shrunk_within_a_minute_than_allowed(
            share in 0.01_f64..1.0,
            containers in 1_usize..30,
            wishes in prop::collection::vec((0_usize..30, 0_u8..3, prop::option::of(0_i64..100_000)), 0..40),
            lately in prop::collection::btree_set(0_usize..30, 0..5),
        ) {
            let names: Vec<String> = (0..30).map(|n| format!("c{n}")).collect();
            let lately: BTreeSet<&str> = lately.iter().map(|at| &*names[*at]).collect();
            let wishes: Vec<_> = wishes.iter().map(|(at, rank, last)| Shrinker { container: &names[*at], rank: *rank, last: last.map(TimeMs) }).collect();
            let allowed = allowed(share, containers);
            let chosen = admitted(allowed, &lately, &wishes);
            let all: BTreeSet<_> = chosen.union(&lately).collect();
            prop_assert!(all.len() <= allowed.max(lately.len()));
            prop_assert!(chosen.iter().all(|name| wishes.iter().any(|wish| wish.container == *name)));
            let wished: BTreeSet<_> = wishes.iter().map(|wish| wish.container).collect();
            prop_assert!(chosen.len() == wished.len() || all.len() >= allowed, "nobody waits while there is room");
        }
    }
}
