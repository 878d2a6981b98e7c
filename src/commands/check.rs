//! `tidegate check`: whether every byte of a store, or of a backup, is what was written.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use indicatif::HumanBytes;
use serde_json::{Value, json};
use tidegate_store::{CheckReport, FindingStatus};

use crate::client::{Output, OutputArgs, print_rows};
use crate::config::Config;
use crate::progress::Progress;
use crate::settings::Given;

#[derive(Args)]
pub struct CheckArgs {
    /// A data directory or a backup [default: the configured data directory]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The configuration file that names the data directory
    #[arg(long, env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Print only what is not as it should be
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints a line a file; exit code 1 when something is damaged or missing. Reads only.
pub fn run(args: CheckArgs) -> Result<ExitCode> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => Config::load(args.config.as_deref(), &Given::default())?.store.dir,
    };
    let progress = Progress::new();
    let report = tidegate_store::check(&dir, |file, done, all| progress.at(file, done, all))?;
    drop(progress);
    if let Some(holder) = &report.in_use {
        eprintln!(
            "tidegate: {} is in use by a running server{holder}: what it is writing right now is not judged; `tidegate \
             backup` makes a copy that can be checked as a whole",
            report.dir.display()
        );
    }
    let columns = ["status", "file", "offset", "bytes", "found", "lost"].map(str::to_owned);
    print_rows(&columns, &rows(&report, args.quiet), args.output.output)?;
    if args.output.output == Output::Table {
        print_summary(&report);
    }
    Ok(if report.is_intact() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn rows(report: &CheckReport, quiet: bool) -> Vec<Vec<Value>> {
    let shown = report.findings.iter().filter(|finding| !quiet || finding.status != FindingStatus::Ok);
    shown
        .map(|f| vec![json!(f.status), json!(f.file), json!(f.offset), json!(f.bytes), json!(f.found), json!(f.lost)])
        .collect()
}

fn print_summary(report: &CheckReport) {
    let bytes: u64 = report.findings.iter().filter(|f| f.status == FindingStatus::Ok).map(|f| f.bytes).sum();
    if report.is_intact() {
        println!("\n{}: intact, {} read", report.dir.display(), HumanBytes(bytes));
    } else if report.backup {
        println!("\n{}: damaged; it cannot be restored, take another backup", report.dir.display());
    } else {
        println!(
            "\n{}: damaged. A damaged segment costs only the rows named above: move its file away to go on without them, or \
             restore a backup with `tidegate restore`",
            report.dir.display()
        );
    }
}
