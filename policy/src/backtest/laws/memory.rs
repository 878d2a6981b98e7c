//! Laws for memory limits, in bytes.

use super::boundary::Boundary;
use super::window::{Decayed, Peak};
use super::{DAY_S, HOUR_S, Law, Seen, cpu};

const MIB: f64 = 1_048_576.0;

/// What VPA takes a process to have wanted that was killed at its limit: 100 MiB or 20 % more.
fn bumped(limit: f64) -> f64 {
    (limit + 100.0 * MIB).max(1.2 * limit)
}

/// As [`cpu::Vpa`]; a kill counts as a sample above the limit, and raises it at once.
#[derive(Clone, Debug)]
pub(super) struct Vpa(cpu::Vpa);

impl Vpa {
    pub fn new() -> Self {
        Self(cpu::Vpa::new())
    }
}

impl Law for Vpa {
    fn next(&mut self, seen: &Seen) -> f64 {
        if seen.killed {
            let bumped = bumped(seen.limit);
            return self.0.recommended(seen, bumped).max(bumped);
        }
        self.0.recommended(seen, seen.used)
    }
}

/// Autopilot's moving window for memory: the 98th percentile of five-minute peaks with a half-life of 48 h, plus 12 %, and
/// of that the peak of the last hour.
#[derive(Clone, Debug)]
pub(super) struct Autopilot {
    seen: Decayed,
    five_minutes: Peak,
    highest: Peak,
}

impl Autopilot {
    pub fn new() -> Self {
        Self { seen: Decayed::new(48.0 * HOUR_S), five_minutes: Peak::new(300.0), highest: Peak::new(HOUR_S) }
    }
}

impl Law for Autopilot {
    fn next(&mut self, seen: &Seen) -> f64 {
        let value = if seen.killed { bumped(seen.limit) } else { seen.used };
        let peak = self.five_minutes.push(seen.at_s, value);
        self.seen.add(seen.at_s, peak, 1.0);
        self.highest.push(seen.at_s, 1.12 * self.seen.quantile(0.98))
    }
}

/// A hard limit out of long history: max(1.15 p98 with a half-life of 48 h, 1.10 peak of 24 h, and after a kill what VPA
/// takes, which decays with a half-life of 24 h). Raised at once; lowered by at most 1 % a minute, not in a container's first
/// hour, and only when it uses no more than nine tenths of the new limit.
#[derive(Clone, Debug)]
pub(super) struct Hard {
    seen: Decayed,
    day: Peak,
    first_s: Option<f64>,
    bump: Option<(f64, f64)>,
}

impl Hard {
    pub fn new() -> Self {
        Self { seen: Decayed::new(48.0 * HOUR_S), day: Peak::new(DAY_S), first_s: None, bump: None }
    }
}

impl Law for Hard {
    fn next(&mut self, seen: &Seen) -> f64 {
        let Seen { at_s, used, limit, .. } = *seen;
        let first_s = *self.first_s.get_or_insert(at_s);
        self.seen.add(at_s, used, 1.0);
        let peak = self.day.push(at_s, used);
        if seen.killed {
            self.bump = Some((at_s, bumped(limit)));
        }
        let bump = self.bump.map_or(0.0, |(bumped_s, bump)| bump * (-(at_s - bumped_s) / DAY_S).exp2());
        let want = (1.15 * self.seen.quantile(0.98)).max(1.10 * peak).max(bump);
        if want > limit {
            return want;
        }
        let least = limit * 0.99_f64.powf(seen.step_s / 60.0);
        let may = at_s - first_s >= HOUR_S && used <= 0.9 * want;
        if may { want.max(least) } else { limit }
    }
}

/// See [`Boundary`]; 5 % as memory has it.
pub(super) fn boundary() -> Boundary {
    Boundary::new(0.05)
}
