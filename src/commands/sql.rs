//! `tidegate sql`: one query, or what standard input says.

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::client::{Client, OutputArgs, ServerArgs, print_rows};

#[derive(Args)]
pub struct SqlArgs {
    /// A query, or rule statements; `-` reads standard input
    sql: String,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints the rows, or what each statement did.
pub fn run(args: SqlArgs) -> Result<ExitCode> {
    let sql = match args.sql.as_str() {
        "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input")?;
            text
        }
        sql => sql.to_owned(),
    };
    let answer = Client::new(&args.server).sql(&sql)?;
    if let Some(results) = answer["results"].as_array() {
        for result in results {
            println!("{}", result["message"].as_str().unwrap_or_default());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let columns: Vec<String> =
        members(&answer["columns"]).map(|c| c["name"].as_str().unwrap_or_default().to_owned()).collect();
    let rows: Vec<Vec<Value>> = members(&answer["rows"]).map(|row| members(row).cloned().collect()).collect();
    print_rows(&columns, &rows, args.output.output)?;
    if answer["truncated"] == true {
        eprintln!("tidegate: only the first {} rows; add a LIMIT or a WHERE", rows.len());
    }
    Ok(ExitCode::SUCCESS)
}

fn members(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
