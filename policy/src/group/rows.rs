//! From the rows of a rule about groups to a proposal for each member.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::Array;
use arrow::record_batch::RecordBatch;
use serde_json::{Map, Value, json};
use tidegate_model::{ContainerKey, GroupKey, GroupKind, Resource};

use super::split::{Member, split};
use crate::config::PolicyConfig;
use crate::history::History;
use crate::proposal::{Further, LimitKey, Origin, Parsed, Proposal, numbers, text_at, texts};
use crate::readings::Figure;
use crate::rule::RuleDefinition;
use crate::snapshot::Snapshot;

/// Amounts are handed out in slices of this size, as in the reference.
fn step(resource: Resource) -> f64 {
    if resource == Resource::Cpu { 0.05 } else { 5.0 * 1_048_576.0 }
}

/// Reads a limit rule's rows about groups of one kind: what the limits of a group should add up to becomes what the limit of
/// each member should be. A row whose target is null proposes nothing.
pub(crate) fn proposals(
    kind: GroupKind,
    rule: &Arc<RuleDefinition>,
    batches: &[RecordBatch],
    snapshot: &Snapshot,
    history: &History,
    config: &PolicyConfig,
) -> Parsed<Proposal> {
    let mut parsed = Parsed { items: Vec::<Proposal>::new(), problem: None };
    let mut seen = HashMap::<LimitKey, usize>::new();
    for batch in batches {
        let (Some(names), Some(resources), Some(targets), Some(reasons)) =
            (texts(batch, kind.as_str()), texts(batch, "resource"), numbers(batch, "target"), texts(batch, "reason"))
        else {
            parsed.problem =
                Some(format!("the rule's result has lost its column '{kind}', 'resource', 'target' or 'reason'"));
            continue;
        };
        let further = Further::all_of(batch);
        for row in (0..batch.num_rows()).filter(|row| targets.is_valid(*row)) {
            let whole = text_at(&names, row).ok_or_else(|| format!("{kind} is null")).and_then(|name| {
                let resource = text_at(&resources, row).ok_or("resource is null")?;
                let resource = resource.parse::<Resource>().map_err(|error| error.to_string())?;
                if !Resource::ALL.contains(&resource) {
                    return Err(format!(
                        "the {resource} of several containers adds up to nothing: a group has cpu and memory"
                    ));
                }
                let group = GroupKey { kind, name: name.to_owned() };
                Whole::of(group, resource, rule, snapshot, history, config)?.aiming(targets.value(row), snapshot)
            });
            let whole = match whole {
                Ok(whole) => whole,
                Err(why) => {
                    parsed.problem = Some(format!("row {}: {why}", row + 1));
                    continue;
                }
            };
            let reason = whole.reason(text_at(&reasons, row).unwrap_or_default());
            for (key, limit, part) in whole.parts() {
                // Who gets nothing has nothing to decide, but what has an end must be asked for to stand.
                if part == 0.0 && rule.resolved.ttl.is_none() {
                    continue;
                }
                let nth = *seen.entry(key.clone()).and_modify(|n| *n += 1).or_insert(0);
                let mut columns: Map<String, Value> =
                    further.iter().map(|column| (column.name.to_owned(), column.json(row))).collect();
                columns.insert("group".to_owned(), whole.to_json(part));
                let (rule, reason) = (Arc::clone(rule), reason.clone());
                let (origin, target) = (Origin::Row, limit + part);
                parsed.items.push(Proposal { rule, origin, key: key.clone(), target, reason, columns, nth });
            }
        }
    }
    parsed
}

/// A group as a whole, and what is to become of it.
struct Whole {
    group: GroupKey,
    resource: Resource,
    /// What the limits of all members add up to, those that are left out included.
    total: f64,
    /// What the rule wants them to add up to, and that within the group's bounds.
    wanted: f64,
    aim: f64,
    taking_part: Vec<(LimitKey, Member)>,
    /// Who has no part in it, and why.
    left_out: Vec<(ContainerKey, &'static str)>,
    parts: Vec<f64>,
}

impl Whole {
    fn of(
        group: GroupKey,
        resource: Resource,
        rule: &RuleDefinition,
        snapshot: &Snapshot,
        history: &History,
        config: &PolicyConfig,
    ) -> Result<Self, String> {
        let (total, taking_part, left_out) = (0.0, Vec::new(), Vec::new());
        let mut whole =
            Self { group, resource, total, wanted: total, aim: total, taking_part, left_out, parts: Vec::new() };
        let members = snapshot.membership().members(&whole.group);
        if members.is_empty() {
            return Err(format!("there is no {} with containers", whole.group));
        }
        for member in members {
            let key = (member.clone(), resource);
            let reading = snapshot.newest(&key).cloned().unwrap_or_default();
            let pending = history.get(&key).and_then(|track| track.pending);
            let stands = pending.map(|pending| pending.to).or_else(|| history.limit(&key, &reading, snapshot.now));
            let Some(limit) = stands else {
                return Err(format!("the limit of {member} is not known, so what {} has is not either", whole.group));
            };
            whole.total += limit;
            let fresh = reading.get(Figure::Age).is_some_and(|age| age <= rule.resolved.max_age.as_secs_f64());
            let why = match reading.get(Figure::Usage).filter(|_| fresh) {
                _ if pending.is_some() => "is being changed",
                None => "has no data",
                Some(_) if !rule.is_for(member, &snapshot.containers) => "is out of scope",
                Some(usage) => {
                    let (min, max) = snapshot.bounds(&key);
                    let min = min.unwrap_or(config.floor(resource));
                    let capacity = snapshot.capacity(&key).unwrap_or(f64::INFINITY);
                    let highest = max.unwrap_or(f64::INFINITY).min(capacity);
                    whole.taking_part.push((key, Member { limit, usage, min, lowest: min, highest }));
                    continue;
                }
            };
            whole.left_out.push((member.clone(), why));
        }
        Ok(whole)
    }

    /// With the parts by which the members come to `wanted` in sum, or as close as they can.
    fn aiming(mut self, wanted: f64, snapshot: &Snapshot) -> Result<Self, String> {
        if !(wanted.is_finite() && wanted > 0.0) {
            return Err(format!("{wanted} is nothing that the limits of {} can add up to", self.group));
        }
        let bounds = snapshot.groups.bounds.get(&self.group).and_then(|bounds| bounds.get(&self.resource));
        let (min, max) = bounds.map_or((None, None), |bounds| (bounds.min, bounds.max));
        self.wanted = wanted;
        self.aim = wanted.max(min.unwrap_or(0.0)).min(max.unwrap_or(f64::INFINITY));
        let members: Vec<Member> = self.taking_part.iter().map(|(_, member)| *member).collect();
        let amount = self.aim - self.total;
        self.parts = split(amount, step(self.resource), &members);
        // What is lost in sums is no change that could not be made.
        if self.given() == 0.0 && amount.abs() > 1e-9 * self.total.max(self.aim) {
            let (of, show) = (self.taking_part.len(), |value: f64| self.resource.display(value));
            let left_out = self.left_out.iter().map(|(member, why)| format!("; {member} {why}"));
            return Err(format!(
                "{} has {} and should have {}, but none of the {of} members that take part can change{}",
                self.group,
                show(self.total),
                show(self.aim),
                left_out.collect::<String>()
            ));
        }
        Ok(self)
    }

    fn given(&self) -> f64 {
        self.parts.iter().sum()
    }

    /// Limit and part of everybody who takes part.
    fn parts(&self) -> impl Iterator<Item = (&LimitKey, f64, f64)> {
        self.taking_part.iter().zip(&self.parts).map(|((key, member), part)| (key, member.limit, *part))
    }

    /// The rule's own words and what they were about.
    fn reason(&self, reason: &str) -> String {
        let (total, aim) = (self.resource.display(self.total), self.resource.display(self.aim));
        let separator = if reason.is_empty() { "" } else { "; " };
        let reason = reason.trim().trim_end_matches('.');
        format!("{reason}{separator}{} as a whole goes from {total} to {aim}", self.group)
    }

    fn to_json(&self, part: f64) -> Value {
        let left_out = self.left_out.iter().map(|(member, why)| (member.to_string(), Value::from(*why)));
        json!({
            "kind": self.group.kind,
            "name": self.group.name,
            "total": self.total,
            "wanted": self.wanted,
            "aim": self.aim,
            "given": self.given(),
            "part": part,
            "members": self.taking_part.len() + self.left_out.len(),
            "left_out": left_out.collect::<Map<String, Value>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float64Array, StringArray};
    use std::collections::BTreeMap;
    use tidegate_model::{Bounds, CgroupVersion, Container, Cores, GroupBounds, Host, Mode, Runtime, TimeMs};

    use crate::group::Groups;
    use crate::readings::Reading;

    const NOW: TimeMs = TimeMs(1_000_000);

    fn key(name: &str) -> ContainerKey {
        ContainerKey { host: "h".to_owned(), name: name.to_owned() }
    }

    fn container(name: &str, tier: &str) -> Container {
        Container {
            key: key(name),
            path: "/x".into(),
            cgroup: CgroupVersion::V2,
            runtime: Runtime::Bare,
            id: name.to_owned(),
            incarnation: 1,
            app: Some("shop".to_owned()),
            user: Some("alice".to_owned()),
            labels: [("tier".to_owned(), tier.to_owned())].into(),
            first_seen: TimeMs(0),
            last_seen: NOW,
            baseline: BTreeMap::new(),
            bounds: [(Resource::Cpu, Bounds { min: 0.5, max: 3.0 })].into(),
        }
    }

    /// a has 1 core and uses 0.9, b has 2 and uses 0.5, c has 1 and was not heard of for a minute.
    fn snapshot(bounds: GroupBounds) -> Snapshot {
        let reading = |usage: f64, limit: f64| {
            Reading::of(&[("age", 0.0), ("usage", usage), ("allocated", limit), ("allocated_age", 0.0)])
        };
        let readings = [((key("a"), Resource::Cpu), reading(0.9, 1.0)), ((key("b"), Resource::Cpu), reading(0.5, 2.0))];
        let host =
            Host { name: "h".to_owned(), cpu: Cores(8.0), memory: tidegate_model::Bytes(1 << 34), last_seen: NOW };
        let containers = [container("a", "front"), container("b", "back"), container("c", "front")];
        let mut snapshot = Snapshot::new(NOW, readings.into_iter().collect(), &[host], Snapshot::by_key(containers));
        let row = tidegate_store::GroupRow {
            key: GroupKey { kind: GroupKind::App, name: "shop".to_owned() },
            bounds: [(Resource::Cpu, bounds)].into(),
            changed_by: "me".to_owned(),
            changed_at: NOW,
        };
        let silent = [((key("c"), Resource::Cpu), Reading::last_limit(1.0, 90.0))];
        snapshot.groups = Groups::new(vec![row], silent.into());
        snapshot
    }

    fn rule(options: &[(&str, &str)]) -> Arc<RuleDefinition> {
        let given = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Arc::new(RuleDefinition::new("r", 1, Mode::On, given, "SELECT 1", &PolicyConfig::default()).unwrap())
    }

    fn asked(rule: &Arc<RuleDefinition>, group: &str, target: f64, snapshot: &Snapshot) -> Parsed<Proposal> {
        let text = |value: &str| Arc::new(StringArray::from(vec![value])) as ArrayRef;
        let batch = RecordBatch::try_from_iter(vec![
            ("app", text(group)),
            ("resource", text("cpu")),
            ("target", Arc::new(Float64Array::from(vec![target])) as ArrayRef),
            ("reason", text("busy.")),
            ("depth", Arc::new(Float64Array::from(vec![7.0])) as ArrayRef),
        ]);
        let config = PolicyConfig::default();
        proposals(GroupKind::App, rule, &[batch.unwrap()], snapshot, &History::default(), &config)
    }

    fn targets(parsed: &Parsed<Proposal>) -> Vec<(&str, f64)> {
        let rounded = |target: f64| (target * 1e6).round() / 1e6;
        parsed.items.iter().map(|item| (item.key.0.name.as_str(), rounded(item.target))).collect()
    }

    #[test]
    fn the_total_counts_the_silent_and_the_parts_leave_them_out() {
        let snapshot = snapshot(GroupBounds::default());
        let parsed = asked(&rule(&[]), "shop", 4.5, &snapshot);
        assert_eq!(targets(&parsed), [("a", 1.5)]);
        let item = &parsed.items[0];
        assert_eq!(item.reason, "busy; app shop as a whole goes from 4.00 cores to 4.50 cores");
        assert_eq!(item.columns["depth"], 7.0);
        let group = &item.columns["group"];
        assert_eq!((&group["total"], &group["members"]), (&json!(4.0), &json!(3)));
        assert_eq!(group["left_out"], json!({ "h/c": "has no data" }));
        let less = asked(&rule(&[]), "shop", 3.0, &snapshot);
        assert_eq!(targets(&less), [("b", 1.0)]);
    }

    #[test]
    fn a_group_is_not_moved_beyond_its_own_bounds() {
        let snapshot = snapshot(GroupBounds { min: Some(3.5), max: Some(4.2) });
        assert_eq!(targets(&asked(&rule(&[]), "shop", 9.0, &snapshot)), [("a", 1.2)]);
        let less = asked(&rule(&[]), "shop", 1.0, &snapshot);
        assert_eq!(targets(&less), [("b", 1.5)]);
        assert_eq!(
            (&less.items[0].columns["group"]["wanted"], &less.items[0].columns["group"]["aim"]),
            (&json!(1.0), &json!(3.5))
        );
    }

    #[test]
    fn members_out_of_scope_keep_what_they_have() {
        let snapshot = snapshot(GroupBounds::default());
        let parsed = asked(&rule(&[("scope", "tier = front")]), "shop", 3.8, &snapshot);
        assert_eq!(targets(&parsed), [("a", 0.8)]);
        assert_eq!(parsed.items[0].columns["group"]["left_out"]["h/b"], "is out of scope");
    }

    #[test]
    fn what_has_an_end_is_asked_for_also_of_those_who_get_nothing() {
        let snapshot = snapshot(GroupBounds::default());
        let parsed = asked(&rule(&[("ttl", "1m")]), "shop", 4.5, &snapshot);
        assert_eq!(targets(&parsed), [("a", 1.5), ("b", 2.0)]);
    }

    #[test]
    fn what_cannot_be_is_a_problem_and_no_proposal() {
        let all = snapshot(GroupBounds::default());
        let problem = |group: &str, target: f64, snapshot: &Snapshot| {
            let parsed = asked(&rule(&[]), group, target, snapshot);
            assert!(parsed.items.is_empty());
            parsed.problem.unwrap_or_default()
        };
        assert_eq!(problem("nobody", 1.0, &all), "row 1: there is no app nobody with containers");
        assert_eq!(problem("shop", f64::NAN, &all), "row 1: NaN is nothing that the limits of app shop can add up to");
        assert_eq!(problem("shop", 4.0, &all), "", "it has that already");
        let mut unknown = all.clone();
        unknown.groups.silent.clear();
        assert_eq!(
            problem("shop", 5.0, &unknown),
            "row 1: the limit of h/c is not known, so what app shop has is not either"
        );
        let mut full = all.clone();
        for container in Arc::make_mut(&mut full.containers).values_mut() {
            container.bounds.insert(Resource::Cpu, Bounds { min: 0.5, max: 0.6 });
        }
        let why = problem("shop", 5.0, &full);
        assert!(why.contains("none of the 2 members that take part can change; h/c has no data"), "{why}");
    }
}
