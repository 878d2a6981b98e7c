//! `tidegate agent`: this host's part of many, its own kill switch, and the list of all agents.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::Value;
use tidegate_actuator::agent::{Brake, Braked, restore_baselines};
use tidegate_actuator::{Actuator, KnobMode, KnobReport, LocalHost};
use tidegate_model::{Clock, OutcomeStatus, SystemClock};

use crate::agent::{self, AgentLock};
use crate::client::{Client, OutputArgs, ServerArgs, print_rows};
use crate::config::Config;
use crate::serve;
use crate::settings::Given;

/// Runtimes name their containers within a second or so.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
const SETTLED_AT_THE_LATEST: Duration = Duration::from_secs(10);

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AgentArgs {
    #[command(subcommand)]
    command: Option<AgentCommand>,
    /// The controller's address, such as https://tidegate.example:8642
    #[arg(long, env = "TIDEGATE_SERVER")]
    server: Option<String>,
    /// The file that holds the token for it, with the right 'agent'
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// A file of certificates (PEM) to trust, where the controller's is signed by none that are trusted everywhere
    #[arg(long)]
    ca_file: Option<PathBuf>,
    #[command(flatten)]
    of: Settings,
}

#[derive(Args)]
struct Settings {
    /// The configuration file [default: ./tidegate.toml, then /etc/tidegate/tidegate.toml, if there]
    #[arg(long, env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    given: Given,
}

#[derive(Subcommand)]
enum AgentCommand {
    /// Turn this host's own kill switch on, which needs no controller: no limit is changed here any more
    Freeze(Box<FreezeArgs>),
    /// Turn this host's own kill switch off
    Thaw(Box<Settings>),
    /// List the agents of a running controller
    List(ListArgs),
}

#[derive(Args)]
struct FreezeArgs {
    /// Put all limits back to what they were when their containers were first seen
    #[arg(long)]
    restore: bool,
    /// What for; kept with the switch and shown
    #[arg(long, default_value = "", hide_default_value = true)]
    why: String,
    #[command(flatten)]
    of: Settings,
}

#[derive(Args)]
struct ListArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs until SIGTERM or Ctrl-C, or does what the subcommand says.
pub fn run(args: AgentArgs) -> Result<ExitCode> {
    match args.command {
        Some(AgentCommand::Freeze(args)) => freeze(*args),
        Some(AgentCommand::Thaw(settings)) => thaw(*settings),
        Some(AgentCommand::List(args)) => list(&args),
        None => {
            let mut config = Config::load_for_agent(args.of.config.as_deref(), &args.of.given)?;
            config.agent.server = args.server.or(config.agent.server);
            config.agent.token_file = args.token_file.or(config.agent.token_file);
            config.agent.ca_file = args.ca_file.or(config.agent.ca_file);
            serve::raise_file_limit();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let stop = {
                let _entered = runtime.enter();
                serve::until_signalled()
            };
            agent::run(config, stop, &runtime)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Exit code 1 when a baseline could not be put back; the switch is on all the same.
fn freeze(args: FreezeArgs) -> Result<ExitCode> {
    let config = Config::load_for_agent(args.of.config.as_deref(), &args.of.given)?;
    let dir = agent::state_dir(&config)?;
    // With an agent running the baselines are its affair: it knows what it has written.
    let alone = AgentLock::take(&dir).ok();
    let brake = Brake::of(&dir);
    brake.set(&Braked { since: SystemClock.now(), why: args.why, restore: args.restore })?;
    println!("frozen: no limit of this host is changed until `tidegate agent thaw`, also after a restart");
    if !args.restore {
        return Ok(ExitCode::SUCCESS);
    }
    brake.want_restore()?;
    if alone.is_none() {
        println!("the running agent puts the baselines back");
        return Ok(ExitCode::SUCCESS);
    }
    let host = LocalHost::new(config.actuator.clone())?;
    let mut source = host.source();
    // Containers of a runtime may take seconds to be known.
    let (start, mut known) = (Instant::now(), 0);
    loop {
        let found = source.collect(SystemClock.now()).present.len();
        let is_settled = found == known && start.elapsed() > SETTLED_AFTER;
        if is_settled || start.elapsed() > SETTLED_AT_THE_LATEST {
            break;
        }
        known = found;
        std::thread::sleep(Duration::from_millis(500));
    }
    let why = "the kill switch at the agent puts the baseline back";
    let reports = restore_baselines(&host, why, &|| None, &SystemClock);
    host.tend_knobs(KnobMode::GiveBack, &SystemClock);
    let knobs = source.collect(SystemClock.now()).knobs;
    brake.restored()?;
    let (done, failed): (Vec<_>, Vec<_>) =
        reports.iter().partition(|report| report.outcome.status == OutcomeStatus::Applied);
    println!("{} baselines put back", done.len());
    let is_back = |report: &&KnobReport| report.status == OutcomeStatus::Applied;
    println!("{} knobs put back", knobs.iter().filter(is_back).count());
    for report in knobs.iter().filter(|report| !is_back(report)) {
        eprintln!("tidegate: not put back: {} {}", report.container, report.message);
    }
    for report in &failed {
        let (container, resource, outcome) = (&report.container, report.resource, &report.outcome);
        eprintln!("tidegate: not put back: {container} {resource}: {} ({})", outcome.message, outcome.status.as_str());
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn thaw(settings: Settings) -> Result<ExitCode> {
    let config = Config::load_for_agent(settings.config.as_deref(), &settings.given)?;
    match Brake::of(&agent::state_dir(&config)?).release()? {
        true => println!("thawed: orders are carried out again"),
        false => println!("it was not frozen"),
    }
    Ok(ExitCode::SUCCESS)
}

fn list(args: &ListArgs) -> Result<ExitCode> {
    const COLUMNS: [&str; 9] =
        ["host", "connected", "version", "address", "since", "last_frame", "behind", "clock_ahead_ms", "frozen"];
    let agents = Client::new(&args.server).get("/api/v1/agents")?;
    let row = |agent: &Value| COLUMNS.map(|column| agent[column].clone()).to_vec();
    let rows: Vec<Vec<Value>> = agents.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(row).collect();
    print_rows(&COLUMNS.map(str::to_owned), &rows, args.output.output)?;
    Ok(ExitCode::SUCCESS)
}
