//! `tidegate demo`: the whole product at work within seconds, on containers of its own.
//!
//! Where cgroups can be written it makes some, puts real load into them and scales them for real. Where they cannot, a
//! simulated host runs behind the same traits, and says so everywhere. It never touches a cgroup it did not make.

mod fleet;
pub mod warden;

use std::fs::DirBuilder;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use tidegate_actuator::sandbox::Sandbox;
use tidegate_actuator::{AppRule, BoundsRule};
use tidegate_model::{Mode, Resource};
use tidegate_web::Origin;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::serve::{self, World};
use crate::settings;

#[derive(Args)]
pub struct DemoArgs {
    /// Where the dashboard listens, loopback only [default: 127.0.0.1:8642, or a free port when that is taken]
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Simulate a host even where cgroups can be written
    #[arg(long)]
    simulate: bool,
    /// Ends by itself after this many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// What the simulated host's demand grows from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs until Ctrl-C, SIGTERM or the given time.
pub fn run(args: DemoArgs) -> Result<ExitCode> {
    if args.listen.is_some_and(|address| !address.ip().is_loopback()) {
        bail!("the demo listens on loopback only; `tidegate serve` with tokens is for other addresses");
    }
    serve::runtime()?.block_on(async {
        let signalled = serve::until_signalled();
        let listener = bind(args.listen).await?;
        println!("dashboard  http://{}/", listener.local_addr()?);
        let name = format!("tidegate-demo-{}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        // Made anew and for us alone: in a directory that somebody else made, root could be led to another's files.
        DirBuilder::new().mode(0o700).create(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let config = demo_config(&name, &dir, listener.local_addr()?);
        let origins = settings::changed(&config).map(|path| (path, Origin::Demo)).collect();
        let obstacle = if args.simulate { Some("asked for by --simulate".to_owned()) } else { Sandbox::obstacle() };
        let (world, _warden) = match obstacle {
            Some(why) => {
                println!("SIMULATED  {why}; nothing on this machine is changed");
                (World::simulated(&config, args.seed, &why), Warden::start(None, &dir)?)
            }
            None => {
                Sandbox::sweep("tidegate-demo-")?;
                let warden = Warden::start(Some(&name), &dir)?;
                let root = config.actuator.roots[0].display();
                println!("containers {} below {root}, made for this demo and removed with it", fleet::FLEET.len());
                (World::of_this_host(&config)?, warden)
            }
        };
        println!(
            "try        tidegate sql --server http://{} \"SELECT * FROM decisions ORDER BY time DESC LIMIT 5\"",
            listener.local_addr()?
        );
        let stop = async {
            match args.seconds {
                None => signalled.await,
                Some(seconds) => tokio::select! {
                    () = signalled => {}
                    () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
                },
            }
        };
        serve::run(config, &origins, world, listener, stop).await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The demo's warden, told to clean up when this is dropped; it does so by itself when this process is killed.
struct Warden(Child);

impl Drop for Warden {
    fn drop(&mut self) {
        // Closing its standard input is what the warden waits for.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Warden {
    /// Starts a warden that removes `dir` at the end, and makes the fleet below the cgroup `root` if there is one.
    fn start(root: Option<&str>, dir: &Path) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find this program")?;
        let mut warden = Command::new(own)
            .arg("warden")
            .arg("--remove")
            .arg(dir)
            .args(["--cores", &cores().to_string()])
            .args(root.into_iter().flat_map(|root| ["--root", root]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A group of its own: Ctrl-C at the terminal is for the parent, the warden follows it.
            .process_group(0)
            .spawn()
            .context("cannot start the demo's warden")?;
        let stdout = warden.stdout.take().context("the warden has no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("the warden did not answer")?;
        if line.trim() != "ready" {
            let status = warden.wait()?;
            bail!(
                "the demo's containers could not be made ({status}); `tidegate doctor` says what this machine offers, \
                 --simulate does without"
            );
        }
        Ok(Self(warden))
    }
}

fn demo_config(name: &str, dir: &Path, listen: SocketAddr) -> Config {
    let mut config = Config { listen, data_dir: dir.to_owned(), ..Config::default() };
    config.store.dir = dir.join("store");
    config.actuator.state_dir = Some(dir.join("actuator"));
    config.actuator.roots = vec![PathBuf::from(format!("/{name}"))];
    config.actuator.discover = false;
    config.actuator.apps = fleet::FLEET
        .iter()
        .map(|member| AppRule {
            container: member.name.to_owned(),
            app: member.app.to_owned(),
            user: Some("demo".to_owned()),
        })
        .collect();
    let mebibytes = |n: u64| (n << 20) as f64;
    config.actuator.bounds = vec![
        BoundsRule { container: "*".to_owned(), resource: Resource::Cpu, min: Some(0.05), max: Some(cores()) },
        BoundsRule {
            container: "*".to_owned(),
            resource: Resource::Memory,
            min: Some(mebibytes(16)),
            max: Some(mebibytes(512)),
        },
    ];
    config.policy.default_mode = Mode::On;
    config
}

async fn bind(asked: Option<SocketAddr>) -> Result<TcpListener> {
    if let Some(address) = asked {
        return serve::listen(address).await;
    }
    match TcpListener::bind(Config::default().listen).await {
        Ok(listener) => Ok(listener),
        // A demo beside a running server is no reason to fail.
        Err(_) => serve::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await,
    }
}

fn cores() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64)
}
