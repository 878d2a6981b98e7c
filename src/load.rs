//! A process with a changing demand: what the demo and the end-to-end tests put into their containers.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use nix::sys::signal::Signal;

/// One slice of busy and idle time. Shorter than a CFS period (100 ms), so that demand looks smooth to the kernel.
const SLICE: Duration = Duration::from_millis(20);
const MEBIBYTE: usize = 1 << 20;

/// How demand moves over a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// `cores` all the time
    Steady,
    /// `cores` in the first half of the cycle, a twentieth of it in the second
    Square,
    /// From nothing to `cores` over the cycle
    Ramp,
    /// `cores` in the first tenth of the cycle, a twentieth of it otherwise
    Burst,
}

/// What to consume.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    #[arg(long, value_enum, default_value_t = Shape::Steady)]
    pub shape: Shape,
    /// CPU demand at its highest
    #[arg(long, default_value_t = 0.0)]
    pub cores: f64,
    /// Length of a cycle in seconds
    #[arg(long, default_value_t = 60.0)]
    pub cycle: f64,
    /// Memory in MiB: held when steady, otherwise grown over the cycle and then given back
    #[arg(long, default_value_t = 0)]
    pub memory: usize,
    /// Ends by itself after this many seconds
    #[arg(long, default_value_t = 3600.0)]
    pub seconds: f64,
    /// Waits for a line on standard input before it begins, so that it can be put into its container first
    #[arg(long)]
    pub wait: bool,
}

/// Runs until the time is up, or until the process that started it is gone.
pub fn run(args: LoadArgs) -> Result<ExitCode> {
    // A load must never outlive what started it, however that ended.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("cannot tie the load to its parent")?;
    if !(0.0..=64.0).contains(&args.cores) || args.cycle <= 0.0 || args.memory > 65_536 {
        bail!("--cores must be 0 to 64, --cycle above 0, --memory at most 65536");
    }
    if args.wait && std::io::stdin().read_line(&mut String::new()).context("standard input")? == 0 {
        bail!("standard input ended before the load was let go");
    }
    let end = Instant::now() + Duration::from_secs_f64(args.seconds.clamp(0.0, 86_400.0));
    let threads = args.cores.ceil().max(1.0) as usize;
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| spin(&args, threads, start, end));
        }
        scope.spawn(|| hold_memory(&args, start, end));
    });
    Ok(ExitCode::SUCCESS)
}

/// Where in the cycle we are, 0..1.
fn phase(args: &LoadArgs, start: Instant) -> f64 {
    (start.elapsed().as_secs_f64() / args.cycle).fract()
}

/// The demand in cores at a phase of the cycle.
fn demand(shape: Shape, cores: f64, phase: f64) -> f64 {
    let busy = match shape {
        Shape::Steady => 1.0,
        Shape::Square if phase < 0.5 => 1.0,
        Shape::Burst if phase < 0.1 => 1.0,
        Shape::Square | Shape::Burst => 0.05,
        Shape::Ramp => phase,
    };
    cores * busy
}

fn spin(args: &LoadArgs, threads: usize, start: Instant, end: Instant) {
    while Instant::now() < end {
        let slice = Instant::now();
        let share = (demand(args.shape, args.cores, phase(args, start)) / threads as f64).clamp(0.0, 1.0);
        let busy = SLICE.mul_f64(share);
        while slice.elapsed() < busy {
            std::hint::spin_loop();
        }
        // What throttling took is not caught up with: a container that gets less does less, it does not owe.
        thread::sleep(SLICE.saturating_sub(slice.elapsed().max(busy)));
    }
}

/// Holds memory in touched pages; each MiB is a block of its own so that giving back is real.
fn hold_memory(args: &LoadArgs, start: Instant, end: Instant) {
    let mut held: Vec<Vec<u8>> = Vec::new();
    while Instant::now() < end {
        let grown = if args.shape == Shape::Steady { 1.0 } else { phase(args, start) };
        let wanted = (args.memory as f64 * grown) as usize;
        held.truncate(wanted);
        while held.len() < wanted {
            // Not zero: pages of zeros need not be backed by memory.
            held.push(std::hint::black_box(vec![1_u8; MEBIBYTE]));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_stay_within_their_demand() {
        for shape in [Shape::Steady, Shape::Square, Shape::Ramp, Shape::Burst] {
            for step in 0..100 {
                let demand = demand(shape, 1.5, f64::from(step) / 100.0);
                assert!((0.0..=1.5).contains(&demand), "{shape:?}");
            }
        }
        assert_eq!(demand(Shape::Square, 1.0, 0.2), 1.0);
        assert_eq!(demand(Shape::Square, 1.0, 0.7), 0.05);
    }
}
