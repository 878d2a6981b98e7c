//! Splitting what a group gets, or gives, over its members by need.
//!
//! The law is that of Serverless Containers (`Scaler`, application planning): the amount is handed out in slices. To grow, each
//! goes to the member that needs it most: one whose limit is below its minimum, the furthest below first; then one whose limit
//! is below its usage; then the one with the least room between limit and usage. To shrink, each is taken from the member at
//! the other end of that order. So rooms become alike.
//!
//! Where it differs: the original looks at no member's maximum and lets a shrinking one fall below its minimum, which its
//! later planning then mends or refuses as a whole. Here `lowest` and `highest` hold from the beginning, and what one member
//! cannot take goes to the next. Members without usage are left out by both; here what they have counts in the group's total
//! all the same, and what the group has is the sum of its limits, not a document of its own.

/// A member that takes part. All in the resource's base unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Member {
    pub limit: f64,
    pub usage: f64,
    /// Below this limit it is served before all others.
    pub min: f64,
    /// Between these its limit may be moved.
    pub lowest: f64,
    pub highest: f64,
}

impl Member {
    /// The rank of a member whose limit would be `limit`, least for who needs most; and within the rank what it has to spare.
    fn room(&self, limit: f64) -> (u8, f64) {
        if limit < self.min {
            (1, limit / self.min)
        } else if limit < self.usage {
            (2, limit - self.min)
        } else {
            (3, limit - self.usage)
        }
    }
}

/// Most slices, so that no amount takes long: larger amounts are handed out in slices of several steps.
const MOST_SLICES: f64 = 1_000.0;
/// A slice below this share of a step is what sums of floating-point numbers lose.
const LOST: f64 = 1e-9;

/// By how much the limit of each member changes so that all together change by `amount`, as far as they can; in slices of
/// `step`, the last one smaller. Of members with the same need the first is served.
pub(crate) fn split(amount: f64, step: f64, members: &[Member]) -> Vec<f64> {
    let mut parts = vec![0.0; members.len()];
    let sign = if amount < 0.0 { -1.0 } else { 1.0 };
    let free = |at: usize, parts: &[f64]| {
        let Member { limit, lowest, highest, .. } = members[at];
        let free = if sign > 0.0 { highest - (limit + parts[at]) } else { limit + parts[at] - lowest };
        free.max(0.0)
    };
    let able: f64 = (0..members.len()).map(|at| free(at, &parts)).sum();
    let mut left = amount.abs().min(able);
    if !(amount.is_finite() && left.is_finite()) {
        return parts;
    }
    let step = step * (left / (step * MOST_SLICES)).ceil().max(1.0);
    while left > LOST * step {
        let room = |at: usize| members[at].room(members[at].limit + parts[at]);
        let neediest = |a: &(usize, f64), b: &(usize, f64)| {
            let ((rank_a, spare_a), (rank_b, spare_b)) = (room(a.0), room(b.0));
            let order = rank_a.cmp(&rank_b).then(spare_a.total_cmp(&spare_b));
            // The first of several with the same need in both directions.
            (if sign > 0.0 { order } else { order.reverse() }).then(a.0.cmp(&b.0))
        };
        let able = (0..members.len()).map(|at| (at, free(at, &parts))).filter(|(_, free)| *free > LOST * step);
        let Some((at, free)) = able.min_by(neediest) else { break };
        let slice = step.min(left).min(free);
        parts[at] += sign * slice;
        left -= slice;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;
    use std::path::PathBuf;

    fn member(limit: f64, usage: f64, min: f64, max: f64) -> Member {
        Member { limit, usage, min, lowest: min, highest: max }
    }

    #[test]
    fn growing_goes_to_those_who_need_it_until_they_are_at_their_maximum() {
        let members = [member(1.0, 0.95, 0.1, 1.2), member(1.0, 0.2, 0.1, 4.0), member(0.05, 0.01, 0.1, 4.0)];
        let parts = split(0.5, 0.05, &members);
        let rounded: Vec<f64> = parts.iter().map(|part| (part * 100.0).round() / 100.0).collect();
        // First up to its minimum, then the fullest up to its maximum, the rest to who has least room then.
        assert_eq!(rounded, [0.2, 0.0, 0.3]);
    }

    #[test]
    fn shrinking_is_taken_from_those_with_the_most_room_down_to_their_minimum() {
        let members = [member(2.0, 0.1, 1.5, 4.0), member(2.0, 1.9, 0.1, 4.0), member(1.0, 0.2, 0.1, 4.0)];
        let parts = split(-0.9, 0.05, &members);
        let rounded: Vec<f64> = parts.iter().map(|part| (part * 100.0).round() / 100.0).collect();
        assert_eq!(rounded, [-0.5, 0.0, -0.4]);
    }

    #[test]
    fn what_nobody_can_take_is_left() {
        assert_eq!(split(1e300, 0.05, &[member(1.0, 0.5, 0.1, 2.0)]), [1.0]);
        assert_eq!(split(-5.0, 0.05, &[member(1.0, 0.5, 1.0, 2.0)]), [0.0]);
        assert_eq!(split(5.0, 0.05, &[]), [0.0; 0]);
        assert_eq!(split(f64::NAN, 0.05, &[member(1.0, 0.5, 0.1, 2.0)]), [0.0]);
    }

    prop_compose! {
        fn any_member()(limit in 0.01_f64..4.0, usage in 0.0_f64..4.0, min in 0.01_f64..1.0, room in 0.0_f64..4.0) -> Member {
            member(limit, usage, min, min + room)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn parts_add_up_and_keep_within_bounds(amount in -20.0_f64..20.0, members in prop::collection::vec(any_member(), 0..12)) {
            let parts = split(amount, 0.05, &members);
            let can = |member: &Member| {
                if amount > 0.0 { (member.highest - member.limit).max(0.0) } else { (member.limit - member.lowest).max(0.0) }
            };
            let able: f64 = members.iter().map(can).sum();
            let given: f64 = parts.iter().sum();
            prop_assert!((given.abs() - amount.abs().min(able)).abs() < 1e-6, "{given} of {amount}, {able} can be");
            for (part, member) in parts.iter().zip(&members) {
                prop_assert!(part * amount >= 0.0, "nobody moves the other way");
                prop_assert!(part.abs() <= can(member) + 1e-9);
            }
        }

        #[test]
        fn nobody_who_needs_less_gets_while_somebody_who_needs_more_could_take_it(
            amount in 0.05_f64..5.0, members in prop::collection::vec(any_member(), 2..8),
        ) {
            let parts = split(amount, 0.05, &members);
            let after = |at: usize| members[at].room(members[at].limit + parts[at]);
            for got in (0..members.len()).filter(|at| parts[*at] > 0.051) {
                // One step ago it was the neediest of all.
                let before = members[got].room(members[got].limit + parts[got] - 0.05);
                for other in (0..members.len()).filter(|at| members[*at].limit + parts[*at] + 1e-6 < members[*at].highest) {
                    let (rank, spare) = after(other);
                    prop_assert!((rank, spare + 1e-6) >= before || rank > before.0, "{before:?} before {:?}", after(other));
                }
            }
        }
    }

    /// What the reference's application planning hands out; further cases may be added through `TIDEGATE_CONFORMANCE`. It
    /// works in shares (a hundredth of a core), in slices of 5, and knows no bounds of a member but the minimum in the order of
    /// need.
    #[test]
    fn conformance_group_decisions_are_split_as_the_reference_does() {
        let mut files = vec![
            PathBuf::from(env!("CARGO_MANIFEST_DIR"))
                .join("../tests/fixtures/conformance/serverless-containers/scaler_cases.jsonl"),
        ];
        let more = std::env::var_os("TIDEGATE_CONFORMANCE").unwrap_or_default();
        let trees = std::env::split_paths(&more).map(|tree| tree.join("serverless-containers/scaler_cases.jsonl"));
        files.extend(trees.filter(|file| file.exists()));
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let cases = text.lines().filter(|line| !line.trim().is_empty());
            let cases = cases.map(|line| serde_json::from_str::<Value>(line).unwrap());
            let is_ours = |case: &Value| {
                let defect = case["note"].as_str().is_some_and(|note| note.starts_with("DEFECT"));
                case["kind"] == "propagate_app" && !defect
            };
            let (mut seen, mut wrong) = (0, Vec::new());
            for case in cases.filter(is_ours) {
                seen += 1;
                let given = as_the_reference(&case["in"]);
                if given != case["out"]["amounts"] {
                    wrong.push(format!("{}: {given}, expected {}", case["id"], case["out"]["amounts"]));
                }
            }
            println!("{}: {seen} cases, {} agreed", file.display(), seen - wrong.len());
            assert!(seen > 0 && wrong.is_empty(), "{}", wrong.join("\n"));
        }
    }

    /// The amounts by container.
    fn as_the_reference(case: &Value) -> Value {
        let field = case["request"]["field"].as_str().unwrap();
        let amount = case["request"]["amount"].as_f64().unwrap();
        // What a running app as a whole has does not fall below its minimum, nor below a share.
        let (has, min) = (case["app"][field].as_f64().unwrap(), case["app"]["min"].as_f64().unwrap());
        let least = if case["app"]["state"] == "stopped" { 0.0 } else { min.max(1.0) };
        let amount = amount.max(-(has - least).max(0.0));
        let containers: Vec<&Value> = case["containers"].as_array().unwrap().iter().collect();
        let reporting: Vec<&Value> =
            containers.into_iter().filter(|container| container["usage"].is_number()).collect();
        let members: Vec<Member> = reporting
            .iter()
            .map(|container| {
                let number = |name: &str| container[name].as_f64().unwrap();
                let (limit, usage, min) = (number(field), number("usage"), number("min"));
                Member { limit, usage, min, lowest: f64::NEG_INFINITY, highest: f64::INFINITY }
            })
            .collect();
        let slice = if case["request"]["resource"] == "energy" { 1.0 } else { 5.0 };
        let parts = split(amount, slice, &members);
        let amounts = reporting.iter().zip(parts).filter(|(_, part)| *part != 0.0);
        amounts
            .map(|(container, part)| (container["name"].as_str().unwrap().to_owned(), Value::from(part as i64)))
            .collect()
    }

    #[test]
    fn members_with_the_same_need_are_served_in_their_order() {
        let alike = [member(1.0, 0.5, 0.1, 4.0); 3];
        assert_eq!(split(0.05, 0.05, &alike), [0.05, 0.0, 0.0]);
        assert_eq!(split(-0.05, 0.05, &alike), [-0.05, 0.0, 0.0]);
    }
}
