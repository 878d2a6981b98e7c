//! `tidegate restore`: a new data directory from a backup.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use indicatif::HumanBytes;

use crate::progress::Progress;

#[derive(Args)]
pub struct RestoreArgs {
    /// The backup: a directory that `tidegate backup` wrote
    backup: PathBuf,
    /// The data directory to make; new or empty
    #[arg(long, value_name = "NEW_DATA_DIR")]
    dir: PathBuf,
}

/// Verifies the whole backup, then restores it.
pub fn run(args: RestoreArgs) -> Result<ExitCode> {
    if args.dir.is_dir() && std::fs::read_dir(&args.dir)?.flatten().any(|entry| entry.file_name() != "lost+found") {
        bail!("{} is not empty: choose a new or an empty directory", args.dir.display());
    }
    let progress = Progress::new();
    let report =
        tidegate_store::restore(&args.backup, &args.dir.join("store"), |done, all| progress.at("", done, all))?;
    drop(progress);
    println!(
        "{}: {} in {} files, as of {}",
        args.dir.display(),
        HumanBytes(report.bytes),
        report.files,
        report.created
    );
    println!("to serve it: tidegate serve --data-dir {}", args.dir.display());
    Ok(ExitCode::SUCCESS)
}
