//! What a knob is called and what it may be set to, checked before the kernel is asked.

use std::collections::BTreeMap;
use std::fmt;

use tidegate_model::{Limit, Resource};

use crate::cgroup::WEIGHTS;
use crate::labels::{bytes, number};
use crate::pinning::{list_text, parse_list};
use crate::quota::{MAX_QUOTA_US, page_size};

/// More operations a second than the kernel counts are none of a limit to it: it cuts them off to "no limit" silently.
const MOST_IOPS: u64 = u32::MAX as u64 - 1;
/// The keys of `io.max`, in its own order.
pub(crate) const RATES: [&str; 4] = ["rbps", "wbps", "riops", "wiops"];

/// A block device, a whole disk, by the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Device {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl Device {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

/// One knob of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Knob {
    CpuWeight,
    CpuBurst,
    Cpus,
    MemoryHigh,
    SwapMax,
    IoMax(Device),
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CpuWeight => f.write_str("cpu.weight"),
            Self::CpuBurst => f.write_str("cpu.burst"),
            Self::Cpus => f.write_str("cpuset.cpus"),
            Self::MemoryHigh => f.write_str("memory.high"),
            Self::SwapMax => f.write_str("memory.swap.max"),
            Self::IoMax(device) => write!(f, "io.max {device}"),
        }
    }
}

impl Knob {
    /// The knob that a rule aims at with `resource`.
    pub(crate) fn of(resource: Resource) -> Option<Self> {
        match resource {
            Resource::CpuWeight => Some(Self::CpuWeight),
            Resource::MemoryHigh => Some(Self::MemoryHigh),
            _ => None,
        }
    }

    /// The knob of that name, as it is displayed.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let plain = [Self::CpuWeight, Self::CpuBurst, Self::Cpus, Self::MemoryHigh, Self::SwapMax];
        match name.strip_prefix("io.max ") {
            Some(device) => Device::parse(device).map(Self::IoMax),
            None => plain.into_iter().find(|knob| knob.to_string() == name),
        }
    }
}

/// Limits on one device: of each of [`RATES`], `None` when it is left as it is, else a number a second or none at all.
pub(crate) type Rates = [Option<Option<u64>>; 4];

/// What one knob shall be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Setting {
    /// 1 to 10000; 100 is what everybody has who was given nothing.
    Weight(u64),
    /// What may be saved up and spent beyond the quota within a period, in µs.
    Burst(u64),
    /// In ascending order, at least one.
    Cpus(Vec<u32>),
    /// Bytes.
    High(Limit),
    /// Bytes, of swap alone.
    SwapMax(Limit),
    Io(Device, Rates),
}

impl Setting {
    pub(crate) fn knob(&self) -> Knob {
        match self {
            Self::Weight(_) => Knob::CpuWeight,
            Self::Burst(_) => Knob::CpuBurst,
            Self::Cpus(_) => Knob::Cpus,
            Self::High(_) => Knob::MemoryHigh,
            Self::SwapMax(_) => Knob::SwapMax,
            Self::Io(device, _) => Knob::IoMax(*device),
        }
    }

    /// The rate of [`RATES`] that it sets on a device, if it does.
    pub(crate) fn rate(&self, at: usize) -> Option<Option<u64>> {
        match self {
            Self::Io(_, rates) => rates[at],
            _ => None,
        }
    }

    /// All rates of the device as they were `found`, but for those that it sets; nothing of other knobs.
    pub(crate) fn beside(&self, found: &str) -> Option<String> {
        match self {
            Self::Io(_, rates) => Some(rates_text(rates, &parse_rates(found).unwrap_or_default())),
            _ => None,
        }
    }

    /// As a number for events: a weight, µs, how many CPUs, bytes or the first rate; zero stands for no limit.
    pub(crate) fn value(&self) -> f64 {
        match self {
            Self::Weight(value) | Self::Burst(value) => *value as f64,
            Self::Cpus(cpus) => cpus.len() as f64,
            Self::High(limit) | Self::SwapMax(limit) => limit.value().unwrap_or(0.0),
            Self::Io(_, rates) => rates.iter().flatten().flatten().next().map_or(0.0, |rate| *rate as f64),
        }
    }

    pub(crate) fn weight(weight: u64) -> Result<Self, String> {
        WEIGHTS.contains(&weight).then_some(Self::Weight(weight)).ok_or_else(|| {
            format!("'{weight}' is no weight: expected a whole number from {} to {}", WEIGHTS.start(), WEIGHTS.end())
        })
    }

    pub(crate) fn burst(us: u64) -> Result<Self, String> {
        (us <= MAX_QUOTA_US).then_some(Self::Burst(us)).ok_or_else(|| {
            format!("'{us}' is no burst: expected microseconds from 0 to {MAX_QUOTA_US}; no more than the quota counts")
        })
    }

    pub(crate) fn cpus(text: &str) -> Result<Self, String> {
        let mut cpus = parse_list(text).filter(|cpus| !cpus.is_empty()).ok_or_else(|| {
            format!("'{text}' is no list of CPUs: expected one such as '0-3,6', with at least one of them")
        })?;
        cpus.sort_unstable();
        cpus.dedup();
        Ok(Self::Cpus(cpus))
    }

    pub(crate) fn high(text: &str) -> Result<Self, String> {
        let least = page_size();
        amount(text, least).map(Self::High).ok_or_else(|| {
            format!("'{text}' is no limit: expected bytes such as 512MiB, at least a page of {least}, or max")
        })
    }

    pub(crate) fn swap_max(text: &str) -> Result<Self, String> {
        amount(text, 0)
            .map(Self::SwapMax)
            .ok_or_else(|| format!("'{text}' is no limit: expected bytes of swap such as 0 or 512MiB, or max"))
    }

    /// `8:0 rbps=10MiB wiops=100`.
    pub(crate) fn io(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let device = words.next().and_then(Device::parse).ok_or_else(|| {
            format!("'{text}' names no device: expected its numbers, as lsblk lists them, and limits: '8:0 rbps=10MiB'")
        })?;
        let mut rates = Rates::default();
        for word in words {
            let rate = word.split_once('=').and_then(|(key, value)| {
                let at = RATES.iter().position(|rate| *rate == key)?;
                Some((at, rate(key, value)?))
            });
            let (at, rate) = rate.ok_or_else(|| {
                format!(
                    "'{word}' of '{text}' is no limit: expected rbps, wbps (from 1 byte a second), riops or wiops (from 1 to \
                     {MOST_IOPS} operations a second), '=' and a number or max"
                )
            })?;
            rates[at] = Some(rate);
        }
        if rates == Rates::default() {
            return Err(format!("'{text}' limits nothing: expected at least one of rbps, wbps, riops, wiops"));
        }
        Ok(Self::Io(device, rates))
    }
}

/// Bytes, or `max`.
fn amount(text: &str, least: u64) -> Option<Limit> {
    if text.trim() == "max" {
        return Some(Limit::Unlimited);
    }
    bytes(text.trim()).filter(|bytes| (least as f64..9e18).contains(bytes)).map(Limit::At)
}

fn rate(key: &str, value: &str) -> Option<Option<u64>> {
    if value == "max" {
        return Some(None);
    }
    let (amount, most) = match key.ends_with("iops") {
        true => (number(value).filter(|count| count.fract() == 0.0)?, MOST_IOPS as f64),
        false => (bytes(value)?, 9e18),
    };
    (1.0..=most).contains(&amount).then_some(Some(amount as u64))
}

/// Rates as one line in the order of [`RATES`], those that are not named as `found` has them.
pub(crate) fn rates_text(rates: &Rates, found: &Rates) -> String {
    let text = |at: usize| {
        let rate = rates[at].or(found[at]).flatten();
        format!("{}={}", RATES[at], rate.map_or_else(|| "max".to_owned(), |rate| rate.to_string()))
    };
    [0, 1, 2, 3].map(text).join(" ")
}

/// What [`rates_text`] wrote, or the kernel.
pub(crate) fn parse_rates(text: &str) -> Option<Rates> {
    let mut rates = Rates::default();
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=')?;
        // The kernel may say more of a device than is known here.
        let Some(at) = RATES.iter().position(|rate| *rate == key) else { continue };
        rates[at] = Some(if value == "max" { None } else { Some(value.parse().ok()?) });
    }
    Some(rates)
}

/// A setting as a person would write it.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weight(weight) => write!(f, "{weight}"),
            Self::Burst(us) => write!(f, "{us} us"),
            Self::Cpus(cpus) => f.write_str(&list_text(cpus.iter().copied())),
            Self::High(limit) | Self::SwapMax(limit) => match limit.value() {
                Some(bytes) => write!(f, "{bytes}"),
                None => f.write_str("max"),
            },
            Self::Io(_, rates) => f.write_str(&rates_text(rates, &Rates::default())),
        }
    }
}

/// What a container's knobs shall be, each at most once.
pub(crate) type Wishes = BTreeMap<Knob, Setting>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_told_with_the_value_and_the_range() {
        for (result, parts) in [
            (Setting::weight(0), ["'0'", "1 to 10000"]),
            (Setting::weight(10_001), ["'10001'", "1 to 10000"]),
            (Setting::burst(1 << 50), ["microseconds", "from 0 to"]),
            (Setting::cpus(""), ["''", "at least one"]),
            (Setting::cpus("3-1"), ["'3-1'", "0-3,6"]),
            (Setting::high("100"), ["'100'", "at least a page"]),
            (Setting::high("2g"), ["'2g'", "512MiB"]),
            (Setting::swap_max("-1"), ["'-1'", "or max"]),
            (Setting::io("sda rbps=1"), ["'sda rbps=1'", "lsblk"]),
            (Setting::io("8:0"), ["'8:0'", "at least one of rbps"]),
            (Setting::io("8:0 rbps=0"), ["'rbps=0'", "from 1 byte"]),
            (Setting::io("8:0 wiops=4294967295"), ["'wiops=4294967295'", "from 1 to 4294967294"]),
            (Setting::io("8:0 iops=5"), ["'iops=5'", "riops or wiops"]),
        ] {
            let error = result.unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn what_is_within_range_is_taken() {
        assert_eq!(Setting::weight(10_000), Ok(Setting::Weight(10_000)));
        assert_eq!(Setting::burst(0), Ok(Setting::Burst(0)));
        assert_eq!(Setting::cpus("6,0-2,1"), Ok(Setting::Cpus(vec![0, 1, 2, 6])));
        assert_eq!(Setting::high("1GiB"), Ok(Setting::High(Limit::At(1_073_741_824.0))));
        assert_eq!(Setting::high("max"), Ok(Setting::High(Limit::Unlimited)));
        assert_eq!(Setting::swap_max("0"), Ok(Setting::SwapMax(Limit::At(0.0))));
        let device = Device { major: 8, minor: 16 };
        let rates = [Some(Some(10_485_760)), None, None, Some(None)];
        assert_eq!(Setting::io("8:16 rbps=10MiB wiops=max"), Ok(Setting::Io(device, rates)));
    }

    #[test]
    fn names_lead_back_to_their_knobs() {
        let device = Device { major: 254, minor: 0 };
        let knobs = [Knob::CpuWeight, Knob::CpuBurst, Knob::Cpus, Knob::MemoryHigh, Knob::SwapMax, Knob::IoMax(device)];
        for knob in knobs {
            assert_eq!(Knob::named(&knob.to_string()), Some(knob));
        }
        assert_eq!(Knob::named("io.max sda"), None);
    }

    #[test]
    fn rates_that_are_not_named_stay_as_they_are() {
        let found = parse_rates("rbps=5 wbps=max riops=7 wiops=max").unwrap();
        let Ok(Setting::Io(_, rates)) = Setting::io("8:0 wbps=9 riops=max") else { panic!("no setting") };
        assert_eq!(rates_text(&rates, &found), "rbps=5 wbps=9 riops=max wiops=max");
        assert_eq!(parse_rates("rbps=5 rlat=3").unwrap()[0], Some(Some(5)));
        assert_eq!(parse_rates("rbps=x"), None);
    }
}
