//! The demo's warden: makes the containers and their loads, and takes everything away when its parent is gone.
//!
//! It is a process of its own because a parent that is killed cannot clean up after itself. It holds the read end of a
//! pipe whose other end only the parent has; end of file there means that the parent ended, however that happened. The
//! loads in turn die with the warden. So nothing outlives the demo, short of killing parent and warden at one instant;
//! what that leaves behind, the next demo removes.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use tidegate_actuator::sandbox::Sandbox;

use super::fleet::{self, FLEET, Member};

#[derive(Args)]
pub struct WardenArgs {
    /// The cgroup below each hierarchy's root that will hold the containers; none are made without it
    #[arg(long)]
    root: Option<String>,
    /// A directory to remove at the end
    #[arg(long)]
    remove: PathBuf,
    /// What the machine has, which the loads are scaled to
    #[arg(long, default_value_t = 1.0)]
    cores: f64,
}

/// Says `ready` on standard output once the loads run; ends at the end of standard input.
pub fn run(args: WardenArgs) -> Result<ExitCode> {
    let mut loads = Vec::new();
    let sandbox = args.root.as_deref().map(Sandbox::create).transpose()?;
    let begun = sandbox.as_ref().map_or(Ok(()), |sandbox| begin(sandbox, args.cores, &mut loads));
    if begun.is_ok() {
        println!("ready");
        // The parent closes the pipe by ending; there is nothing to read before.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    }
    for load in &mut loads {
        let _ = load.kill();
        let _ = load.wait();
    }
    let removed = sandbox.map_or(Ok(()), Sandbox::remove);
    remove_own_dir(&args.remove)?;
    removed?;
    begun.map(|()| ExitCode::SUCCESS)
}

fn begin(sandbox: &Sandbox, cores: f64, loads: &mut Vec<Child>) -> Result<()> {
    for member in &FLEET {
        sandbox.add_group(member.name)?;
        sandbox.limit_cpu(member.name, member.first_limits.0)?;
        sandbox.limit_memory(member.name, member.first_limits.1 << 20)?;
        let mut load = start(member, fleet::scale(cores))?;
        let pid = load.id();
        let go = load.stdin.take();
        loads.push(load);
        sandbox.move_process(member.name, pid)?;
        go.context("the load has no standard input")?.write_all(b"\n").context("the load ended early")?;
    }
    Ok(())
}

fn start(member: &Member, scale: f64) -> Result<Child> {
    let own = std::env::current_exe().context("cannot find this program")?;
    Command::new(own)
        .args(["load", "--wait", "--seconds", "86400"])
        .args(["--shape", &format!("{:?}", member.shape).to_lowercase()])
        .args(["--cores", &(member.cores * scale).to_string()])
        .args(["--cycle", &member.cycle.to_string()])
        .args(["--memory", &member.memory_mib.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start a load")
}

fn remove_own_dir(dir: &PathBuf) -> Result<()> {
    let named = dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tidegate-demo-"));
    if !named {
        bail!("{} is not a directory of the demo and was not removed", dir.display());
    }
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
