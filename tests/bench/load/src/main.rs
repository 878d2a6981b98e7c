//! Generates a fleet's metrics from a fixed seed and pushes them to a server on this host.
//!
//!     fleet-load send --format F --port P --path P --pid PID [--hosts 50] [--step-ms 10000] [--steps 600]
//!                     [--skip 0] [--until MS] [--connections 8] [--seed 1] [--header LINE]
//!     fleet-load feed (as send)
//!     fleet-load pace --format F --port P --path P --pid PID --rate POINTS_PER_S --seconds S [--report-s 10]
//!                     [--hosts ..] [--connections 8] [--seed 1] [--header LINE]
//!
//! `send` is a closed loop: each connection sends its next body when the one before is answered. Its last step is of
//! `--until` (now, unless given); `--skip` generates the first steps without sending them. `feed` sends
//! the step after `--skip` for the first line that it reads, the next one for the next line. `pace` is an open loop: each
//! body has its time, and a latency counts from there, however late it was sent. Formats: opentsdb, lines, remote-write.
//! All print one JSON object a line: `send` one, `feed` one a step, `pace` one each `--report-s`.

mod body;
mod fleet;
mod post;
mod server;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use body::Format;
use fleet::{Group, fleet};
use post::{Connection, Target};
use server::Server;

/// Bodies are made ahead of the clock, at most so many bytes of them.
const AHEAD_BYTES: usize = 256 << 20;

fn main() {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let outcome = Options::parse(words).and_then(|options| match command.as_str() {
        "send" => send(&options),
        "feed" => feed(&options),
        "pace" => pace(&options),
        _ => Err("usage: fleet-load send|feed|pace --format F --port P --path PATH --pid PID ...".to_owned()),
    });
    if let Err(error) = outcome {
        eprintln!("fleet-load: {error}");
        std::process::exit(1);
    }
}

/// `--name value` pairs.
struct Options(HashMap<String, String>);

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut given = HashMap::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or_else(|| format!("'{word}' is no option"))?;
            let value = words.next().ok_or_else(|| format!("--{name} has no value"))?;
            given.insert(name.to_owned(), value);
        }
        Ok(Self(given))
    }

    fn get<T: std::str::FromStr>(&self, name: &str, default: Option<T>) -> Result<T, String> {
        match self.0.get(name) {
            Some(text) => text.parse().map_err(|_| format!("--{name} {text} is not understood")),
            None => default.ok_or_else(|| format!("--{name} is missing")),
        }
    }

    fn format(&self) -> Result<Format, String> {
        let name: String = self.get("format", None)?;
        Format::parse(&name).ok_or_else(|| format!("--format {name}: opentsdb, lines or remote-write"))
    }

    fn target(&self) -> Result<Target, String> {
        let own = self.0.get("header").map(|line| format!("{line}\r\n")).unwrap_or_default();
        let headers = format!("{}{own}", self.format()?.headers());
        Ok(Target { port: self.get("port", None)?, path: self.get("path", None)?, headers })
    }

    fn groups(&self) -> Result<Vec<Group>, String> {
        let hosts = self.get("hosts", Some(50))?;
        Ok(fleet(hosts, self.get("seed", Some(1))?))
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// A body ready to be sent.
struct Ready {
    bytes: Vec<u8>,
    points: usize,
}

/// What the answers were.
#[derive(Default)]
struct Outcome {
    points: usize,
    latencies_ms: Vec<f32>,
    errors: usize,
    first_error: Option<String>,
}

impl Outcome {
    fn note(&mut self, points: usize, since: Instant, result: Result<(), String>) {
        self.latencies_ms.push(since.elapsed().as_secs_f32() * 1e3);
        match result {
            Ok(()) => self.points += points,
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert(error);
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.points += other.points;
        self.latencies_ms.extend(other.latencies_ms);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn latency_json(&mut self) -> String {
        self.latencies_ms.sort_by(f32::total_cmp);
        let at = |share: f64| {
            let last = self.latencies_ms.len().saturating_sub(1);
            self.latencies_ms.get((share * last as f64).round() as usize).copied().unwrap_or(0.0)
        };
        format!(r#""p50_ms":{:.3},"p99_ms":{:.3},"max_ms":{:.3}"#, at(0.5), at(0.99), at(1.0))
    }

    fn complain(&self) {
        if let Some(error) = &self.first_error {
            eprintln!("fleet-load: {} requests failed, the first: {error}", self.errors);
        }
    }
}

fn send(options: &Options) -> Result<(), String> {
    let (format, target, mut groups) = (options.format()?, options.target()?, options.groups()?);
    let (steps, step_ms): (i64, i64) = (options.get("steps", Some(600))?, options.get("step-ms", Some(10_000))?);
    let (skip, connections): (i64, usize) = (options.get("skip", Some(0))?, options.get("connections", Some(8))?);
    let until: i64 = options.get("until", Some(now_ms() / 1_000 * 1_000))?;
    let server = Server(options.get("pid", None)?);
    (0..skip).for_each(|_| groups.iter_mut().for_each(Group::step));

    let mut lanes: Vec<Connection<'_>> = (0..connections).map(|_| Connection::new(&target)).collect();
    let (mut total, mut wall, mut bytes) = (Outcome::default(), Duration::ZERO, 0);
    let cpu_before = server.cpu_s();
    let mut step = skip;
    while step < steps {
        // Made outside the clock; a group always takes the same connection, so its samples arrive in order.
        let mut queues: Vec<Vec<Ready>> = lanes.iter().map(|_| Vec::new()).collect();
        let mut ahead = 0;
        while step < steps && ahead < AHEAD_BYTES {
            let at = until - (steps - 1 - step) * step_ms;
            for (number, group) in groups.iter_mut().enumerate() {
                group.step();
                let body = format.body(group, at);
                ahead += body.len();
                queues[number % connections].push(Ready { bytes: body, points: group.points() });
            }
            step += 1;
        }
        bytes += ahead;
        let started = Instant::now();
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                lanes.iter_mut().zip(queues).map(|(lane, queue)| scope.spawn(move || send_all(lane, queue))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        wall += started.elapsed();
        outcomes.into_iter().for_each(|outcome| total.add(outcome));
    }
    let cpu = server.cpu_s() - cpu_before;
    total.complain();
    let latency = total.latency_json();
    let millions = total.points as f64 / 1e6;
    println!(
        r#"{{"points":{},"bytes":{bytes},"wall_s":{:.3},"points_per_s":{:.0},"cpu_s":{cpu:.2},"cpu_s_per_million":{:.4},"peak_rss_mib":{:.1},{},"errors":{}}}"#,
        total.points,
        wall.as_secs_f64(),
        total.points as f64 / wall.as_secs_f64().max(1e-9),
        if total.points == 0 { 0.0 } else { cpu / millions },
        server.peak_rss_mib(),
        latency,
        total.errors,
    );
    Ok(())
}

fn feed(options: &Options) -> Result<(), String> {
    let (format, target, mut groups) = (options.format()?, options.target()?, options.groups()?);
    let (steps, step_ms): (i64, i64) = (options.get("steps", Some(600))?, options.get("step-ms", Some(10_000))?);
    let (skip, until): (i64, i64) = (options.get("skip", Some(0))?, options.get("until", None)?);
    (0..skip).for_each(|_| groups.iter_mut().for_each(Group::step));
    let mut lane = Connection::new(&target);
    for (step, line) in (skip..).zip(std::io::stdin().lines()) {
        line.map_err(|error| error.to_string())?;
        let at = until - (steps - 1 - step) * step_ms;
        let mut queue = Vec::with_capacity(groups.len());
        for group in &mut groups {
            group.step();
            queue.push(Ready { bytes: format.body(group, at), points: group.points() });
        }
        let outcome = send_all(&mut lane, queue);
        outcome.complain();
        println!(r#"{{"at":{at},"points":{},"errors":{}}}"#, outcome.points, outcome.errors);
    }
    Ok(())
}

fn send_all(lane: &mut Connection<'_>, queue: Vec<Ready>) -> Outcome {
    let mut outcome = Outcome::default();
    for Ready { bytes, points } in queue {
        let started = Instant::now();
        let result = lane.post(&bytes);
        outcome.note(points, started, result);
    }
    outcome
}

fn pace(options: &Options) -> Result<(), String> {
    let (format, target, groups) = (options.format()?, options.target()?, options.groups()?);
    let connections: usize = options.get("connections", Some(8))?;
    let rate: f64 = options.get("rate", None)?;
    let length = Duration::from_secs(options.get("seconds", None)?);
    let report_every = Duration::from_secs(options.get("report-s", Some(10))?);
    let server = Server(options.get("pid", None)?);

    let points_per_step: usize = groups.iter().map(Group::points).sum();
    let step = Duration::from_secs_f64(points_per_step as f64 / rate);
    let between = step / groups.len().max(1) as u32;
    let mut lanes: Vec<Vec<(u32, Group)>> = (0..connections).map(|_| Vec::new()).collect();
    for (number, group) in groups.into_iter().enumerate() {
        lanes[number % connections].push((number as u32, group));
    }
    let (started, started_ms) = (Instant::now(), now_ms());
    let (outcomes, running) = (Mutex::new(Outcome::default()), AtomicUsize::new(connections));
    std::thread::scope(|scope| {
        for mut lane in lanes {
            let (outcomes, running, target) = (&outcomes, &running, &target);
            scope.spawn(move || {
                let mut connection = Connection::new(target);
                for number in 0_u32.. {
                    let due = step * number;
                    if due >= length {
                        break;
                    }
                    let at = started_ms + due.as_millis() as i64;
                    for (place, group) in &mut lane {
                        group.step();
                        let body = format.body(group, at);
                        let due = started + due + between * *place;
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        let result = connection.post(&body);
                        if let Ok(mut outcomes) = outcomes.lock() {
                            outcomes.note(group.points(), due, result);
                        }
                    }
                }
                running.fetch_sub(1, Ordering::Release);
            });
        }
        let (mut reports, mut cpu_before) = (0_u32, server.cpu_s());
        while running.load(Ordering::Acquire) > 0 {
            reports += 1;
            let next = started + report_every * reports;
            while running.load(Ordering::Acquire) > 0 && Instant::now() < next {
                std::thread::sleep(Duration::from_millis(20));
            }
            let mut part = outcomes.lock().map(|mut outcomes| std::mem::take(&mut *outcomes)).unwrap_or_default();
            part.complain();
            let latency = part.latency_json();
            let cpu = server.cpu_s();
            println!(
                r#"{{"at_s":{:.1},"points":{},{},"errors":{},"cpu_s":{:.2}}}"#,
                started.elapsed().as_secs_f64(),
                part.points,
                latency,
                part.errors,
                cpu - cpu_before,
            );
            cpu_before = cpu;
        }
    });
    Ok(())
}
