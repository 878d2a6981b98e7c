//! `tidegate freeze` and `tidegate thaw`: the kill switch of a running server.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::client::{Client, ServerArgs};

#[derive(Args)]
pub struct FreezeArgs {
    /// Put all limits back to what they were when their containers were first seen
    #[arg(long)]
    restore: bool,
    /// What for; kept with the switch and shown
    #[arg(long, default_value = "", hide_default_value = true)]
    why: String,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
pub struct ThawArgs {
    #[command(flatten)]
    server: ServerArgs,
}

/// Exit code 1 when a baseline could not be put back; the switch is on all the same.
pub fn freeze(args: FreezeArgs) -> Result<ExitCode> {
    let body = json!({ "restore": args.restore, "why": args.why });
    // Memory that is to be put back may have to be squeezed first.
    let answer = Client::patient(&args.server).post("/api/v1/freeze", &body)?;
    println!("frozen: no limit is changed until `tidegate thaw`, also after a restart");
    if args.restore {
        println!("{} baselines put back, {} stood there already", answer["restored"], answer["unchanged"]);
    }
    let failed = answer["failed"].as_array().map(Vec::as_slice).unwrap_or_default();
    for failure in failed {
        eprintln!("tidegate: not put back: {}", failure.as_str().unwrap_or_default());
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says whether the switch was on.
pub fn thaw(args: ThawArgs) -> Result<ExitCode> {
    let answer = Client::new(&args.server).delete("/api/v1/freeze")?;
    match answer["was_frozen"] == true {
        true => println!("thawed: rules change limits again"),
        false => println!("it was not frozen"),
    }
    Ok(ExitCode::SUCCESS)
}
