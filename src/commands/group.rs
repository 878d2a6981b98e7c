//! `tidegate group`: apps and users of a running server, and what their containers may have together.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidegate_model::{GroupKind, Resource};

use crate::client::{Client, OutputArgs, ServerArgs, print_rows};

#[derive(Subcommand)]
pub enum GroupCommand {
    /// List apps and users: members, usage, the sum of their limits, and the bounds of that
    List(ListArgs),
    /// Say what the limits of a group's containers may add up to
    Set(SetArgs),
    /// Take all bounds of a group away
    Clear(ClearArgs),
}

#[derive(Args)]
pub struct ListArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
pub struct SetArgs {
    /// `app` or `user`
    kind: GroupKind,
    name: String,
    /// `cpu` or `memory`
    resource: Resource,
    /// Least sum, in cores or bytes; none if left out
    #[arg(long)]
    min: Option<f64>,
    /// Largest sum, in cores or bytes; none if left out
    #[arg(long)]
    max: Option<f64>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
pub struct ClearArgs {
    /// `app` or `user`
    kind: GroupKind,
    name: String,
    #[command(flatten)]
    server: ServerArgs,
}

/// Carries out one of the subcommands.
pub fn run(command: GroupCommand) -> Result<ExitCode> {
    match command {
        GroupCommand::List(args) => list(&args),
        GroupCommand::Set(args) => set(&args),
        GroupCommand::Clear(args) => clear(&args),
    }
}

fn list(args: &ListArgs) -> Result<ExitCode> {
    const COLUMNS: [&str; 11] = [
        "kind",
        "name",
        "user_name",
        "resource",
        "members",
        "members_reporting",
        "usage",
        "allocated",
        "min",
        "max",
        "missing",
    ];
    let answer = Client::new(&args.server).get("/api/v1/groups")?;
    let rows: Vec<Vec<Value>> = answer["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|group| COLUMNS.iter().map(|column| group[*column].clone()).collect())
        .collect();
    print_rows(&COLUMNS.map(str::to_owned), &rows, args.output.output)?;
    Ok(ExitCode::SUCCESS)
}

fn set(args: &SetArgs) -> Result<ExitCode> {
    let SetArgs { kind, name, resource, min, max, server } = args;
    let body = json!({ "resource": resource, "min": min, "max": max });
    Client::new(server).post(&path(*kind, name), &body)?;
    let shown = |end: &Option<f64>| end.map_or_else(|| "unbounded".to_owned(), |end| resource.display(end));
    println!("{resource} of {kind} {name}: min {}, max {}", shown(min), shown(max));
    Ok(ExitCode::SUCCESS)
}

fn clear(args: &ClearArgs) -> Result<ExitCode> {
    let answer = Client::new(&args.server).delete(&path(args.kind, &args.name))?;
    match answer["was_bounded"] == true {
        true => println!("{} {} is not bounded any more", args.kind, args.name),
        false => println!("{} {} was not bounded", args.kind, args.name),
    }
    Ok(ExitCode::SUCCESS)
}

/// Any text can be a group's name, so what means something in a path is written in hexadecimal.
fn path(kind: GroupKind, name: &str) -> String {
    let mut path = format!("/api/v1/groups/{kind}/");
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => path.push(char::from(byte)),
            other => path.push_str(&format!("%{other:02X}")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_segment_of_the_path_whatever_is_in_it() {
        assert_eq!(path(GroupKind::App, "a/b ?é-1"), "/api/v1/groups/app/a%2Fb%20%3F%C3%A9-1");
    }
}
