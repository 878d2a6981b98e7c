//! Margins, the check of a state, and the adjustment of limits.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::cases::{Case, trees};
use super::settings::{original, resource};
use super::text::{AT_ONCE, Pack, number, quoted, text, values};
use crate::world::World;

const RULE: &str = "serverless_limits";

/// A row of `counted` in serverless_limits.
fn counted(container: &str, place: usize, name: &str, resources: &Value, limits: &Value) -> Vec<String> {
    let mut row = vec!["'h'".to_owned(), quoted(container), quoted(resource(name)), quoted(name), place.to_string()];
    row.extend([number(&limits["boundary"]), text(&limits["boundary_type"]), "true".to_owned()]);
    row.extend(["max", "current", "min"].map(|key| number(&resources[key])));
    row.extend(["upper", "lower"].map(|key| number(&limits[key])));
    row
}

fn table(rows: &[Vec<String>]) -> [(&'static str, String); 1] {
    let columns = [
        ("host", "VARCHAR"),
        ("container", "VARCHAR"),
        ("resource", "VARCHAR"),
        ("name", "VARCHAR"),
        ("place", "BIGINT"),
        ("boundary", "DOUBLE"),
        ("boundary_type", "VARCHAR"),
        ("compatible", "BOOLEAN"),
        ("max", "DOUBLE"),
        ("current", "DOUBLE"),
        ("min", "DOUBLE"),
        ("upper", "DOUBLE"),
        ("lower", "DOUBLE"),
    ];
    [("counted", values(&columns, rows))]
}

/// The margins of limits; null where the boundary's type is none.
pub async fn margins(pack: &Pack, rows: &[Vec<String>]) -> BTreeMap<(String, String), Value> {
    let answers = pack.ask(RULE, &table(rows), "margins").await;
    let stands = answers.into_iter().filter(|row| row["pass"] == 0.0);
    let key = |row: &super::text::Row| ["container", "resource"].map(|name| row[name].as_str().unwrap().to_owned());
    stands.map(|row| (key(&row).into(), row["margin"].clone())).collect()
}

/// Rows of `counted` for the limits of a case, of which the margins are asked.
pub fn of_case(case: &Case) -> Vec<Vec<String>> {
    let limits = case.input["limits"].as_object().unwrap();
    limits.iter().map(|(name, limits)| counted(&case.id, 0, name, &case.input["resources"][name], limits)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_margin() {
    let pack = Pack::new(World::new().await).await;
    for tree in trees("margin") {
        let mut answers = BTreeMap::new();
        for cases in tree.cases.chunks(AT_ONCE) {
            let rows: Vec<_> = cases.iter().map(|case| counted(&case.id, 0, "cpu", &case.input, &case.input)).collect();
            for ((id, _), margin) in margins(&pack, &rows).await {
                let error = json!({"error": "bad_boundary_type"});
                answers.insert(id, if margin.is_null() { error } else { json!({"margin": margin}) });
            }
        }
        tree.compare(&answers, &BTreeMap::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_check_state() {
    let pack = Pack::new(World::new().await).await;
    for tree in trees("check_state") {
        let mut answers = BTreeMap::new();
        for cases in tree.cases.chunks(AT_ONCE) {
            let row = |case: &Case| counted(&case.id, 0, "cpu", &case.input["resources"], &case.input["limits"]);
            let rows: Vec<_> = cases.iter().map(row).collect();
            for row in pack.ask(RULE, &table(&rows), "checked").await {
                if row["pass"] == 0.0 {
                    let failure = &row["failure"];
                    let answer = if failure.is_null() { json!({"ok": true}) } else { json!({"error": failure}) };
                    answers.insert(row["container"].as_str().unwrap().to_owned(), answer);
                }
            }
        }
        tree.compare(&answers, &BTreeMap::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_adjust_limits() {
    let pack = Pack::new(World::new().await).await;
    for tree in trees("adjust_limits") {
        let mut answers: BTreeMap<String, Value> = BTreeMap::new();
        for cases in tree.cases.chunks(AT_ONCE) {
            let mut rows = Vec::new();
            for Case { id, input, .. } in cases {
                answers.insert(id.clone(), json!({"resources": input["resources"], "limits": input["limits"]}));
                for (place, name) in input["adjust"].as_array().unwrap().iter().enumerate() {
                    let name = name.as_str().unwrap();
                    rows.push(counted(id, place, name, &input["resources"][name], &input["limits"][name]));
                }
            }
            for row in pack.ask(RULE, &table(&rows), "bands").await {
                let answer = answers.get_mut(row["container"].as_str().unwrap()).unwrap();
                let name = original(row["resource"].as_str().unwrap());
                for (part, key) in [("resources", "current"), ("limits", "upper"), ("limits", "lower")] {
                    if !row[key].is_null() && !answer[part][name].is_null() {
                        answer[part][name][key] = row[key].clone();
                    }
                }
                if answer["error"].is_null() && !row["error"].is_null() {
                    answer["error"] = row["error"].clone();
                }
            }
        }
        tree.compare(&answers, &BTreeMap::new());
    }
}
