//! `tidegate adopt`: a limit that somebody else has set is changed again.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::client::{Client, ServerArgs, segment};

#[derive(Args)]
pub struct AdoptArgs {
    /// The container's host
    host: String,
    /// The container
    container: String,
    /// cpu or memory
    resource: String,
    #[command(flatten)]
    server: ServerArgs,
}

/// Says what stands there.
pub fn run(args: AdoptArgs) -> Result<ExitCode> {
    let path = format!("/api/v1/containers/{}/{}/adopt", segment(&args.host), segment(&args.container));
    let answer = Client::new(&args.server).post(&path, &json!({ "resource": args.resource }))?;
    println!("{}", answer["outcome"]["message"].as_str().unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}
