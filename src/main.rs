//! `tidegate`: the command line. Parses, wires the rooms together and holds no logic of its own.

mod agent;
mod client;
mod collect;
mod commands;
mod config;
mod demo;
mod load;
mod progress;
mod serve;
mod settings;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// What is made each second is freed a second later, on another thread as often as not, and flushes free hundreds of megabytes at
/// once: glibc's allocator takes up to a third of a backtest's time for that.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Keeps the CPU and memory limits of containers just above what they use.
///
/// Push metrics over HTTP, write scaling rules in SQL, browse the dashboard: one process does all of it.
#[derive(Parser)]
#[command(name = "tidegate", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log, as in RUST_LOG: `info`, `debug`, `tidegate_policy=debug`
    #[arg(long, global = true, env = "TIDEGATE_LOG", default_value = "info", hide_default_value = true)]
    log: String,
}

#[derive(Subcommand)]
enum Command {
    /// Run the control plane: store, this host's collector and actuator, rules, API and dashboard
    Serve(Box<commands::serve::ServeArgs>),
    /// Run this host's part of many: measure it, and change its limits as a controller elsewhere orders
    Agent(Box<commands::agent::AgentArgs>),
    /// Show Tidegate at work within seconds, on containers of its own
    Demo(demo::DemoArgs),
    /// Run a query on a running server
    Sql(commands::sql::SqlArgs),
    /// Apply, list, show and switch rules on a running server
    #[command(subcommand)]
    Rule(commands::rule::RuleCommand),
    /// List apps and users, and bound what their containers may have together
    #[command(subcommand)]
    Group(commands::group::GroupCommand),
    /// Say why a decision was taken, and what followed
    Explain(commands::explain::ExplainArgs),
    /// Turn the kill switch on: no limit is changed any more
    Freeze(commands::freeze::FreezeArgs),
    /// Turn the kill switch off: rules change limits again
    Thaw(commands::freeze::ThawArgs),
    /// Let rules change a limit again that somebody else has set
    Adopt(commands::adopt::AdoptArgs),
    /// Try rules on a server's own history: what they would have done, and what that would have cost
    Backtest(commands::backtest::BacktestArgs),
    /// Try rules on a trace file: what they would do, and what that would cost
    Simulate(Box<commands::simulate::SimulateArgs>),
    /// Write everything that a server stores into a directory, while it runs
    Backup(commands::backup::BackupArgs),
    /// Make a data directory from a backup
    Restore(commands::restore::RestoreArgs),
    /// Verify every checksum of a data directory or a backup
    Check(commands::check::CheckArgs),
    /// Say what this machine offers: cgroups, runtimes, kernel features
    Doctor(commands::doctor::DoctorArgs),
    /// Make a bearer token for the configuration
    Token(commands::token::TokenArgs),
    /// A process with a changing demand, for demonstrations and tests
    #[command(hide = true)]
    Load(load::LoadArgs),
    /// Removes what the demo made when its parent is gone
    #[command(hide = true)]
    Warden(demo::warden::WardenArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(&cli.log);
    let result = match cli.command {
        Command::Serve(args) => commands::serve::run(*args),
        Command::Agent(args) => commands::agent::run(*args),
        Command::Demo(args) => demo::run(args),
        Command::Sql(args) => commands::sql::run(args),
        Command::Rule(command) => commands::rule::run(command),
        Command::Group(command) => commands::group::run(command),
        Command::Explain(args) => commands::explain::run(args),
        Command::Freeze(args) => commands::freeze::freeze(args),
        Command::Thaw(args) => commands::freeze::thaw(args),
        Command::Adopt(args) => commands::adopt::run(args),
        Command::Backtest(args) => commands::backtest::run(args),
        Command::Simulate(args) => commands::simulate::run(*args),
        Command::Backup(args) => commands::backup::run(args),
        Command::Restore(args) => commands::restore::run(args),
        Command::Check(args) => commands::check::run(args),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Token(args) => commands::token::run(args),
        Command::Load(args) => load::run(args),
        Command::Warden(args) => demo::warden::run(args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tidegate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_logging(filter: &str) {
    let ansi = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|error| {
        eprintln!("tidegate: --log {filter}: {error}; logging at info");
        EnvFilter::new("info")
    });
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
}
