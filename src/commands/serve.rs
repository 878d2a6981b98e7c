//! `tidegate serve`: the control plane for this host.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::config::Config;
use crate::serve::{self, World};
use crate::settings::Given;

#[derive(Args)]
pub struct ServeArgs {
    /// The configuration file [default: ./tidegate.toml, then /etc/tidegate/tidegate.toml, if there]
    #[arg(long, env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    given: Given,
}

/// Serves until SIGTERM or Ctrl-C.
pub fn run(args: ServeArgs) -> Result<ExitCode> {
    let (config, origins) = Config::load_with_origins(args.config.as_deref(), &args.given)?;
    let world = World::of_this_host(&config)?;
    serve::runtime()?.block_on(async {
        let stop = serve::until_signalled();
        let listener = serve::listen(config.listen).await?;
        println!("tidegate {} on http://{}/", env!("CARGO_PKG_VERSION"), listener.local_addr()?);
        serve::run(config, &origins, world, listener, stop).await
    })?;
    Ok(ExitCode::SUCCESS)
}
