//! `tidegate simulate`: what rules would do to the containers of a trace file, without a server.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use tidegate_policy::backtest::{Backtest, Column, Progress, Trace, TraceColumns, laws};
use tidegate_policy::{DEFAULT_PACK, PACKS, Pack, PolicyConfig};
use tidegate_store::StoreConfig;
use tokio_util::sync::CancellationToken;

use crate::client::OutputArgs;
use crate::commands::report;
use crate::progress::Progress as Bar;
use crate::serve;

#[derive(Args)]
pub struct SimulateArgs {
    /// CSV (also .gz) with a header line, or Parquet: one row a container and time
    #[arg(long)]
    trace: PathBuf,
    /// Files of rule statements, or names of rule packs that ship with Tidegate [default: the pack `default`]
    #[arg(long, value_name = "FILE|PACK")]
    rules: Vec<PathBuf>,
    /// What to compare with: `none` leaves the first limits as they are, else a file of rule statements or a pack's name
    #[arg(long, default_value = "none")]
    against: String,
    /// Put plain laws of the field beside the rules: VPA, Autopilot's window, the boundary law, peaks and percentiles
    #[arg(long)]
    laws: bool,
    /// Put each rule pack that ships with Tidegate beside the rules; takes one more run each
    #[arg(long)]
    packs: bool,
    /// Time between two instants, in whole seconds [default: as the trace has its samples, at most 1m]
    #[arg(long, value_parser = humantime::parse_duration)]
    step: Option<Duration>,
    /// The column with the time, in seconds or milliseconds
    #[arg(long, default_value = "time", value_name = "COLUMN")]
    time: String,
    /// The column with the container's name
    #[arg(long, default_value = "container", value_name = "COLUMN")]
    container: String,
    /// The column with the app's name
    #[arg(long, default_value = "app", value_name = "COLUMN")]
    app: String,
    /// The column with the CPU demand and its factor to cores, as in `millicores/1000`
    #[arg(long, default_value = "cpu", value_name = "COLUMN[*FACTOR]")]
    cpu: Column,
    /// The column with the memory demand and its factor to bytes, as in `mib*1048576`
    #[arg(long, default_value = "memory", value_name = "COLUMN[*FACTOR]")]
    memory: Column,
    /// The column with the CPU limit in the beginning; without one it is the highest demand
    #[arg(long, default_value = "cpu_limit", value_name = "COLUMN[*FACTOR]")]
    cpu_limit: Column,
    /// The column with the memory limit in the beginning
    #[arg(long, default_value = "memory_limit", value_name = "COLUMN[*FACTOR]")]
    memory_limit: Column,
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints the figures of the rules and of what they are compared with.
pub fn run(args: SimulateArgs) -> Result<ExitCode> {
    let columns = TraceColumns {
        time: args.time,
        container: args.container,
        app: args.app,
        cpu: args.cpu,
        memory: args.memory,
        cpu_limit: args.cpu_limit,
        memory_limit: args.memory_limit,
    };
    let trace = Arc::new(Trace::of_file(&args.trace, &columns)?);
    let rules = match args.rules.as_slice() {
        [] => DEFAULT_PACK.to_owned(),
        files => report::read_all(files)?,
    };
    let against_rules = match args.against.as_str() {
        "none" => String::new(),
        file => report::read_all(&[PathBuf::from(file)])?,
    };
    let bar = Bar::of_instants();
    let answer: Value = serve::runtime()?.block_on(async {
        // Each replay has a thread of its own. The bar follows the first one, which has most to do, and then the packs.
        let play = async |rules: String, what: String, shown: bool| {
            let backtest = Backtest {
                trace: Arc::clone(&trace),
                rules,
                step: args.step,
                policy: PolicyConfig::default(),
                store: StoreConfig::default(),
                groups: Vec::new(),
                dir: std::env::temp_dir(),
            };
            let progress = |Progress { done, all }| {
                if shown {
                    bar.at(&what, done, all);
                }
            };
            let played = backtest.run(&CancellationToken::new(), progress).await.with_context(|| what.clone())?;
            Ok::<_, anyhow::Error>(json!(played))
        };
        let (report, against) =
            tokio::try_join!(play(rules, "rules".to_owned(), true), play(against_rules, "against".to_owned(), false))?;
        let mut beside = Vec::new();
        if args.packs {
            for packs in PACKS.chunks(std::thread::available_parallelism().map_or(1, usize::from)) {
                let played = packs
                    .iter()
                    .zip(0..)
                    .map(|(Pack { name, sql }, nth)| play((*sql).to_owned(), format!("pack {name}"), nth == 0));
                for (Pack { name, .. }, played) in packs.iter().zip(futures::future::try_join_all(played).await?) {
                    beside.extend(report::scores("pack", name, &played["resources"]));
                }
            }
        }
        if args.laws {
            let plain = laws(&trace, &PolicyConfig::default()).into_iter();
            beside.extend(
                plain.map(|score| report::score("law", score.law, score.resource.as_str(), &json!(score.figures))),
            );
        }
        let mut answer = json!({ "report": report, "against": against });
        if args.packs || args.laws {
            let rules = report::scores("rules", "these rules", &report["resources"]);
            let others = report::scores("against", &args.against, &against["resources"]);
            answer["beside"] = rules.into_iter().chain(others).chain(beside).collect();
        }
        Ok::<_, anyhow::Error>(answer)
    })?;
    drop(bar);
    report::print(&answer, &args.against, args.output.output)?;
    Ok(ExitCode::SUCCESS)
}
