//! Whether a container is worse off than before a decrease: the comparison, without what follows from it.

use serde_json::Value;
use tidegate_model::Resource;

use crate::watch::Tuning;

/// Samples that a mean needs, so that one bad second is no regression.
const LEAST_SAMPLES: u32 = 3;
/// How many times as much throttling, and how many times as much pressure, as before.
const THROTTLED_FACTOR: f64 = 3.0;
const PRESSURE_FACTOR: f64 = 2.0;
/// How a container was before a decrease: means and counts over the minute before; `None` where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Before {
    pub throttled: Option<f64>,
    pub pressure: Option<f64>,
    pub oom_kills: Option<f64>,
}

impl Before {
    pub fn of(inputs: &Value) -> Self {
        let number = |name: &str| inputs.get(name).and_then(Value::as_f64);
        Self { throttled: number("throttled"), pressure: number("pressure"), oom_kills: number("oom_kills") }
    }

    /// The better of both, so that a second step down is not excused by what the first one did.
    pub fn least(self, other: Self) -> Self {
        let least = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::min);
        Self {
            throttled: least(self.throttled, other.throttled),
            pressure: least(self.pressure, other.pressure),
            oom_kills: least(self.oom_kills, other.oom_kills),
        }
    }
}

/// A mean that grows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    pub fn push(&mut self, value: Option<f64>) {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            self.sum += value;
            self.count += 1;
        }
    }

    /// The mean, once there are enough samples for one.
    pub fn value(&self) -> Option<f64> {
        (self.count >= LEAST_SAMPLES).then(|| self.sum / f64::from(self.count))
    }
}

/// How a container is since a decrease.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct After {
    pub throttled: Mean,
    pub pressure: Mean,
    /// OOM kills that were not there before.
    pub kills: f64,
}

impl After {
    /// Whether it can be judged.
    pub fn is_enough(&self) -> bool {
        self.throttled.value().is_some() || self.pressure.value().is_some()
    }
}

/// Why the container is worse off than before, if it is.
pub(crate) fn regression(resource: Resource, before: &Before, after: &After, tuning: &Tuning) -> Option<String> {
    if after.kills > 0.0 {
        return Some(format!("the kernel killed {} of its processes for memory", after.kills));
    }
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let throttled = after.throttled.value();
    let throttled_before = before.throttled.unwrap_or(0.0);
    if let Some(now) = throttled.filter(|now| *now > tuning.throttled.max(THROTTLED_FACTOR * throttled_before)) {
        let (now, before) = (percent(now), percent(throttled_before));
        return Some(format!("it was throttled in {now} of the periods, before in {before}"));
    }
    // CPU pressure is also waiting for a busy host; a limit that throttles nobody is not what they wait for.
    if resource.of() == Resource::Cpu && throttled.is_some_and(|now| now <= throttled_before) {
        return None;
    }
    let pressure_before = before.pressure.unwrap_or(0.0);
    let worse = |now: &f64| *now > tuning.pressure + PRESSURE_FACTOR * pressure_before;
    after.pressure.value().filter(worse).map(|now| {
        let (now, before) = (percent(now), percent(pressure_before));
        format!("its tasks waited for {resource} in {now} of the time, before in {before}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PolicyConfig;
    use proptest::option;
    use proptest::prelude::*;

    fn tuning() -> Tuning {
        Tuning::of(&PolicyConfig::default())
    }

    fn after(throttled: Option<f64>, pressure: Option<f64>, kills: f64) -> After {
        let mut after = After { kills, ..After::default() };
        for _ in 0..LEAST_SAMPLES {
            after.throttled.push(throttled);
            after.pressure.push(pressure);
        }
        after
    }

    #[test]
    fn thresholds_are_absolute_and_relative() {
        let cpu = |before: f64, now: f64| {
            let before = Before { throttled: Some(before), ..Before::default() };
            regression(Resource::Cpu, &before, &after(Some(now), None, 0.0), &tuning()).is_some()
        };
        assert_eq!(
            [(0.0, 0.049), (0.0, 0.051), (0.1, 0.29), (0.1, 0.31)].map(|(a, b)| cpu(a, b)),
            [false, true, false, true]
        );
        let memory = |before: f64, now: f64| {
            let before = Before { pressure: Some(before), ..Before::default() };
            regression(Resource::Memory, &before, &after(None, Some(now), 0.0), &tuning()).is_some()
        };
        assert_eq!(
            [(0.0, 0.004), (0.0, 0.006), (0.1, 0.2), (0.1, 0.21)].map(|(a, b)| memory(a, b)),
            [false, true, false, true]
        );
    }

    #[test]
    fn a_busy_host_is_not_the_limits_fault() {
        let before = Before { throttled: Some(0.0), pressure: Some(0.0), oom_kills: None };
        let waits = |throttled| regression(Resource::Cpu, &before, &after(throttled, Some(0.5), 0.0), &tuning());
        assert_eq!(waits(Some(0.0)), None);
        let why = "its tasks waited for cpu in 50.0 % of the time, before in 0.0 %".to_owned();
        assert_eq!((waits(Some(0.01)), waits(None)), (Some(why.clone()), Some(why)));
    }

    #[test]
    fn one_bad_second_is_none_and_what_was_never_measured_is_not_bad() {
        let mut short = After::default();
        short.throttled.push(Some(1.0));
        short.throttled.push(Some(1.0));
        assert_eq!(regression(Resource::Cpu, &Before::default(), &short, &tuning()), None);
        assert_eq!(regression(Resource::Memory, &Before::default(), &after(None, None, 0.0), &tuning()), None);
        assert!(regression(Resource::Memory, &Before::default(), &after(None, None, 1.0), &tuning()).is_some());
    }

    proptest! {
        #[test]
        fn better_figures_are_never_worse(
            memory in any::<bool>(),
            before in (option::of(0.0_f64..1.0), option::of(0.0_f64..1.0)),
            now in (option::of(0.0_f64..1.0), option::of(0.0_f64..1.0)),
            better in (0.0_f64..1.0, 0.0_f64..1.0),
        ) {
            let resource = if memory { Resource::Memory } else { Resource::Cpu };
            let before = Before { throttled: before.0, pressure: before.1, oom_kills: None };
            let less = (now.0.map(|now| now * better.0), now.1.map(|now| now * better.1));
            let found = |(throttled, pressure)| regression(resource, &before, &after(throttled, pressure, 0.0), &tuning());
            if let Some(why) = found(less) {
                prop_assert!(found(now).is_some());
                prop_assert!(!why.contains("NaN") && why.contains("before in"));
            }
            // Nothing is worse than it was.
            let same = (before.throttled, before.pressure);
            prop_assert_eq!(found(same), None);
        }
    }
}
