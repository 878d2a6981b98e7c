//! `tidegate rule`: rule packs from files, and the rules of a running server.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidegate_model::Mode;
use tidegate_policy::{PACKS, PackSummary, pack};

use crate::client::{Client, OutputArgs, ServerArgs, describe, print_rows};
use crate::commands::report::read_rules;

#[derive(Subcommand)]
pub enum RuleCommand {
    /// Apply the rule statements of files, or of shipped packs by their names
    Apply(ApplyArgs),
    /// List the shipped packs, or print the text of one
    Packs(PacksArgs),
    /// List the rules with mode, last run and last error
    List(ListArgs),
    /// Print a rule as the statement that makes it
    Show(ShowArgs),
    /// List a rule's changes, newest first: when, what, and who made them
    Changes(ChangesArgs),
    /// Switch a rule's mode: off, shadow, 'canary 10 %' or on
    Set(SetArgs),
}

#[derive(Args)]
pub struct ApplyArgs {
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Check the statements and change nothing
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
pub struct PacksArgs {
    /// Print this one
    name: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
pub struct ListArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
pub struct ShowArgs {
    name: String,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
pub struct ChangesArgs {
    name: String,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
pub struct SetArgs {
    name: String,
    mode: Mode,
    #[command(flatten)]
    server: ServerArgs,
}

/// Carries out one of the subcommands.
pub fn run(command: RuleCommand) -> Result<ExitCode> {
    match command {
        RuleCommand::Apply(args) => apply(&args),
        RuleCommand::Packs(args) => packs(&args),
        RuleCommand::List(args) => list(&args),
        RuleCommand::Show(args) => show(&args),
        RuleCommand::Changes(args) => changes(&args),
        RuleCommand::Set(args) => set(&args),
    }
}

fn apply(args: &ApplyArgs) -> Result<ExitCode> {
    let client = Client::new(&args.server);
    for file in &args.files {
        let sql = read_rules(file)?;
        let named = || file.display().to_string();
        if args.check {
            let answer = client.post("/api/v1/rules/validate", &json!({ "sql": sql })).with_context(named)?;
            if answer["ok"] != true {
                bail!("{}: {}", file.display(), describe(&answer["error"]));
            }
            println!("{}: ok", file.display());
            continue;
        }
        let answer = client.post("/api/v1/rules", &json!({ "sql": sql })).with_context(named)?;
        for result in answer["results"].as_array().into_iter().flatten() {
            println!("{}", result["message"].as_str().unwrap_or_default());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn packs(args: &PacksArgs) -> Result<ExitCode> {
    const COLUMNS: [&str; 3] = ["name", "rules", "summary"];
    if let Some(name) = &args.name {
        let found = pack(name).with_context(|| format!("no pack '{name}'; `tidegate rule packs` lists them"))?;
        print!("{}", found.sql);
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<Value>> = PACKS
        .iter()
        .map(|pack| {
            let PackSummary { name, summary, rules, .. } = pack.summary();
            vec![json!(name), json!(rules.join(", ")), json!(summary)]
        })
        .collect();
    print_rows(&COLUMNS.map(str::to_owned), &rows, args.output.output)?;
    Ok(ExitCode::SUCCESS)
}

fn list(args: &ListArgs) -> Result<ExitCode> {
    const COLUMNS: [&str; 8] =
        ["name", "version", "mode", "class", "every_ms", "last_latency_ms", "last_error", "note"];
    let answer = Client::new(&args.server).get("/api/v1/rules")?;
    let rows: Vec<Vec<Value>> = answer["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|rule| COLUMNS.iter().map(|column| rule[*column].clone()).collect())
        .collect();
    print_rows(&COLUMNS.map(str::to_owned), &rows, args.output.output)?;
    Ok(ExitCode::SUCCESS)
}

fn show(args: &ShowArgs) -> Result<ExitCode> {
    let answer = Client::new(&args.server).get("/api/v1/rules")?;
    let rules = answer["rules"].as_array().cloned().unwrap_or_default();
    match rules.iter().find(|rule| rule["name"] == args.name.as_str()) {
        Some(rule) => {
            println!("{}", rule["sql"].as_str().unwrap_or_default());
            Ok(ExitCode::SUCCESS)
        }
        None => bail!("no rule '{}'; `tidegate rule list` shows those there are", args.name),
    }
}

fn changes(args: &ChangesArgs) -> Result<ExitCode> {
    const COLUMNS: [&str; 7] = ["time", "change", "version", "mode", "changed_by", "note", "sql"];
    let answer = Client::new(&args.server).get(&path(&args.name, "changes")?)?;
    let rows: Vec<Vec<Value>> = answer["changes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|change| {
            let time = change["time"].as_u64().map(|ms| UNIX_EPOCH + Duration::from_millis(ms));
            let time = time.map(|time| humantime::format_rfc3339_millis(time).to_string());
            let rest = COLUMNS.iter().skip(1).map(|column| change[*column].clone());
            std::iter::once(Value::from(time)).chain(rest).collect()
        })
        .collect();
    print_rows(&COLUMNS.map(str::to_owned), &rows, args.output.output)?;
    Ok(ExitCode::SUCCESS)
}

/// A path below a rule. The name goes into it, so only what can be a rule's name is let through.
fn path(name: &str, below: &str) -> Result<String> {
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        bail!("'{name}' is no rule's name: letters, digits and underscores");
    }
    Ok(format!("/api/v1/rules/{name}/{below}"))
}

fn set(args: &SetArgs) -> Result<ExitCode> {
    let path = path(&args.name, "mode")?;
    Client::new(&args.server).post(&path, &json!({ "mode": args.mode }))?;
    println!("{} is {}", args.name, args.mode);
    Ok(ExitCode::SUCCESS)
}
