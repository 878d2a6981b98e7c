//! The server's process, as the kernel accounts for it.

use std::fs;

/// The kernel's unit of process times on every Linux architecture: USER_HZ.
const TICKS_PER_S: f64 = 100.0;

/// A process by its id.
#[derive(Clone, Copy)]
pub struct Server(pub u32);

impl Server {
    /// CPU seconds that it has used, user and system, of all its threads, those that ended too; 0 when it is gone.
    pub fn cpu_s(self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        // The command's name, in parentheses, may hold anything. utime and stime are fields 14 and 15, the first behind
        // the name is field 3.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
        fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_S
    }

    /// The most memory that it has held, in MiB.
    pub fn peak_rss_mib(self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak.and_then(|kib| kib.trim().trim_end_matches("kB").trim().parse::<f64>().ok()).unwrap_or(0.0) / 1_024.0
    }
}
