//! `tidegate explain`: one decision, with all that went into it and what followed.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;

use crate::client::{Client, Output, OutputArgs, ServerArgs, print_rows};

#[derive(Args)]
pub struct ExplainArgs {
    /// The decision's id, as `tidegate sql "SELECT id, reason FROM decisions"` and the dashboard show it
    id: String,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints the sentence, the guards' arithmetic, what the rule saw, what was written, and the minute behind it. As JSON the
/// whole answer of the server, as CSV the guards.
pub fn run(args: ExplainArgs) -> Result<ExitCode> {
    // The id goes into a path, so only what can be one is let through.
    if args.id.is_empty() || !args.id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        bail!("'{}' is no decision's id: digits, a dash, hexadecimal digits", args.id);
    }
    let answer = Client::new(&args.server).get(&format!("/api/v1/decisions/{}/explain", args.id))?;
    let mut out = std::io::stdout();
    match args.output.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?,
        Output::Csv => guards(&answer, Output::Csv)?,
        Output::Table => {
            writeln!(out, "{}", text(&answer["sentence"]))?;
            section("guards")?;
            guards(&answer, Output::Table)?;
            section("what the rule saw")?;
            members(&answer["decision"]["inputs"])?;
            let writes = answer["decision"]["outcome"]["writes"].as_array().map(Vec::as_slice).unwrap_or_default();
            if !writes.is_empty() {
                section("written")?;
            }
            for write in writes {
                writeln!(out, "{} = {}", text(&write["target"]), text(&write["value"]))?;
            }
            if answer["after"].is_object() {
                section("the minute behind it")?;
                members(&answer["after"])?;
            }
            section("the rule")?;
            let rule = answer["rule_sql"].as_str().unwrap_or("it has changed since, or is gone");
            writeln!(out, "{rule}")?;
            if let Some(query) = answer["query_as_of"].as_str() {
                section("to look at what there was then (tidegate sql)")?;
                writeln!(out, "{query}")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn section(title: &str) -> Result<()> {
    writeln!(std::io::stdout(), "\n{title}:")?;
    Ok(())
}

fn guards(answer: &Value, output: Output) -> Result<()> {
    const COLUMNS: [&str; 5] = ["guard", "action", "before", "after", "why"];
    let guards = answer["decision"]["guards"].as_array().into_iter().flatten();
    let rows: Vec<Vec<Value>> =
        guards.map(|guard| COLUMNS.iter().map(|column| guard[*column].clone()).collect()).collect();
    print_rows(&COLUMNS.map(str::to_owned), &rows, output)
}

fn members(object: &Value) -> Result<()> {
    for (name, value) in object.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        writeln!(std::io::stdout(), "{name:16} {}", text(value))?;
    }
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
