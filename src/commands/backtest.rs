//! `tidegate backtest`: what rules would have done to the containers of a server's own history.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::client::{Client, OutputArgs, ServerArgs, describe};
use crate::commands::report;
use crate::progress::Progress;

/// How often the server is asked how far it is.
const ASK: Duration = Duration::from_millis(250);
/// Steps of the progress bar.
const STEPS: u64 = 1_000;

#[derive(Args)]
pub struct BacktestArgs {
    /// Files of rule statements [default: the server's rules]
    #[arg(long)]
    rules: Vec<PathBuf>,
    /// Apply them on top of the server's rules, rather than alone
    #[arg(long, requires = "rules")]
    on_top: bool,
    /// What to compare with: `live` for the server's rules, `none` for the limits as they were, or a file
    #[arg(long, default_value = "none")]
    against: String,
    /// When it begins: how long ago (`-6h`) or ms UTC
    #[arg(long, default_value = "-1h", allow_hyphen_values = true)]
    from: String,
    /// When it ends, likewise [default: now]
    #[arg(long, allow_hyphen_values = true)]
    to: Option<String>,
    /// Time between two instants, in whole seconds [default: as the history has its samples, at most 1m]
    #[arg(long, value_parser = humantime::parse_duration)]
    step: Option<Duration>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Starts the backtest, waits for it and prints its figures.
pub fn run(args: BacktestArgs) -> Result<ExitCode> {
    let mut body = Map::new();
    body.insert("from".to_owned(), json!(instant(&args.from)?));
    if let Some(to) = &args.to {
        body.insert("to".to_owned(), json!(instant(to)?));
    }
    if let Some(step) = args.step {
        body.insert("step_s".to_owned(), json!(step.as_secs()));
    }
    if !args.rules.is_empty() {
        body.insert("rules".to_owned(), json!(report::read_all(&args.rules)?));
        body.insert("on_top".to_owned(), json!(args.on_top));
    }
    let against = match args.against.as_str() {
        word @ ("live" | "none") => word.to_owned(),
        file => report::read_all(&[PathBuf::from(file)])?,
    };
    body.insert("against".to_owned(), json!(against));
    let client = Client::new(&args.server);
    let started = client.post("/api/v1/backtests", &Value::Object(body))?;
    let id = started["id"].as_str().context("the server did not say which backtest it started")?;
    let answer = wait(&client, id)?;
    report::print(&answer, &args.against, args.output.output)?;
    Ok(ExitCode::SUCCESS)
}

fn wait(client: &Client, id: &str) -> Result<Value> {
    let bar = Progress::of_instants();
    let interrupted = interrupted();
    loop {
        if interrupted.load(Ordering::Relaxed) {
            // The server would go on working for nobody.
            client.delete(&format!("/api/v1/backtests/{id}"))?;
            bail!("interrupted; the server has stopped backtest {id}");
        }
        let answer = client.get(&format!("/api/v1/backtests/{id}"))?;
        let phase = answer["phase"].as_str().unwrap_or_default();
        match phase {
            "done" => return Ok(answer),
            "failed" => bail!("{}", describe(&answer["error"])),
            "stopped" => bail!("the backtest was stopped"),
            _ => {}
        }
        let share = answer["progress"].as_f64().unwrap_or(0.0);
        bar.at(phase, (share * STEPS as f64) as u64, STEPS);
        std::thread::sleep(ASK);
    }
}

/// Becomes true with the first Ctrl-C.
fn interrupted() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&flag);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        // Without one, Ctrl-C ends the command, as it does any other.
        if let Ok(runtime) = runtime
            && runtime.block_on(tokio::signal::ctrl_c()).is_ok()
        {
            told.store(true, Ordering::Relaxed);
        }
    });
    flag
}

/// Milliseconds UTC of `-6h` or of a number.
fn instant(text: &str) -> Result<i64> {
    if let Some(ago) = text.strip_prefix('-') {
        let ago = humantime::parse_duration(ago).with_context(|| format!("'{text}' is no time; for example -6h"))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
        return Ok(now.saturating_sub(ago).as_millis() as i64);
    }
    text.parse().with_context(|| format!("'{text}' is no time; for example -6h, or milliseconds since 1970 UTC"))
}
