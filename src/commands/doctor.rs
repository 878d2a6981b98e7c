//! `tidegate doctor`: what was found on this machine, and what to do about what is missing.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tidegate_actuator::{FindingStatus, inspect};

use crate::client::{OutputArgs, print_rows};

#[derive(Args)]
pub struct DoctorArgs {
    /// Where cgroups are mounted
    #[arg(long, default_value = "/sys/fs/cgroup")]
    mount: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints the findings; exit code 1 when something that scaling needs is missing.
pub fn run(args: DoctorArgs) -> Result<ExitCode> {
    let report = inspect(&args.mount);
    let rows: Vec<_> =
        report.findings.iter().map(|f| vec![json!(f.status), json!(f.name), json!(f.detail), json!(f.next)]).collect();
    let columns = ["status", "what", "found", "next step"].map(str::to_owned);
    print_rows(&columns, &rows, args.output.output)?;
    let missing = report.findings.iter().any(|finding| finding.status == FindingStatus::Missing);
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
