//! What the limits of a host may add up to, and who gets what is left when not all can.

/// One container's wish to grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Wish {
    /// By how much, in the resource's base unit.
    pub growth: f64,
    /// Its share of what is short, relative to the others'.
    pub weight: f64,
}

/// Hands `free` out: to each at most its wish, and where that is not enough for all, in proportion to the weights (max-min
/// fairness by progressive filling, as Bertsekas and Gallager, Data Networks, 6.5.2, have it). What one does not need goes to
/// the others. The grants never add up to more than `free`; a wish or a weight that is no positive number counts as none.
pub(crate) fn grants(free: f64, wishes: &[Wish]) -> Vec<f64> {
    let positive = |value: f64| if value.is_finite() && value > 0.0 { value } else { 0.0 };
    let mut order: Vec<(usize, f64, f64)> = wishes
        .iter()
        .enumerate()
        .map(|(at, wish)| (at, positive(wish.growth), positive(wish.weight)))
        .filter(|(_, growth, weight)| *growth > 0.0 && *weight > 0.0)
        .collect();
    // Those who need least for their weight are filled first; whoever comes after them shares what is left.
    order.sort_by(|a, b| (a.1 / a.2).total_cmp(&(b.1 / b.2)).then(a.0.cmp(&b.0)));
    let mut weights: f64 = order.iter().map(|(.., weight)| weight).sum();
    let mut left = positive(free);
    let mut granted = vec![0.0; wishes.len()];
    for (at, growth, weight) in order {
        // Of the last one the weights are all there are, whatever was lost in taking the others' away.
        let share = left * (weight / weights.max(weight));
        let grant = growth.min(share).min(left);
        granted[at] = grant;
        left = (left - grant).max(0.0);
        weights -= weight;
    }
    granted
}

/// What a container counts for in the sum of its host: its limit, or what it uses where no limit below the host's capacity
/// holds it. A limit at the capacity or above is none, and most hosts have many of those.
pub(crate) fn counted(limit: Option<f64>, usage: Option<f64>, capacity: f64) -> f64 {
    let below = limit.filter(|limit| *limit >= 0.0 && *limit < capacity);
    below.or(usage).filter(|value| value.is_finite() && *value > 0.0).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wishes(all: &[(f64, f64)]) -> Vec<Wish> {
        all.iter().map(|(growth, weight)| Wish { growth: *growth, weight: *weight }).collect()
    }

    #[test]
    fn everybody_gets_what_he_wants_while_there_is_enough() {
        assert_eq!(grants(3.0, &wishes(&[(1.0, 1.0), (2.0, 5.0)])), [1.0, 2.0]);
    }

    #[test]
    fn what_is_short_goes_by_weight_and_what_one_does_not_need_to_the_others() {
        assert_eq!(grants(3.0, &wishes(&[(9.0, 1.0), (9.0, 2.0)])), [1.0, 2.0]);
        assert_eq!(grants(4.0, &wishes(&[(1.0, 1.0), (9.0, 1.0), (9.0, 2.0)])), [1.0, 1.0, 2.0]);
    }

    #[test]
    fn a_full_host_gives_nothing() {
        for free in [0.0, -2.0, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(grants(free, &wishes(&[(1.0, 1.0)])), [0.0]);
        }
        assert_eq!(grants(1.0, &[]), [0.0; 0]);
    }

    #[test]
    fn a_limit_that_limits_nothing_counts_as_what_is_used() {
        assert_eq!(counted(Some(2.0), Some(0.5), 8.0), 2.0);
        assert_eq!(counted(Some(8.0), Some(0.5), 8.0), 0.5);
        assert_eq!(counted(None, Some(0.5), 8.0), 0.5);
        assert_eq!(counted(None, None, 8.0), 0.0);
        assert_eq!(counted(Some(f64::NAN), Some(f64::NAN), 8.0), 0.0);
    }

    fn any_number() -> impl Strategy<Value = f64> {
        prop_oneof![8 => 0.0_f64..10.0, 1 => any::<f64>(), 1 => Just(0.0)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn grants_never_exceed_what_is_free_nor_any_wish(free in any_number(), all in prop::collection::vec((any_number(), any_number()), 0..20)) {
            let wishes = wishes(&all);
            let granted = grants(free, &wishes);
            prop_assert_eq!(granted.len(), wishes.len());
            for (grant, wish) in granted.iter().zip(&wishes) {
                prop_assert!(grant.is_finite() && *grant >= 0.0 && (*grant == 0.0 || *grant <= wish.growth));
            }
            let total: f64 = granted.iter().sum();
            prop_assert!(total == 0.0 || total <= free * (1.0 + 1e-12), "{total} of {free}");
        }

        #[test]
        fn nothing_is_left_that_somebody_wants(free in 0.0_f64..10.0, all in prop::collection::vec((0.0_f64..5.0, 0.1_f64..5.0), 1..20)) {
            let wishes = wishes(&all);
            let wanted: f64 = wishes.iter().map(|wish| wish.growth).sum();
            let total: f64 = grants(free, &wishes).iter().sum();
            prop_assert!((total - free.min(wanted)).abs() <= 1e-9 * (1.0 + wanted), "{total} of {free} for {wanted}");
        }

        #[test]
        fn whoever_gets_less_than_his_wish_gets_no_less_for_his_weight_than_anybody(
            free in 0.0_f64..10.0, all in prop::collection::vec((0.1_f64..5.0, 0.1_f64..5.0), 2..10)
        ) {
            let wishes = wishes(&all);
            let granted = grants(free, &wishes);
            let short = granted.iter().zip(&wishes).filter(|(grant, wish)| **grant < wish.growth * (1.0 - 1e-9));
            for (grant, wish) in short {
                let others = granted.iter().zip(&wishes).map(|(grant, wish)| grant / wish.weight);
                let most = others.fold(0.0, f64::max);
                prop_assert!(grant / wish.weight >= most * (1.0 - 1e-9));
            }
        }
    }
}
