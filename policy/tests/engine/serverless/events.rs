//! Which events a window makes, what they are called, which of them still count, and what they add up to.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidegate_model::TimeMs;

use super::cases::{Case, trees};
use super::requests;
use super::settings::{self, original, resource};
use super::text::{AT_ONCE, Pack, number, quoted, values};
use crate::world::World;

const EMITS: &str = "serverless_events";
const COUNTS: &str = "serverless_scale";

/// The table `counted` of serverless_events for some cases.
fn counted(cases: &[&Case]) -> (&'static str, String) {
    let mut rows = Vec::new();
    for Case { id, input, .. } in cases {
        for (name, usage) in input["usages"].as_object().unwrap() {
            let (resources, limits) = (&input["resources"][name], &input["limits"][name]);
            let mut row = vec!["'h'".to_owned(), quoted(id), quoted(resource(name)), quoted(name), "true".to_owned()];
            row.push(number(usage));
            row.extend(["current", "min", "max"].map(|key| number(&resources[key])));
            row.extend(["upper", "lower"].map(|key| number(&limits[key])));
            rows.push(row);
        }
    }
    let columns = [
        ("host", "VARCHAR"),
        ("container", "VARCHAR"),
        ("resource", "VARCHAR"),
        ("name", "VARCHAR"),
        ("compatible", "BOOLEAN"),
        ("usage", "DOUBLE"),
        ("current", "DOUBLE"),
        ("min", "DOUBLE"),
        ("max", "DOUBLE"),
        ("upper", "DOUBLE"),
        ("lower", "DOUBLE"),
    ];
    ("counted", values(&columns, &rows))
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_match_events() {
    let pack = Pack::new(World::new().await).await;
    for tree in trees("match_events") {
        let mut answers: BTreeMap<String, Value> = BTreeMap::new();
        let mut by_rules: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
        for case in &tree.cases {
            by_rules.entry(case.input["ruleset"].as_str().unwrap()).or_default().push(case);
            answers.insert(case.id.clone(), json!({"events": []}));
        }
        let guarded: BTreeMap<&str, &Value> =
            tree.cases.iter().map(|case| (case.id.as_str(), &case.input["guarded"])).collect();
        for (rules, cases) in by_rules {
            for cases in cases.chunks(AT_ONCE) {
                let replaced = [("settings", settings::events(&tree.rulesets, rules, values)), counted(cases)];
                for row in pack.ask(EMITS, &replaced, "named").await {
                    let id = row["container"].as_str().unwrap();
                    let name = original(row["resource"].as_str().unwrap());
                    // In the pack, what is not guarded has no settings.
                    if guarded[id].as_array().unwrap().iter().any(|guarded| guarded == name) {
                        let events = answers.get_mut(id).unwrap()["events"].as_array_mut().unwrap();
                        let (event, up, down) = (&row["event"], &row["up"], &row["down"]);
                        events.push(json!({"name": event, "resource": name, "up": up, "down": down}));
                    }
                }
            }
        }
        tree.compare(&answers, &BTreeMap::new());
    }
}

/// Both rules name events: one after what a setting says, one after sums.
#[tokio::test(flavor = "multi_thread")]
async fn conformance_event_name() {
    let pack = Pack::new(World::new().await).await;
    for tree in trees("event_name") {
        for rule in [EMITS, COUNTS] {
            let mut rows = Vec::new();
            for Case { id, input, .. } in &tree.cases {
                let name = input["resource"].as_str().unwrap();
                rows.push((id.as_str(), name, number(&input["up"]), number(&input["down"])));
            }
            let found = if rule == EMITS {
                let columns = [
                    ("host", "VARCHAR"),
                    ("container", "VARCHAR"),
                    ("resource", "VARCHAR"),
                    ("name", "VARCHAR"),
                    ("compatible", "BOOLEAN"),
                    ("usage", "DOUBLE"),
                    ("current", "DOUBLE"),
                    ("place", "BIGINT"),
                    ("up", "DOUBLE"),
                    ("down", "DOUBLE"),
                    ("fires", "BOOLEAN"),
                ];
                let row = |(id, name, up, down): &(&str, &str, String, String)| {
                    let fixed =
                        ["'h'", &quoted(id), &quoted(name), &quoted(name), "true", "1", "1", "1", up, down, "true"];
                    fixed.map(str::to_owned).to_vec()
                };
                let rows: Vec<_> = rows.iter().map(row).collect();
                pack.ask(rule, &[("matched", values(&columns, &rows))], "named").await
            } else {
                let row = |(id, name, up, down): &(&str, &str, String, String)| {
                    requests::fired(id, name, &[("up", up.clone()), ("down", down.clone())])
                };
                let rows: Vec<_> = rows.iter().map(row).collect();
                pack.ask(rule, &[requests::fired_table(&rows)], "wanted").await
            };
            let answer = |event: &Value| match event {
                Value::Null => json!({"error": "no_positive_count"}),
                name => json!({"name": name}),
            };
            let answers =
                found.iter().map(|row| (row["container"].as_str().unwrap().to_owned(), answer(&row["event"])));
            tree.compare(&answers.collect(), &BTreeMap::new());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_sort_events() {
    let pack = Pack::new(World::new().await).await;
    let columns = [
        ("host", "VARCHAR"),
        ("container", "VARCHAR"),
        ("resource", "VARCHAR"),
        ("name", "VARCHAR"),
        ("value", "DOUBLE"),
        ("time", "TIMESTAMP"),
        ("open", "BOOLEAN"),
    ];
    for tree in trees("sort_events") {
        let mut answers = BTreeMap::new();
        for Case { id, input, .. } in &tree.cases {
            let times = input["timestamps"].as_array().unwrap();
            // A container each, which says in what order they come back.
            let row = |(place, time): (usize, &Value)| {
                let time = format!("to_timestamp_millis({})", (time.as_f64().unwrap() * 1e3).round() as i64);
                let place = format!("'{place:09}'");
                ["'h'", &place, "'cpu'", "'CpuUnderuse'", "1", &time, "true"].map(str::to_owned).to_vec()
            };
            let rows: Vec<_> = times.iter().enumerate().map(row).collect();
            let timeout = values(&[("event_timeout", "DOUBLE")], &[vec![number(&input["timeout"])]]);
            let replaced = [("settings", timeout), ("seen", values(&columns, &rows))];
            let now = TimeMs((input["now"].as_f64().unwrap() * 1e3).round() as i64);
            let found = pack.ask_at(COUNTS, &replaced, "aged", now).await;
            assert_eq!(found.len(), times.len());
            let of = |live: bool| -> Vec<&Value> {
                found.iter().zip(times).filter(|(row, _)| row["live"] == live).map(|(_, time)| time).collect()
            };
            answers.insert(id.clone(), json!({"valid": of(true), "expired": of(false)}));
        }
        tree.compare(&answers, &BTreeMap::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_reduce_events() {
    let pack = Pack::new(World::new().await).await;
    let columns = [
        ("host", "VARCHAR"),
        ("container", "VARCHAR"),
        ("resource", "VARCHAR"),
        ("time", "TIMESTAMP"),
        ("open", "BOOLEAN"),
        ("live", "BOOLEAN"),
        ("up", "DOUBLE"),
        ("down", "DOUBLE"),
    ];
    for tree in trees("reduce_events") {
        let mut answers: BTreeMap<String, Value> = BTreeMap::new();
        for cases in tree.cases.chunks(AT_ONCE / 10) {
            let mut rows = Vec::new();
            for Case { id, input, .. } in cases {
                answers.insert(id.clone(), json!({"counts": {}}));
                for event in input["events"].as_array().unwrap() {
                    let (up, down) = (number(&event["up"]), number(&event["down"]));
                    let name = quoted(resource(event["resource"].as_str().unwrap()));
                    let time = "to_timestamp_millis(0)";
                    rows.push(
                        ["'h'", &quoted(id), &name, time, "true", "true", &up, &down].map(str::to_owned).to_vec(),
                    );
                }
            }
            for row in pack.ask(COUNTS, &[("aged", values(&columns, &rows))], "counts").await {
                let name = original(row["resource"].as_str().unwrap());
                let answer = answers.get_mut(row["container"].as_str().unwrap()).unwrap();
                answer["counts"][name] = json!({"up": row["up"], "down": row["down"]});
            }
        }
        tree.compare(&answers, &BTreeMap::new());
    }
}
