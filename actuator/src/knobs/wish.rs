//! From the configuration and a container's labels to what its knobs shall be.

use serde::{Deserialize, Serialize};

use crate::knobs::setting::{Setting, Wishes};

/// Knobs of the containers whose name matches; what is left out is left as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnobRule {
    /// Name with `*` and `?`.
    pub container: String,
    /// Share of CPU time when there is not enough for all, 1 to 10000; 100 is everybody's.
    #[serde(default)]
    pub cpu_weight: Option<u64>,
    /// CPU time in µs that may be saved up and spent beyond the quota; at most the quota counts.
    #[serde(default)]
    pub cpu_burst_us: Option<u64>,
    /// The CPUs that it runs on, such as `0-3,6`.
    #[serde(default)]
    pub cpus: Option<String>,
    /// Memory above which it is slowed down and reclaimed from, such as `512MiB`, or `max`.
    #[serde(default)]
    pub memory_high: Option<String>,
    /// Swap that it may use, such as `0` or `512MiB`, or `max`.
    #[serde(default)]
    pub memory_swap_max: Option<String>,
    /// Rates a second of disks, such as `8:0 rbps=10MiB wiops=100`, one device an entry.
    #[serde(default)]
    pub io_max: Vec<String>,
}

impl KnobRule {
    /// What it asks for.
    ///
    /// # Errors
    /// A value cannot be meant; the error names knob, value and what is allowed.
    pub(crate) fn wishes(&self) -> Result<Wishes, String> {
        let named = |name: &str, setting: Result<Setting, String>| setting.map_err(|error| format!("{name}: {error}"));
        let single = [
            self.cpu_weight.map(|weight| named("cpu_weight", Setting::weight(weight))),
            self.cpu_burst_us.map(|us| named("cpu_burst_us", Setting::burst(us))),
            self.cpus.as_deref().map(|text| named("cpus", Setting::cpus(text))),
            self.memory_high.as_deref().map(|text| named("memory_high", Setting::high(text))),
            self.memory_swap_max.as_deref().map(|text| named("memory_swap_max", Setting::swap_max(text))),
        ];
        let devices = self.io_max.iter().map(|text| named("io_max", Setting::io(text)));
        let settings = single.into_iter().flatten().chain(devices);
        settings.map(|setting| setting.map(|setting| (setting.knob(), setting))).collect()
    }
}

/// What the label `tidegate.` + `key` asks for; `None` when it is about no knob.
pub(crate) fn labelled(key: &str, value: &str) -> Option<Result<Wishes, String>> {
    let whole = |text: &str| text.parse::<u64>().map_err(|_| format!("'{text}' is no whole number"));
    let one = |setting: Result<Setting, String>| setting.map(|setting| [(setting.knob(), setting)].into());
    Some(match key {
        "cpu.weight" => one(whole(value).and_then(Setting::weight)),
        "cpu.burst_us" => one(whole(value).and_then(Setting::burst)),
        "cpus" => one(Setting::cpus(value)),
        "memory.high" => one(Setting::high(value)),
        "memory.swap.max" => one(Setting::swap_max(value)),
        "io.max" => {
            let devices = value.split(';').filter(|text| !text.trim().is_empty());
            devices.map(|text| Setting::io(text).map(|setting| (setting.knob(), setting))).collect()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knobs::setting::Knob;

    #[test]
    fn a_rule_says_what_is_wrong_with_which_value() {
        let rule = KnobRule { container: "db".into(), cpu_weight: Some(0), ..Default::default() };
        let error = rule.wishes().unwrap_err();
        assert!(error.contains("cpu_weight") && error.contains("'0'") && error.contains("1 to 10000"), "{error}");
        let io = vec!["8:0 rbps=1".to_owned(), "8:16 wbps=1".to_owned()];
        let rule = KnobRule { cpu_weight: Some(5), cpus: Some("1".into()), io_max: io, ..Default::default() };
        assert_eq!(rule.wishes().unwrap().len(), 4);
        assert!(KnobRule::default().wishes().unwrap().is_empty());
    }

    #[test]
    fn labels_ask_for_the_same() {
        let wishes = |key, value| labelled(key, value).unwrap();
        assert_eq!(wishes("cpu.weight", "200").unwrap()[&Knob::CpuWeight], Setting::Weight(200));
        assert_eq!(wishes("io.max", "8:0 rbps=1MiB; 8:16 wiops=5").unwrap().len(), 2);
        assert!(wishes("cpu.weight", "much").unwrap_err().contains("'much'"));
        assert!(wishes("io.max", "8:0 rbps=0").is_err());
        assert!(labelled("cpu.max", "1").is_none());
    }
}
