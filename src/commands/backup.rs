//! `tidegate backup`: everything that a server stores, into a directory.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use indicatif::HumanBytes;
use tidegate_model::{Clock, SystemClock};
use tidegate_store::{BackupReport, Snapshot, receive};

use crate::client::{Client, ServerArgs};
use crate::progress::Progress;

#[derive(Args)]
pub struct BackupArgs {
    /// Where to: a new or an empty directory
    target: PathBuf,
    /// The data directory of a server that is not running; without it a running server is asked
    #[arg(long, value_name = "DATA_DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Writes the backup and says how to restore it.
pub fn run(args: BackupArgs) -> Result<ExitCode> {
    let report = match &args.dir {
        Some(dir) => of_directory(dir, &args)?,
        None => of_server(&args)?,
    };
    println!("{}: {} in {} files", args.target.display(), HumanBytes(report.bytes), report.files);
    println!("to restore it: tidegate restore {} --dir NEW_DATA_DIR", args.target.display());
    Ok(ExitCode::SUCCESS)
}

fn of_server(args: &BackupArgs) -> Result<BackupReport> {
    let stream = Client::new(&args.server)
        .stream("/api/v1/backup")
        .context("a server that is not running is backed up with --dir DATA_DIR")?;
    let progress = Progress::new();
    receive(stream, &args.target, |done, all| progress.at("", done, all)).map_err(Into::into)
}

fn of_directory(dir: &std::path::Path, args: &BackupArgs) -> Result<BackupReport> {
    let snapshot = Snapshot::of_directory(dir, SystemClock.now())
        .context("without --dir, `tidegate backup` asks a running server")?;
    let (progress, all, mut done) = (Progress::new(), snapshot.bytes(), 0);
    let report = snapshot.write_to(&args.target, |bytes| {
        done += bytes;
        progress.at("", done, all);
    })?;
    Ok(report)
}
