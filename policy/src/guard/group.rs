//! What the limits of a group's members add up to: the bounds that an operator gives an app or a user as a whole.
//!
//! Increases are cut so that the sum never exceeds the group's maximum, decreases so that it never falls below its minimum;
//! what is outside of that already stays, and moves no further away. A member that is silent counts with its last known limit.
//! For the maximum each member counts with the most that its limit may come to, for the minimum with the least, since what is
//! under way may fail; and neither makes room for the other within an instant.

use std::collections::HashMap;

use tidegate_model::{ContainerKey, GroupKey, Resource};

use super::capacity::{Wish, grants};
use super::host::{Move, Named, View, by_class, cut};
use super::{Direction, Verdict};
use crate::proposal::LimitKey;
use crate::readings::Reading;

/// What the guard makes of each of `moves`, which are all that are made at one instant. Apps come first, then users.
pub(crate) fn judge(moves: &[Move], view: View) -> Vec<Named> {
    let mut verdicts = vec![None; moves.len()];
    let snapshot = view.snapshot;
    if moves.is_empty() || snapshot.groups.bounds.is_empty() {
        return verdicts;
    }
    let moving: HashMap<&LimitKey, usize> = moves.iter().enumerate().map(|(at, change)| (change.key, at)).collect();
    // What is left of each change: a user's bounds may cut what its app's have left.
    let mut targets: Vec<f64> = moves.iter().map(|change| change.target).collect();
    for (group, bounds) in &snapshot.groups.bounds {
        let members = snapshot.membership().members(group);
        for (resource, bounds) in bounds {
            let limits: Vec<LimitKey> = members.iter().map(|member| (member.clone(), *resource)).collect();
            let places: Vec<usize> = limits.iter().filter_map(|key| moving.get(key).copied()).collect();
            if places.is_empty() {
                continue;
            }
            let judged_from = |key: &LimitKey| moving.get(key).and_then(|at| moves[*at].context.limit);
            let sum = Sum::of(group, *resource, &limits, judged_from, view);
            for end in [bounds.max.map(End::Max), bounds.min.map(End::Min)].into_iter().flatten() {
                sum.share(end, moves, &places, view, &mut targets, &mut verdicts);
            }
        }
    }
    verdicts
}

/// An end of a group's bounds.
#[derive(Clone, Copy, Debug)]
enum End {
    Max(f64),
    Min(f64),
}

/// What the limits of a group come to.
struct Sum<'a> {
    group: &'a GroupKey,
    resource: Resource,
    /// At most and at least, whatever comes of writes under way.
    most: f64,
    least: f64,
    /// How many of them are only the last known ones.
    silent: usize,
    /// Somebody of whom nothing at all is known.
    unknown: Option<&'a ContainerKey>,
}

impl<'a> Sum<'a> {
    /// `judged_from` is the limit that a change of this instant was judged from, if there is one.
    fn of(
        group: &'a GroupKey,
        resource: Resource,
        limits: &'a [LimitKey],
        judged_from: impl Fn(&LimitKey) -> Option<f64>,
        view: View,
    ) -> Self {
        let View { snapshot, history, .. } = view;
        let mut sum = Self { group, resource, most: 0.0, least: 0.0, silent: 0, unknown: None };
        let nothing = Reading::default();
        for key in limits {
            let stands = history.limit(key, snapshot.newest(key).unwrap_or(&nothing), snapshot.now);
            let coming = history.get(key).and_then(|track| track.pending).map(|pending| pending.to);
            let known = || [stands, coming, judged_from(key)].into_iter().flatten();
            match known().max_by(f64::total_cmp).or_else(|| snapshot.capacity(key)) {
                Some(most) => sum.most += most,
                None => sum.unknown = Some(&key.0),
            }
            // A limit that is not known may be any, so it keeps nobody else above the minimum.
            sum.least += known().min_by(f64::total_cmp).unwrap_or(0.0);
            sum.silent += usize::from(!snapshot.readings.contains_key(key));
        }
        sum
    }

    /// Cuts the changes at `places` that go towards `end` to what there is, classes one after the other, within a class by
    /// weight.
    fn share(
        &self,
        end: End,
        moves: &[Move],
        places: &[usize],
        view: View,
        targets: &mut [f64],
        verdicts: &mut [Named],
    ) {
        let (direction, mut free) = match end {
            End::Max(max) => (Direction::Up, if self.unknown.is_some() { 0.0 } else { max - self.most }),
            End::Min(min) => (Direction::Down, self.least - min),
        };
        let towards: Vec<usize> =
            places.iter().copied().filter(|at| moves[*at].context.direction(targets[*at]) == direction).collect();
        for members in by_class(moves, &towards) {
            let change = |at: usize| (targets[at] - moves[at].context.limit.unwrap_or(targets[at])).abs();
            let weight = |at: usize| match end {
                End::Max(_) => view.snapshot.weight(&moves[at].key.0),
                End::Min(_) => 1.0,
            };
            let wishes: Vec<Wish> =
                members.iter().map(|at| Wish { growth: change(*at), weight: weight(*at) }).collect();
            for ((at, wish), grant) in members.iter().zip(&wishes).zip(grants(free, &wishes)) {
                free -= grant;
                if grant < wish.growth {
                    let verdict = self.verdict(end, &moves[*at], wish.growth, grant);
                    targets[*at] = match &verdict {
                        Verdict::Change(target, _) => *target,
                        _ => moves[*at].context.limit.unwrap_or(targets[*at]),
                    };
                    verdicts[*at] = Some(("group", verdict));
                }
            }
        }
    }

    fn verdict(&self, end: End, change: &Move, wanted: f64, grant: f64) -> Verdict {
        let limit = change.context.limit.unwrap_or(change.target);
        let show = |value: f64| self.resource.display(value);
        let silent = match self.silent {
            0 => String::new(),
            1 => " (of one member the last that is known)".to_owned(),
            more => format!(" (of {more} members the last that is known)"),
        };
        let group = self.group;
        let (target, told, of) = match (end, self.unknown) {
            (End::Max(_), Some(unknown)) => {
                return Verdict::Refuse(format!(
                    "the limit of {unknown} is not known, so what the limits of {group} add up to is not either"
                ));
            }
            (End::Max(max), None) => {
                let told = format!("and may grow to {}", show(max));
                (limit + grant, format!("{}{silent} {told}", show(self.most)), "wanted")
            }
            (End::Min(min), _) => {
                let told = format!("and may shrink to {}", show(min));
                (limit - grant, format!("{}{silent} {told}", show(self.least)), "less wanted")
            }
        };
        let sum = format!("the limits of {group} add up to {told}");
        if grant <= 0.0 || target == limit {
            return Verdict::Refuse(format!("{sum}, so nothing is left"));
        }
        cut(target, change.context, format!("{sum}; of the {} {of}, there is {}", show(wanted), show(grant)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::context;
    use super::super::{Context, host};
    use super::*;
    use crate::config::PolicyConfig;
    use crate::group::Groups;
    use crate::history::History;
    use crate::options::Class;
    use crate::snapshot::Snapshot;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use tidegate_model::{CgroupVersion, Container, GroupBounds, GroupKind, Runtime, TimeMs};
    use tidegate_store::GroupRow;

    const NOW: TimeMs = TimeMs(1_000_000);

    /// What a member is: its app, its limit, whether it reports, and what it wants.
    #[derive(Clone, Debug)]
    struct One {
        app: &'static str,
        limit: f64,
        reports: bool,
        target: Option<f64>,
        class: Class,
        weight: &'static str,
    }

    fn one(app: &'static str, limit: f64, target: Option<f64>) -> One {
        One { app, limit, reports: true, target, class: Class::Protect, weight: "1" }
    }

    fn key(at: usize) -> LimitKey {
        (ContainerKey { host: format!("h{}", at % 2), name: format!("c{at}") }, Resource::Cpu)
    }

    fn bounded(kind: GroupKind, name: &str, min: Option<f64>, max: Option<f64>) -> GroupRow {
        GroupRow {
            key: GroupKey { kind, name: name.to_owned() },
            bounds: [(Resource::Cpu, GroupBounds { min, max })].into(),
            changed_by: String::new(),
            changed_at: NOW,
        }
    }

    /// What the guard makes of what they want; all apps are alice's.
    fn judged(all: &[One], bounds: Vec<GroupRow>) -> Vec<Option<Verdict>> {
        let container = |(at, one): (usize, &One)| Container {
            key: key(at).0,
            path: "/x".into(),
            cgroup: CgroupVersion::V2,
            runtime: Runtime::Bare,
            id: at.to_string(),
            incarnation: 1,
            app: Some(one.app.to_owned()),
            user: Some("alice".to_owned()),
            labels: [("tidegate.weight".to_owned(), one.weight.to_owned())].into(),
            first_seen: TimeMs(0),
            last_seen: NOW,
            baseline: BTreeMap::new(),
            bounds: BTreeMap::new(),
        };
        let containers = Snapshot::by_key(all.iter().enumerate().map(container));
        let reading = |one: &One| Reading::last_limit(one.limit, 0.0);
        // NaN stands for a limit that was never read.
        let of = |reports| all.iter().enumerate().filter(move |(_, one)| one.reports == reports && !one.limit.is_nan());
        let mut snapshot =
            Snapshot::new(NOW, of(true).map(|(at, one)| (key(at), reading(one))).collect(), &[], containers);
        snapshot.groups = Groups::new(bounds, of(false).map(|(at, one)| (key(at), reading(one))).collect());
        let wanting: Vec<(usize, LimitKey, Context)> = all
            .iter()
            .enumerate()
            .filter(|(_, one)| one.target.is_some() && one.reports)
            .map(|(at, one)| (at, key(at), Context { limit: Some(one.limit), ..context() }))
            .collect();
        let moves: Vec<Move> = wanting
            .iter()
            .map(|(at, key, context)| Move { key, class: all[*at].class, context, target: all[*at].target.unwrap() })
            .collect();
        let (history, config) = (History::default(), PolicyConfig::default());
        let view = host::View { snapshot: &snapshot, history: &history, config: &config, acting: true };
        let mut verdicts = vec![None; all.len()];
        for ((at, ..), verdict) in wanting.iter().zip(judge(&moves, view)) {
            verdicts[*at] = verdict.map(|(name, verdict)| {
                assert_eq!(name, "group");
                verdict
            });
        }
        verdicts
    }

    /// What each limit is afterwards.
    fn after(all: &[One], bounds: Vec<GroupRow>) -> Vec<f64> {
        let verdicts = judged(all, bounds);
        let limit = |(one, verdict): (&One, Option<Verdict>)| match verdict {
            None if one.reports => one.target.unwrap_or(one.limit),
            Some(Verdict::Change(target, _)) => target,
            _ => one.limit,
        };
        all.iter().zip(verdicts).map(limit).collect()
    }

    #[test]
    fn what_an_app_may_have_is_shared_by_weight_and_the_silent_count_with_what_they_had() {
        let heavy = One { weight: "3", ..one("shop", 1.0, Some(5.0)) };
        let silent = One { reports: false, ..one("shop", 1.0, None) };
        let all = [heavy, one("shop", 1.0, Some(5.0)), silent, one("other", 1.0, Some(5.0))];
        let bounds = vec![bounded(GroupKind::App, "shop", None, Some(5.0))];
        assert_eq!(after(&all, bounds.clone()), [2.5, 1.5, 1.0, 5.0]);
        let why = match &judged(&all, bounds)[1] {
            Some(Verdict::Change(_, why)) => why.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            why,
            "the limits of app shop add up to 3.00 cores (of one member the last that is known) and may grow to 5.00 cores; \
             of the 4.00 cores wanted, there is 0.50 cores"
        );
    }

    #[test]
    fn a_user_bounds_what_its_apps_are_left() {
        let all = [one("a", 1.0, Some(4.0)), one("b", 1.0, Some(4.0))];
        let bounds =
            vec![bounded(GroupKind::App, "a", None, Some(2.0)), bounded(GroupKind::User, "alice", None, Some(6.0))];
        assert_eq!(after(&all, bounds), [2.0, 4.0]);
        let bounds =
            vec![bounded(GroupKind::App, "a", None, Some(2.0)), bounded(GroupKind::User, "alice", None, Some(3.0))];
        assert_eq!(after(&all, bounds), [1.5, 1.5]);
    }

    #[test]
    fn what_is_above_its_maximum_already_stays_and_grows_no_further() {
        let all = [one("a", 3.0, Some(4.0)), one("a", 3.0, Some(2.0))];
        assert_eq!(after(&all, vec![bounded(GroupKind::App, "a", None, Some(4.0))]), [3.0, 2.0]);
    }

    #[test]
    fn decreases_stop_at_the_minimum() {
        let all = [one("a", 2.0, Some(1.0)), one("a", 2.0, Some(0.5))];
        assert_eq!(after(&all, vec![bounded(GroupKind::App, "a", Some(3.0), None)]), [1.5, 1.5]);
        assert_eq!(after(&all, vec![bounded(GroupKind::App, "a", Some(5.0), None)]), [2.0, 2.0]);
    }

    #[test]
    fn while_a_limit_is_not_known_nobody_grows() {
        let unheard_of = One { limit: f64::NAN, reports: false, ..one("a", 1.0, None) };
        let all = [one("a", 1.0, Some(2.0)), unheard_of];
        let verdicts = judged(&all, vec![bounded(GroupKind::App, "a", None, Some(9.0))]);
        let why = "the limit of h1/c1 is not known, so what the limits of app a add up to is not either";
        assert_eq!(verdicts[0], Some(Verdict::Refuse(why.to_owned())));
    }

    fn any_one() -> impl Strategy<Value = One> {
        let app = prop::sample::select(vec!["a", "b", "c"]);
        let class = prop::sample::select(vec![Class::Safety, Class::Cap, Class::Protect, Class::Optimise]);
        let weight = prop::sample::select(vec!["1", "3", "0.2"]);
        let target = prop::option::weighted(0.8, 0.05_f64..6.0);
        (app, 0.05_f64..3.0, prop::bool::weighted(0.8), target, class, weight)
            .prop_map(|(app, limit, reports, target, class, weight)| One { app, limit, reports, target, class, weight })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn sums_stay_within_bounds_or_move_towards_them_whatever_fails(
            all in prop::collection::vec(any_one(), 1..10),
            app in (prop::option::of(0.1_f64..3.0), prop::option::of(3.0_f64..8.0)),
            user in (prop::option::of(0.1_f64..6.0), prop::option::of(6.0_f64..16.0)),
        ) {
            let bounds = vec![
                bounded(GroupKind::App, "a", app.0, app.1),
                bounded(GroupKind::User, "alice", user.0, user.1),
            ];
            let limits = after(&all, bounds);
            for (only, (min, max)) in [(Some("a"), app), (None, user)] {
                let members = || all.iter().zip(&limits).filter(|(one, _)| only.is_none_or(|app| one.app == app));
                let before: f64 = members().map(|(one, _)| one.limit).sum();
                // Whether decreases or increases come to nothing.
                let grown: f64 = members().map(|(one, after)| one.limit.max(*after)).sum();
                let shrunk: f64 = members().map(|(one, after)| one.limit.min(*after)).sum();
                if let Some(max) = max {
                    prop_assert!(grown <= max.max(before) * (1.0 + 1e-9), "{grown} of {max}, {before} before");
                }
                if let Some(min) = min {
                    prop_assert!(shrunk >= min.min(before) * (1.0 - 1e-9), "{shrunk} of {min}, {before} before");
                }
            }
        }

        #[test]
        fn nobody_moves_further_than_he_wants_nor_the_other_way(
            all in prop::collection::vec(any_one(), 1..10), max in 0.5_f64..10.0,
        ) {
            let limits = after(&all, vec![bounded(GroupKind::App, "a", Some(0.4), Some(max))]);
            for (one, after) in all.iter().zip(limits) {
                let wanted = one.target.filter(|_| one.reports).unwrap_or(one.limit);
                let (low, high) = (one.limit.min(wanted), one.limit.max(wanted));
                prop_assert!(after >= low - 1e-12 && after <= high + 1e-12);
                prop_assert!(one.app == "a" || after == wanted);
            }
        }
    }
}
