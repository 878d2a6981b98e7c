//! Printing what a backtest came to.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::client::{Output, print_rows};

/// How many limits are listed in a table; JSON and CSV have all.
const LISTED: usize = 10;

/// A figure: its key, what it is called, and how it is shown.
type Figure = (&'static str, &'static str, fn(f64) -> String);

const FIGURES: [Figure; 9] = [
    ("slack", "slack", percent),
    ("utilisation", "used of allocated", percent),
    ("over_limit", "over the limit", percent),
    ("unmet", "unmet demand", percent),
    ("throttled_s", "throttled, s", plain),
    ("oom_kills_per_day", "OOM kills a container and day", plain),
    ("changes", "changes", plain),
    ("changes_per_day", "changes a container and day", plain),
    ("flaps", "flaps", plain),
];

/// Of those, what is put beside others.
const TOGETHER: [&str; 5] = ["slack", "over_limit", "unmet", "oom_kills_per_day", "changes_per_day"];

/// The texts of files, one after the other.
pub fn read_all(files: &[PathBuf]) -> Result<String> {
    let mut all = String::new();
    for file in files {
        all += &read_rules(file)?;
        all += "\n";
    }
    Ok(all)
}

/// The rule statements of a file or, where there is no file of that name, of the shipped pack that is called so.
///
/// # Errors
/// There is neither.
pub fn read_rules(file: &Path) -> Result<String> {
    let shipped = file.to_str().and_then(tidegate_policy::pack).filter(|_| !file.exists());
    match shipped {
        Some(pack) => Ok(pack.sql.to_owned()),
        None => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// The figures that only mean something together, of one resource: what lies idle, what is missing, how restless it is.
pub fn score(kind: &str, name: &str, resource: &str, figures: &Value) -> Value {
    let mut score = json!({ "resource": resource, "kind": kind, "name": name });
    for key in TOGETHER {
        score[key] = figures[key].clone();
    }
    score
}

/// The same of each resource of a report.
pub fn scores(kind: &str, name: &str, resources: &Value) -> Vec<Value> {
    let resources = resources.as_object().into_iter().flatten();
    resources.map(|(resource, figures)| score(kind, name, resource, figures)).collect()
}

/// Prints an answer with `report` and, if there is one, `against`, whose name is given.
///
/// # Errors
/// Standard output is closed.
pub fn print(answer: &Value, against: &str, output: Output) -> Result<()> {
    match output {
        Output::Json => writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(answer)?)?,
        Output::Csv if answer["beside"].is_array() => beside(answer, Output::Csv)?,
        Output::Csv => limits(answer, Output::Csv)?,
        Output::Table => tables(answer, against)?,
    }
    Ok(())
}

fn tables(answer: &Value, against: &str) -> Result<()> {
    let report = &answer["report"];
    let span = (report["to"].as_f64().unwrap_or(0.0) - report["from"].as_f64().unwrap_or(0.0)) / 1e3;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} containers, {}, {} instants in {:.1} s",
        report["containers"],
        humantime::format_duration(std::time::Duration::from_secs(span as u64)),
        report["ticks"],
        report["took_ms"].as_f64().unwrap_or(0.0) / 1e3
    )?;
    writeln!(out, "\n{}", comparison(answer, against))?;
    writeln!(out, "\n{}", rules(report))?;
    drop(out);
    if answer["beside"].is_array() {
        writeln!(std::io::stdout(), "\nbeside others on the same trace:")?;
        beside(answer, Output::Table)?;
    }
    let heading = format!("\nthe {LISTED} limits with most unmet demand (--output json or csv has all):");
    writeln!(std::io::stdout(), "{heading}")?;
    limits(answer, Output::Table)?;
    for problem in report["problems"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        writeln!(std::io::stdout(), "\nnote: {problem}")?;
    }
    Ok(())
}

fn comparison(answer: &Value, against: &str) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["", "", "rules", against, "difference"]);
    for resource in ["cpu", "memory"] {
        let of = |which: &str, key: &str| answer[which]["resources"][resource][key].as_f64();
        for (key, name, show) in FIGURES {
            let Some(ours) = of("report", key) else { continue };
            let theirs = of("against", key);
            let text = |value: Option<f64>| value.map_or_else(String::new, show);
            let difference = theirs.map_or_else(String::new, |theirs| {
                let difference = ours - theirs;
                let sign = if difference > 0.0 { "+" } else { "" };
                format!("{sign}{}", show(difference))
            });
            table.add_row([resource.to_owned(), name.to_owned(), show(ours), text(theirs), difference]);
        }
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn rules(report: &Value) -> Table {
    const COLUMNS: [&str; 6] = ["rule", "runs", "proposals", "applied", "refused", "errors"];
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(COLUMNS.into_iter().chain([
        "mean ms",
        "guards that acted",
        "last error",
    ]));
    for rule in report["rules"].as_array().into_iter().flatten() {
        let text = |key: &str| match &rule[key] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let guards = rule["guards"].as_object().into_iter().flatten();
        let guards: Vec<String> = guards.map(|(guard, times)| format!("{guard} {times}")).collect();
        let mean = format!("{:.2}", rule["mean_ms"].as_f64().unwrap_or(0.0));
        table.add_row(COLUMNS.map(text).into_iter().chain([mean, guards.join(", "), text("last_error")]));
    }
    table
}

/// Those who were played the same trace, resource by resource.
fn beside(answer: &Value, output: Output) -> Result<()> {
    let mut scores: Vec<&Value> = answer["beside"].as_array().into_iter().flatten().collect();
    scores.sort_by_key(|score| score["resource"].as_str()); // stable: within a resource as they were played
    let columns = ["resource", "kind", "name"].into_iter().chain(TOGETHER);
    let shown = |score: &Value, key: &str| {
        let figure = FIGURES.iter().find(|(known, ..)| *known == key);
        match (figure, score[key].as_f64()) {
            (Some((_, _, show)), Some(number)) if output == Output::Table => Value::String(show(number)),
            _ => score[key].clone(),
        }
    };
    let rows: Vec<Vec<Value>> =
        scores.iter().map(|score| columns.clone().map(|column| shown(score, column)).collect()).collect();
    let names = columns.clone().map(|column| match output {
        Output::Table => FIGURES.iter().find(|(known, ..)| *known == column).map_or(column, |(_, name, _)| name),
        _ => column,
    });
    print_rows(&names.map(str::to_owned).collect::<Vec<_>>(), &rows, output)
}

fn limits(answer: &Value, output: Output) -> Result<()> {
    const COLUMNS: [&str; 12] = [
        "host",
        "container",
        "resource",
        "slack",
        "utilisation",
        "over_limit",
        "unmet",
        "throttled_s",
        "oom_kills",
        "changes",
        "flaps",
        "mean_limit",
    ];
    let mut limits: Vec<&Value> = answer["report"]["limits"].as_array().into_iter().flatten().collect();
    if output == Output::Table {
        let unmet = |limit: &Value| limit["unmet"].as_f64().unwrap_or(0.0);
        limits.sort_by(|a, b| unmet(b).total_cmp(&unmet(a)));
        limits.truncate(LISTED);
    }
    let shown = |value: &Value| match value.as_f64() {
        Some(number) if output == Output::Table && value.is_f64() => Value::String(format!("{number:.4}")),
        _ => value.clone(),
    };
    let rows: Vec<Vec<Value>> =
        limits.iter().map(|limit| COLUMNS.iter().map(|column| shown(&limit[*column])).collect()).collect();
    print_rows(&COLUMNS.map(str::to_owned), &rows, output)
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

fn plain(number: f64) -> String {
    if number.fract() == 0.0 { format!("{number:.0}") } else { format!("{number:.2}") }
}
