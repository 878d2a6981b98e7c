//! From the reference's rule configurations to the settings that stand at the top of the pack's rules.

use serde_json::Value;

use super::text::{number, text};

/// How rows become a table expression.
type Table = fn(&[(&str, &str)], &[Vec<String>]) -> String;

/// The resource as Tidegate names it; others keep their name.
pub fn resource(name: &str) -> &str {
    if name == "mem" { "memory" } else { name }
}

/// The resource as the reference names it.
pub fn original(resource: &str) -> &str {
    if resource == "memory" { "mem" } else { resource }
}

/// The rules of a set in their order, each with its place.
fn rules(rulesets: &Value, name: &str) -> Vec<(usize, Value)> {
    let overrides = rulesets["overrides"].get(name).unwrap_or_else(|| panic!("no rule set {name}"));
    let mut rules: Vec<Value> = rulesets["default"].as_array().unwrap().clone();
    for rule in &mut rules {
        let rule = rule.as_object_mut().unwrap();
        let Some(changed) = overrides.get(rule["name"].as_str().unwrap()) else { continue };
        for (key, value) in changed.as_object().unwrap() {
            match (key.as_str(), value.as_str()) {
                ("drop", Some(key)) => drop(rule.remove(key.strip_prefix("rescale_").unwrap_or(key))),
                _ => drop(rule.insert(key.clone(), value.clone())),
            }
        }
    }
    rules.into_iter().enumerate().collect()
}

fn of_kind(rulesets: &Value, name: &str, kind: &str, row: fn(usize, &Value) -> Vec<String>) -> Vec<Vec<String>> {
    let rules = rules(rulesets, name);
    rules.iter().filter(|(_, rule)| rule["kind"] == kind).map(|(place, rule)| row(*place, rule)).collect()
}

fn name_of(rule: &Value) -> String {
    format!("'{}'", resource(rule["resource"].as_str().unwrap()))
}

fn flag(value: &Value) -> String {
    value.as_bool().unwrap_or(false).to_string()
}

/// `settings` of serverless_events.
pub fn events(rulesets: &Value, name: &str, table: Table) -> String {
    let rows = of_kind(rulesets, name, "event", |place, rule| {
        let mut row = vec![place.to_string(), name_of(rule), text(&rule["test"]), number(&rule["up"])];
        row.extend([number(&rule["down"]), flag(&rule["zero_counts"]), flag(&rule["active"])]);
        row
    });
    let columns = [
        ("place", "BIGINT"),
        ("resource", "VARCHAR"),
        ("test", "VARCHAR"),
        ("up", "DOUBLE"),
        ("down", "DOUBLE"),
        ("zero_counts", "BOOLEAN"),
        ("active", "BOOLEAN"),
    ];
    table(&columns, &rows)
}

/// `requests` of serverless_scale.
pub fn requests(rulesets: &Value, name: &str, table: Table) -> String {
    let rows = of_kind(rulesets, name, "request", |place, rule| {
        let mut row = vec![place.to_string(), name_of(rule), text(&rule["type"]), text(&rule["policy"])];
        row.extend(["amount", "min_up", "max_up", "min_down", "max_down", "remove"].map(|key| number(&rule[key])));
        row.push(flag(&rule["active"]));
        row
    });
    let columns = [
        ("place", "BIGINT"),
        ("resource", "VARCHAR"),
        ("direction", "VARCHAR"),
        ("policy", "VARCHAR"),
        ("amount", "DOUBLE"),
        ("min_up", "DOUBLE"),
        ("max_up", "DOUBLE"),
        ("min_down", "DOUBLE"),
        ("max_down", "DOUBLE"),
        ("removes", "DOUBLE"),
        ("active", "BOOLEAN"),
    ];
    table(&columns, &rows)
}
