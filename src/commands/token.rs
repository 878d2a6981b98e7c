//! `tidegate token`: makes a bearer token. The configuration keeps only its hash.

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use tidegate_web::Auth;

const RIGHTS: [&str; 4] = ["push", "read", "operate", "agent"];

#[derive(Args)]
pub struct TokenArgs {
    /// Whose token it is; shown in rule histories
    name: String,
    /// What it may do: push samples, read everything, operate rules, be the agent of hosts
    #[arg(long, value_delimiter = ',', default_values = ["read"])]
    rights: Vec<String>,
}

/// Prints the token, once, and the entry for the configuration.
pub fn run(args: TokenArgs) -> Result<ExitCode> {
    if let Some(unknown) = args.rights.iter().find(|right| !RIGHTS.contains(&right.as_str())) {
        bail!("unknown right '{unknown}': expected {}", RIGHTS.join(", "));
    }
    let mut secret = [0_u8; 32];
    getrandom::fill(&mut secret).map_err(|error| anyhow!("no random numbers from the system: {error}"))?;
    let token = format!("tg_{}", hex(&secret));
    let rights = args.rights.iter().map(|right| format!("\"{right}\"")).collect::<Vec<_>>().join(", ");
    println!("{token}");
    eprintln!("\nThe token above is shown this once. Put this into tidegate.toml:\n");
    eprintln!("[[tokens]]\nname = {:?}\nsha256 = \"{}\"\nrights = [{rights}]", args.name, Auth::digest(&token));
    Ok(ExitCode::SUCCESS)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
