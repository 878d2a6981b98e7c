//! Tables of current facts: containers, hosts, apps, users, groups, bounds, rules, experiments.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray, TimestampMillisecondArray};
use datafusion::common::Result;
use tidegate_model::{ContainerKey, GroupKey, GroupKind, Membership, Resource, TimeMs};

use super::{Column, Kind, UTC, schema_of};
use crate::facts::GroupRow;
use crate::query::run::Run;
use crate::store::Store;

/// One table of current facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Current {
    Containers,
    Hosts,
    Apps,
    Users,
    Groups,
    Bounds,
    Rules,
    RuleChanges,
    Params,
    State,
    Experiments,
}

impl Current {
    pub(crate) const ALL: [Current; 11] = [
        Current::Containers,
        Current::Hosts,
        Current::Apps,
        Current::Users,
        Current::Groups,
        Current::Bounds,
        Current::Rules,
        Current::RuleChanges,
        Current::Params,
        Current::State,
        Current::Experiments,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Current::Containers => "containers",
            Current::Hosts => "hosts",
            Current::Apps => "apps",
            Current::Users => "users",
            Current::Groups => "groups",
            Current::Bounds => "bounds",
            Current::Rules => "rules",
            Current::RuleChanges => "rule_changes",
            Current::Params => "params",
            Current::State => "state",
            Current::Experiments => "experiments",
        }
    }

    pub(crate) fn columns(self) -> Vec<Column> {
        let text = |name: &str, doc: &str| Column::new(name, Kind::Text, doc);
        let double = |name: &str, doc: &str| Column::new(name, Kind::Double, doc);
        let count = |name: &str, doc: &str| Column::new(name, Kind::Integer, doc);
        let time = |name: &str, doc: &str| Column::new(name, Kind::Time, doc);
        match self {
            Current::Containers => vec![
                text("host", "the host it is on"),
                text("container", "its name on that host"),
                text("app", "the group of containers it belongs to, if any"),
                text("user_name", "the group of apps it belongs to, if any"),
                text("runtime", "who made it: docker, podman, cri, lxc, systemd, machine, apptainer, bare, simulated"),
                text("id", "the runtime's own identifier"),
                text("path", "its cgroup below the hierarchy's root"),
                text("cgroup", "v1 or v2"),
                text("labels", "labels as a JSON object; tag(labels, 'key') takes one out"),
                time("first_seen", "when this incarnation was first seen"),
                time("last_seen", "when it was last measured"),
                double("baseline_cpu", "its own CPU limit when first seen, in cores; null if it had none"),
                double("baseline_memory", "its own memory limit when first seen, in bytes; null if it had none"),
                text("pinned", "what a person told rules to leave alone: cpu, memory or cpu,memory; null if nothing"),
            ],
            Current::Hosts => vec![
                text("host", "its name"),
                double("cpu", "online CPUs, in cores"),
                double("memory", "physical memory, in bytes"),
                time("last_seen", "when it was last heard of"),
            ],
            Current::Apps => vec![
                text("app", "its name"),
                text("user_name", "the user it belongs to, if any"),
                count("containers", "how many containers it has"),
            ],
            Current::Users => vec![
                text("user_name", "its name"),
                count("apps", "how many apps it has"),
                count("containers", "how many containers it has"),
            ],
            Current::Groups => vec![
                text("kind", "app or user"),
                text("name", "its name"),
                text("user_name", "the user that an app belongs to, if any; a user's own name"),
                text("resource", "cpu or memory"),
                count("members", "how many containers it has"),
                double("min", "what the limits may not be lowered below in sum, in cores or bytes"),
                double("max", "what the limits may not be raised above in sum, in cores or bytes"),
                text("changed_by", "who set min and max of this group last"),
                time("changed_at", "when"),
            ],
            Current::Bounds => vec![
                text("host", "the container's host"),
                text("container", "the container's name"),
                text("resource", "cpu, memory, disk_read, disk_write, net_receive or net_send"),
                double("min", "the lowest limit that the operator allows, in cores, bytes or bytes a second"),
                double("max", "the highest limit that the operator allows, as min; null for none"),
                text("set_by", "who set them for this container alone; null where a label or the configuration did"),
            ],
            Current::Rules => vec![
                text("name", "the rule's name"),
                text("sql", "the whole CREATE RULE statement"),
                text("query", "the SELECT in it"),
                count("version", "counts its changes from 1"),
                text("mode", "off, shadow, canary n % or on"),
                text("class", "its class"),
                count("every_ms", "how often it is evaluated"),
                text("options", "its options as a JSON object"),
                text("created_by", "who wrote this version"),
                time("updated_at", "when this version was written"),
                text(
                    "note",
                    "what the engine did to the rule by itself, and why; null after the next change by anybody else",
                ),
                time("last_run", "the last tick it was evaluated for"),
                double("last_latency_ms", "how long that took"),
                count("last_rows", "how many rows it returned"),
                text("last_error", "why it failed, if it did"),
            ],
            Current::RuleChanges => vec![
                time("time", "when it was changed"),
                text("rule", "the rule's name"),
                text("change", "created, changed, mode (nothing but its mode) or dropped"),
                count("version", "its version from then on"),
                text("mode", "its mode from then on"),
                text("changed_by", "who changed it"),
                text("note", "why, when the engine changed it by itself"),
                text("sql", "the whole CREATE RULE statement from then on; the last one of a rule that was dropped"),
            ],
            Current::Params => vec![
                text("rule", "the rule that set it"),
                text("host", "the container's host"),
                text("container", "the container's name"),
                text("resource", "cpu or memory"),
                text("name", "the parameter's name"),
                double("value", "its value"),
                time("time", "the tick that set it"),
                text("mode", "on, or shadow: then only rules in shadow mode see it"),
            ],
            Current::State => vec![
                text(
                    "rule",
                    "the rule that returned it; in a rule this table is its own state, a column for each column",
                ),
                text("host", "the container's host"),
                text("container", "the container's name"),
                text("resource", "cpu or memory"),
                time("time", "the tick that returned it last"),
                text("columns", "what it returned beyond the contract, as a JSON object"),
            ],
            Current::Experiments => vec![
                text("experiment", "its name"),
                text("test", "the test inside it that the row is; null of the experiment itself"),
                text("user_name", "whose it is"),
                time("started", "when it began"),
                time("ended", "when it ended; null while it runs"),
                text("tags", "tags as a JSON object; tag(tags, 'key') takes one out"),
                text("info", "what it was about"),
                text("changed_by", "who changed the experiment last"),
                time("changed_at", "when"),
            ],
        }
    }

    /// The table as it is now.
    pub(crate) fn rows(self, run: &Run) -> Result<RecordBatch> {
        let store = &*run.store;
        let columns = match self {
            Current::Containers => containers(store),
            Current::Hosts => hosts(store),
            Current::Apps => apps(store),
            Current::Users => users(store),
            Current::Groups => groups(store),
            Current::Bounds => bounds(store),
            Current::Rules => rules(store),
            Current::RuleChanges => rule_changes(store),
            Current::Params => params(store, run),
            Current::State => states(store),
            Current::Experiments => experiments(store),
        };
        Ok(RecordBatch::try_new(schema_of(&self.columns()), columns)?)
    }
}

fn texts<T, S: AsRef<str>>(rows: &[T], value: impl Fn(&T) -> Option<S>) -> ArrayRef {
    Arc::new(rows.iter().map(value).collect::<StringViewArray>())
}

fn doubles<T>(rows: &[T], value: impl Fn(&T) -> Option<f64>) -> ArrayRef {
    Arc::new(rows.iter().map(value).collect::<Float64Array>())
}

fn integers<T>(rows: &[T], value: impl Fn(&T) -> Option<i64>) -> ArrayRef {
    Arc::new(rows.iter().map(value).collect::<Int64Array>())
}

fn times<T>(rows: &[T], value: impl Fn(&T) -> Option<TimeMs>) -> ArrayRef {
    let times: TimestampMillisecondArray = rows.iter().map(|row| value(row).map(|time| time.0)).collect();
    Arc::new(times.with_timezone(UTC))
}

fn json_object<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let pairs = pairs.into_iter().map(|(key, value)| (key.clone(), serde_json::Value::from(value.as_str())));
    serde_json::Value::Object(pairs.collect()).to_string()
}

/// A count as SQL's integer; counts of things in memory are far below its end.
fn signed(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

fn containers(store: &Store) -> Vec<ArrayRef> {
    let (rows, overrides) = (store.containers(), store.overrides());
    let pinned = |key: &ContainerKey| {
        let names: Vec<_> = overrides.get(key)?.pinned.iter().map(|resource| resource.as_str()).collect();
        (!names.is_empty()).then(|| names.join(","))
    };
    vec![
        texts(&rows, |row| Some(row.key.host.clone())),
        texts(&rows, |row| Some(row.key.name.clone())),
        texts(&rows, |row| row.app.clone()),
        texts(&rows, |row| row.user.clone()),
        texts(&rows, |row| Some(row.runtime.as_str())),
        texts(&rows, |row| Some(row.id.clone())),
        texts(&rows, |row| Some(row.path.to_string_lossy().into_owned())),
        texts(&rows, |row| Some(row.cgroup.as_str())),
        texts(&rows, |row| Some(json_object(&row.labels))),
        times(&rows, |row| Some(row.first_seen)),
        times(&rows, |row| Some(row.last_seen)),
        doubles(&rows, |row| row.baseline.get(&Resource::Cpu)?.value()),
        doubles(&rows, |row| row.baseline.get(&Resource::Memory)?.value()),
        texts(&rows, |row| pinned(&row.key)),
    ]
}

fn hosts(store: &Store) -> Vec<ArrayRef> {
    let rows = store.hosts();
    vec![
        texts(&rows, |row| Some(row.name.clone())),
        doubles(&rows, |row| Some(row.cpu.0)),
        doubles(&rows, |row| Some(row.memory.0 as f64)),
        times(&rows, |row| Some(row.last_seen)),
    ]
}

fn apps(store: &Store) -> Vec<ArrayRef> {
    let membership = Membership::of(&store.containers());
    let apps = membership.groups().filter(|(group, _)| group.kind == GroupKind::App);
    let rows: Vec<(&str, usize)> = apps.map(|(group, members)| (group.name.as_str(), members.len())).collect();
    vec![
        texts(&rows, |(app, _)| Some(*app)),
        texts(&rows, |(app, _)| membership.user_of(app)),
        integers(&rows, |(_, containers)| Some(signed(*containers))),
    ]
}

fn users(store: &Store) -> Vec<ArrayRef> {
    let membership = Membership::of(&store.containers());
    let users = membership.groups().filter(|(group, _)| group.kind == GroupKind::User);
    let rows: Vec<(&str, usize)> = users.map(|(group, members)| (group.name.as_str(), members.len())).collect();
    vec![
        texts(&rows, |(user, _)| Some(*user)),
        integers(&rows, |(user, _)| Some(signed(membership.apps_of(user).count()))),
        integers(&rows, |(_, containers)| Some(signed(*containers))),
    ]
}

fn groups(store: &Store) -> Vec<ArrayRef> {
    let membership = Membership::of(&store.containers());
    let mut all: BTreeMap<GroupKey, Option<GroupRow>> =
        membership.groups().map(|(group, _)| (group.clone(), None)).collect();
    all.extend(store.groups().into_iter().map(|row| (row.key.clone(), Some(row))));
    let rows: Vec<_> = all
        .iter()
        .flat_map(|(group, row)| Resource::ALL.map(|resource| (group, row.as_ref(), resource)))
        .map(|(group, row, resource)| (group, row, resource, row.and_then(|row| row.bounds.get(&resource))))
        .collect();
    vec![
        texts(&rows, |(group, ..)| Some(group.kind.as_str())),
        texts(&rows, |(group, ..)| Some(group.name.as_str())),
        texts(&rows, |(group, ..)| match group.kind {
            GroupKind::App => membership.user_of(&group.name),
            GroupKind::User => Some(group.name.as_str()),
        }),
        texts(&rows, |(_, _, resource, _)| Some(resource.as_str())),
        integers(&rows, |(group, ..)| Some(signed(membership.members(group).len()))),
        doubles(&rows, |(.., bounds)| bounds.and_then(|bounds| bounds.min)),
        doubles(&rows, |(.., bounds)| bounds.and_then(|bounds| bounds.max)),
        texts(&rows, |(_, row, ..)| row.map(|row| row.changed_by.as_str())),
        times(&rows, |(_, row, ..)| row.map(|row| row.changed_at)),
    ]
}

fn bounds(store: &Store) -> Vec<ArrayRef> {
    let (containers, overrides) = (store.containers(), store.overrides());
    let rows: Vec<_> = containers
        .iter()
        .flat_map(|container| container.bounds.iter().map(|(resource, bounds)| (&container.key, *resource, *bounds)))
        .collect();
    vec![
        texts(&rows, |(key, ..)| Some(key.host.clone())),
        texts(&rows, |(key, ..)| Some(key.name.clone())),
        texts(&rows, |(_, resource, _)| Some(resource.as_str())),
        doubles(&rows, |(.., bounds)| Some(bounds.min)),
        doubles(&rows, |(.., bounds)| bounds.highest()),
        texts(&rows, |(key, resource, _)| {
            let said = overrides.get(key).filter(|said| said.bounds.contains_key(resource))?;
            Some(said.changed_by.clone())
        }),
    ]
}

fn rules(store: &Store) -> Vec<ArrayRef> {
    let rows = store.rules();
    vec![
        texts(&rows, |row| Some(row.name.clone())),
        texts(&rows, |row| Some(row.sql.clone())),
        texts(&rows, |row| Some(row.query.clone())),
        integers(&rows, |row| Some(i64::from(row.version))),
        texts(&rows, |row| Some(row.mode.to_string())),
        texts(&rows, |row| Some(row.class.clone())),
        integers(&rows, |row| Some(signed(row.every_ms))),
        texts(&rows, |row| Some(json_object(&row.options))),
        texts(&rows, |row| Some(row.created_by.clone())),
        times(&rows, |row| Some(row.updated_at)),
        texts(&rows, |row| row.note.clone()),
        times(&rows, |row| row.last_run),
        doubles(&rows, |row| row.last_latency_ms),
        integers(&rows, |row| row.last_rows.map(signed)),
        texts(&rows, |row| row.last_error.clone()),
    ]
}

fn rule_changes(store: &Store) -> Vec<ArrayRef> {
    let rows = store.rule_changes();
    vec![
        times(&rows, |row| Some(row.time)),
        texts(&rows, |row| Some(row.rule.clone())),
        texts(&rows, |row| Some(row.change.clone())),
        integers(&rows, |row| Some(i64::from(row.version))),
        texts(&rows, |row| Some(row.mode.to_string())),
        texts(&rows, |row| Some(row.changed_by.clone())),
        texts(&rows, |row| row.note.clone()),
        texts(&rows, |row| Some(row.sql.clone())),
    ]
}

fn params(store: &Store, run: &Run) -> Vec<ArrayRef> {
    let rows = store.params(run.rule.as_deref(), run.now);
    vec![
        texts(&rows, |row| Some(row.rule.clone())),
        texts(&rows, |row| Some(row.container.host.clone())),
        texts(&rows, |row| Some(row.container.name.clone())),
        texts(&rows, |row| Some(row.resource.as_str())),
        texts(&rows, |row| Some(row.name.clone())),
        doubles(&rows, |row| Some(row.value)),
        times(&rows, |row| Some(row.time)),
        texts(&rows, |row| Some(if row.shadow { "shadow" } else { "on" })),
    ]
}

fn states(store: &Store) -> Vec<ArrayRef> {
    let rows = store.all_states();
    vec![
        texts(&rows, |row| Some(row.rule.clone())),
        texts(&rows, |row| Some(row.container.host.clone())),
        texts(&rows, |row| Some(row.container.name.clone())),
        texts(&rows, |row| Some(row.resource.as_str())),
        times(&rows, |row| Some(row.time)),
        texts(&rows, |row| Some(serde_json::Value::Object(row.columns.clone()).to_string())),
    ]
}

fn experiments(store: &Store) -> Vec<ArrayRef> {
    let all = store.experiments();
    let rows: Vec<_> = all
        .values()
        .flat_map(|one| std::iter::once((one, None)).chain(one.tests.iter().map(move |test| (one, Some(test)))))
        .collect();
    vec![
        texts(&rows, |(one, _)| Some(one.name.as_str())),
        texts(&rows, |(_, test)| test.map(|test| test.name.as_str())),
        texts(&rows, |(one, _)| Some(one.user.as_str())),
        times(&rows, |(one, test)| Some(test.map_or(one.start, |test| test.start))),
        times(&rows, |(one, test)| test.map_or(one.end, |test| test.end)),
        texts(&rows, |(one, test)| Some(json_object(test.map_or(&one.tags, |test| &test.tags)))),
        texts(&rows, |(one, test)| Some(test.map_or(one.info.as_str(), |test| test.info.as_str()))),
        texts(&rows, |(one, _)| Some(one.changed_by.as_str())),
        times(&rows, |(one, _)| Some(one.changed_at)),
    ]
}
