//! Amounts, what becomes of them, what a request is called, and which requests events make.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::cases::{Case, trees};
use super::limits;
use super::settings::{self, original, resource};
use super::text::{AT_ONCE, Pack, number, quoted, values};
use crate::world::World;

const RULE: &str = "serverless_scale";

/// Columns of `fired`, of which a case gives some.
const FIRED: [(&str, &str); 20] = [
    ("host", "VARCHAR"),
    ("container", "VARCHAR"),
    ("resource", "VARCHAR"),
    ("name", "VARCHAR"),
    ("compatible", "BOOLEAN"),
    ("place", "BIGINT"),
    ("direction", "VARCHAR"),
    ("policy", "VARCHAR"),
    ("removes", "DOUBLE"),
    ("usage", "DOUBLE"),
    ("peak", "DOUBLE"),
    ("current", "DOUBLE"),
    ("min", "DOUBLE"),
    ("max", "DOUBLE"),
    ("upper", "DOUBLE"),
    ("lower", "DOUBLE"),
    ("margin", "DOUBLE"),
    ("amount", "DOUBLE"),
    ("up", "DOUBLE"),
    ("down", "DOUBLE"),
];
/// What `wanted` and `trimmed` have more.
const WANTED: [(&str, &str); 2] = [("raw", "DOUBLE"), ("event", "VARCHAR")];
const TRIMMED: (&str, &str) = ("change", "DOUBLE");

/// A row in which only some columns matter.
fn row(columns: &[(&str, &str)], id: &str, name: &str, given: &[(&str, String)]) -> Vec<String> {
    let cell = |(column, kind): &(&str, &str)| {
        let given = given.iter().find(|(name, _)| name == column).map(|(_, value)| value.clone());
        given.unwrap_or_else(|| match (*column, *kind) {
            ("host", _) => "'h'".to_owned(),
            ("container", _) => quoted(id),
            ("resource", _) => quoted(resource(name)),
            ("name", _) => quoted(name),
            ("compatible", _) => "true".to_owned(),
            ("direction", _) => "'up'".to_owned(),
            ("policy", _) => "'amount'".to_owned(),
            (_, "BOOLEAN") => "false".to_owned(),
            (_, "VARCHAR") => "'x'".to_owned(),
            _ => "1".to_owned(),
        })
    };
    columns.iter().map(cell).collect()
}

pub fn fired(id: &str, name: &str, given: &[(&str, String)]) -> Vec<String> {
    row(&FIRED, id, name, given)
}

pub fn fired_table(rows: &[Vec<String>]) -> (&'static str, String) {
    ("fired", values(&FIRED, rows))
}

fn wanted_columns() -> Vec<(&'static str, &'static str)> {
    FIRED.into_iter().chain(WANTED).collect()
}

fn trimmed_columns() -> Vec<(&'static str, &'static str)> {
    wanted_columns().into_iter().chain([TRIMMED]).collect()
}

/// Answers to cases that are one row each: `ask` makes it, `answer` reads it.
async fn one_row_each(
    kind: &str,
    replaced: &'static str,
    columns: &[(&str, &str)],
    asked: &str,
    ask: impl Fn(&Case) -> Vec<String>,
    answer: impl Fn(&Value) -> Value,
    column: &str,
) {
    let pack = Pack::new(World::new().await).await;
    for tree in trees(kind) {
        let mut answers = BTreeMap::new();
        for cases in tree.cases.chunks(AT_ONCE) {
            let rows: Vec<_> = cases.iter().map(&ask).collect();
            for row in pack.ask(RULE, &[(replaced, values(columns, &rows))], asked).await {
                answers.insert(row["container"].as_str().unwrap().to_owned(), answer(&row[column]));
            }
        }
        tree.compare(&answers, &BTreeMap::new());
    }
}

fn numbers(case: &Case, names: &[&'static str]) -> Vec<(&'static str, String)> {
    names.iter().map(|name| (*name, number(&case.input[name]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_fit_to_usage() {
    let ask = |case: &Case| {
        let mut given = numbers(case, &["current", "margin", "usage"]);
        given.push(("policy", "'fit_to_usage'".to_owned()));
        fired(&case.id, "cpu", &given)
    };
    let answer = |amount: &Value| json!({"amount": amount});
    one_row_each("fit_to_usage", "fired", &FIRED, "wanted", ask, answer, "raw").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_adjust_amount() {
    let ask = |case: &Case| {
        let mut given = numbers(case, &["max", "current", "min", "lower"]);
        given.push(("raw", number(&case.input["amount"])));
        row(&wanted_columns(), &case.id, "cpu", &given)
    };
    let answer = |amount: &Value| json!({"amount": amount});
    one_row_each("adjust_amount", "wanted", &wanted_columns(), "trimmed", ask, answer, "change").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_request_name() {
    let ask = |case: &Case| {
        let name = case.input["resource"].as_str().unwrap();
        row(&trimmed_columns(), &case.id, name, &[("change", number(&case.input["amount"]))])
    };
    let answer = |action: &Value| match action {
        Value::Null => json!({"error": "invalid_amount"}),
        action => json!({"name": action}),
    };
    one_row_each("request_name", "trimmed", &trimmed_columns(), "asked", ask, answer, "action").await;
}

/// The tables `counted` and `counts` of serverless_scale for some cases.
async fn tables(pack: &Pack, cases: &[&Case]) -> [(&'static str, String); 2] {
    let limits: Vec<_> = cases.iter().flat_map(|case| limits::of_case(case)).collect();
    let margins = limits::margins(pack, &limits).await;
    let (mut counted, mut counts) = (Vec::new(), Vec::new());
    for Case { id, input, .. } in cases {
        for (name, events) in input["events"].as_object().unwrap() {
            let sums = [number(&events["up"]), number(&events["down"])];
            let mut row = vec!["'h'".to_owned(), quoted(id), quoted(resource(name))];
            row.extend(sums.iter().chain(&sums).cloned().chain(["0", "0"].map(str::to_owned)));
            counts.push(row);
        }
        for (name, resources) in input["resources"].as_object().unwrap() {
            let (limits, usage) = (&input["limits"][name], number(&input["usages"][name]));
            let margin = margins.get(&(id.clone(), resource(name).to_owned())).unwrap_or(&Value::Null);
            let mut row = ["'h'", &quoted(id), &quoted(resource(name)), &quoted(name), "'x'", "1", "true"]
                .map(str::to_owned)
                .to_vec();
            row.extend([usage.clone(), usage, number(&resources["current"])]);
            row.extend(["current", "min", "max"].map(|key| number(&resources[key])));
            row.extend([number(&limits["upper"]), number(&limits["lower"]), number(margin)]);
            counted.push(row);
        }
    }
    let key = [("host", "VARCHAR"), ("container", "VARCHAR"), ("resource", "VARCHAR")];
    let numbers = |names: &[&'static str]| names.iter().map(|name| (*name, "DOUBLE")).collect::<Vec<_>>();
    let of_counts = numbers(&["up", "down", "up_run", "down_run", "up_ended", "down_ended"]);
    let words = [("name", "VARCHAR"), ("label", "VARCHAR"), ("unit", "DOUBLE"), ("compatible", "BOOLEAN")];
    let of_limits = numbers(&["usage", "peak", "stored", "current", "min", "max", "upper", "lower", "margin"]);
    let counts_columns: Vec<_> = key.into_iter().chain(of_counts).collect();
    let counted_columns: Vec<_> = key.into_iter().chain(words).chain(of_limits).collect();
    [("counts", values(&counts_columns, &counts)), ("counted", values(&counted_columns, &counted))]
}

/// Requests are always about `current`, of priority 0 and of the type that the case has: Tidegate has no words for these.
#[tokio::test(flavor = "multi_thread")]
async fn conformance_match_requests() {
    let pack = Pack::new(World::new().await).await;
    for tree in trees("match_requests") {
        let mut answers: BTreeMap<String, Value> = BTreeMap::new();
        let mut by_rules: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
        for case in &tree.cases {
            by_rules.entry(case.input["ruleset"].as_str().unwrap()).or_default().push(case);
            answers.insert(case.id.clone(), json!({"requests": [], "remove": {}}));
        }
        let subtypes: BTreeMap<&str, &Value> =
            tree.cases.iter().map(|case| (case.id.as_str(), &case.input["subtype"])).collect();
        for (rules, cases) in by_rules {
            for cases in cases.chunks(AT_ONCE / 2) {
                let [counts, counted] = tables(&pack, cases).await;
                let replaced = [("requests", settings::requests(&tree.rulesets, rules, values)), counts, counted];
                for row in pack.ask(RULE, &replaced, "asked").await {
                    let id = row["container"].as_str().unwrap();
                    if row["change"].as_f64().is_some_and(|change| change != 0.0) {
                        let requests = answers.get_mut(id).unwrap()["requests"].as_array_mut().unwrap();
                        requests.push(json!({
                            "resource": original(row["resource"].as_str().unwrap()), "amount": row["change"],
                            "action": row["action"], "field": "current", "priority": 0, "structure_type": subtypes[id],
                        }));
                    }
                }
                for row in pack.ask(RULE, &replaced, "decided").await {
                    let answer = answers.get_mut(row["container"].as_str().unwrap()).unwrap();
                    match &row["error"] {
                        Value::Null => {
                            if let (None, Some(event)) = (answer.get("error"), row["event"].as_str()) {
                                answer["remove"][event] = row["removes"].clone();
                            }
                        }
                        error => *answer = json!({"error": error}),
                    }
                }
            }
        }
        tree.compare(&answers, &BTreeMap::new());
    }
}
