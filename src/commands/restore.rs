//! `tidegate restore`: a new data directory from a backup, or from what was uploaded to an object store.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use indicatif::HumanBytes;
use tidegate_store::ObjectStoreConfig;

use crate::progress::Progress;

#[derive(Args)]
pub struct RestoreArgs {
    /// A directory that `tidegate backup` wrote, or the URL of an object store that segments were uploaded to
    backup: String,
    /// The data directory to make; new or empty
    #[arg(long, value_name = "NEW_DATA_DIR")]
    dir: PathBuf,
    /// The object store's address, where it is not Amazon's
    #[arg(long, env = "AWS_ENDPOINT_URL")]
    endpoint: Option<String>,
    /// The bucket's region
    #[arg(long, env = "AWS_REGION")]
    region: Option<String>,
}

/// Verifies everything, and only then makes a directory that can be served.
pub fn run(args: RestoreArgs) -> Result<ExitCode> {
    if args.dir.is_dir() && std::fs::read_dir(&args.dir)?.flatten().any(|entry| entry.file_name() != "lost+found") {
        bail!("{} is not empty: choose a new or an empty directory", args.dir.display());
    }
    let progress = Progress::new();
    let show = |done, all| progress.at("", done, all);
    let target = args.dir.join("store");
    let report = if args.backup.contains("://") {
        let allow_http = args.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let config = ObjectStoreConfig { url: args.backup, endpoint: args.endpoint, region: args.region, allow_http };
        tidegate_store::restore_uploaded(&config, &target, show)?
    } else {
        tidegate_store::restore(Path::new(&args.backup), &target, show)?
    };
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
