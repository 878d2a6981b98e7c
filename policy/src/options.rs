//! The options of a rule: their names, what they accept, and what holds where a rule is silent.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_model::{Mode, Resource};

use crate::config::{PolicyConfig, StepsDown};
use crate::error::{PolicyError, PolicyErrorKind};
use crate::parse::RawOption;
use crate::scope::Scope;

/// The `every` of a rule that runs when samples that it reads arrive.
const ARRIVAL: &str = "arrival";
/// Shortest and longest `every`.
const EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// Longest cooldown, age and hold.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest `watch`: what happens much later has other causes.
pub(crate) const LONGEST_WATCH: Duration = Duration::from_secs(600);

/// Which rule has its way when several want the same limit; the first variant outranks the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Keeps the host or the container alive.
    Safety,
    /// Keeps a limit below something: a budget, a power cap. Of several the smallest target wins.
    Cap,
    /// Keeps a container from starving. Of several the largest target wins.
    Protect,
    /// Saves what is not needed. Of several the largest target wins, which is the most careful one.
    Optimise,
}

impl Class {
    const ALL: [Class; 4] = [Class::Safety, Class::Cap, Class::Protect, Class::Optimise];

    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Safety => "safety",
            Class::Cap => "cap",
            Class::Protect => "protect",
            Class::Optimise => "optimise",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Class {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Class::ALL
            .into_iter()
            .find(|class| class.as_str() == name)
            .ok_or_else(|| "expected 'safety', 'cap', 'protect' or 'optimise'".to_owned())
    }
}

/// What the rows of a rule are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Emit {
    /// Proposals of limits: the default.
    Limit,
    /// Rows of the table `events`.
    Event,
    /// Rows of the table `params`.
    Param,
}

/// The options of a rule as they hold, its silences filled from the configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RuleOptions {
    /// Zero for a rule that runs when samples arrive.
    pub every: Duration,
    pub class: Class,
    pub mode: Option<Mode>,
    pub priority: i64,
    pub cooldown_up: Duration,
    pub cooldown_down: Duration,
    pub step_up: Option<f64>,
    step_down: Option<f64>,
    steps_down: StepsDown,
    pub dead_band: f64,
    pub max_age: Duration,
    /// How long a container must have shown data before it may shrink.
    pub warm_up: Duration,
    /// How long a limit is held without data before it goes back to its baseline; zero holds it for ever.
    pub hold_max: Duration,
    /// How long a change stands that the rule does not ask for any more.
    pub ttl: Option<Duration>,
    /// How long a decrease is watched for regression; zero watches none.
    pub watch: Duration,
    /// Which containers the rule is for.
    pub scope: Option<Scope>,
    pub emit: Emit,
}

impl RuleOptions {
    /// Largest decrease at once, as a fraction of the limit.
    pub fn step_down(&self, resource: Resource) -> f64 {
        self.step_down.unwrap_or_else(|| self.steps_down.of(resource))
    }

    /// Fills in what `given` does not say. `given` holds checked values, as [`check`] returns them or the store kept them.
    pub fn resolve(given: &BTreeMap<String, String>, config: &PolicyConfig) -> Result<Self, String> {
        let seconds = Duration::from_secs;
        let step_up = get(given, "step_up", fraction_up)?;
        let step_down = get(given, "step_down", fraction_down)?;
        // A dead band wider than the step would refuse every change; the default one gives way.
        let smallest_step = step_up.unwrap_or(1.0).min(step_down.unwrap_or(1.0));
        let dead_band = get(given, "dead_band", dead_band)?;
        if let (Some(band), Some(step)) =
            (dead_band, step_down.filter(|step| dead_band.is_some_and(|band| *step < band)))
        {
            return Err(format!(
                "step_down = {step} is smaller than dead_band = {band}, so every decrease would be refused"
            ));
        }
        if let (Some(band), Some(step)) = (dead_band, step_up.filter(|step| dead_band.is_some_and(|band| *step < band)))
        {
            return Err(format!(
                "step_up = {step} is smaller than dead_band = {band}, so every increase would be refused"
            ));
        }
        let class = get(given, "class", Class::from_str)?.unwrap_or(Class::Protect);
        // A cap is there to be felt, and what keeps a host alive must not be taken back for the sake of one container.
        let watched = if matches!(class, Class::Protect | Class::Optimise) { config.watch_s } else { 0 };
        let period = get(given, "every", every)?.unwrap_or(EVERY.0);
        if let Some(ttl) = get(given, "ttl", ttl)?.filter(|ttl| *ttl <= period) {
            return Err(format!(
                "ttl = {} is not longer than every = {}, so each change would end before the rule can ask again",
                duration_text(ttl),
                duration_text(period)
            ));
        }
        Ok(Self {
            every: get(given, "every", every)?.unwrap_or(EVERY.0),
            class,
            mode: get(given, "mode", Mode::from_str)?,
            priority: get(given, "priority", priority)?.unwrap_or(0),
            cooldown_up: get(given, "cooldown_up", span)?.unwrap_or(seconds(config.cooldown_up_s)),
            cooldown_down: get(given, "cooldown_down", span)?.unwrap_or(seconds(config.cooldown_down_s)),
            step_up,
            step_down,
            steps_down: config.steps_down(),
            dead_band: dead_band.unwrap_or(config.dead_band.min(smallest_step)),
            max_age: get(given, "max_age", span)?.unwrap_or(seconds(config.max_age_s)),
            warm_up: get(given, "warm_up", span)?.unwrap_or(seconds(config.warm_up_s)),
            hold_max: get(given, "hold_max", hold_max)?.unwrap_or(seconds(config.hold_max_s)),
            ttl: get(given, "ttl", ttl)?,
            watch: get(given, "watch", watch)?.unwrap_or(seconds(watched)),
            scope: get(given, "scope", Scope::from_str)?,
            emit: get(given, "emit", emit)?.unwrap_or(Emit::Limit),
        })
    }
}

fn get<T>(
    given: &BTreeMap<String, String>,
    name: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    let Some(text) = given.get(name) else { return Ok(None) };
    read(text).map(Some).map_err(|why| format!("{name} = '{text}': {why}"))
}

/// Checks an option's value and puts it into one form.
type Canonical = fn(&str) -> Result<String, String>;

/// Every option.
const OPTIONS: [(&str, Canonical); 16] = [
    ("every", |text| {
        every(text).map(|period| if period.is_zero() { ARRIVAL.to_owned() } else { duration_text(period) })
    }),
    ("class", |text| Class::from_str(text).map(|class| class.to_string())),
    ("mode", |text| Mode::from_str(text).map(|mode| mode.to_string())),
    ("priority", |text| priority(text).map(|value| value.to_string())),
    ("cooldown_up", |text| span(text).map(duration_text)),
    ("cooldown_down", |text| span(text).map(duration_text)),
    ("step_up", |text| fraction_up(text).map(|value| value.to_string())),
    ("step_down", |text| fraction_down(text).map(|value| value.to_string())),
    ("dead_band", |text| dead_band(text).map(|value| value.to_string())),
    ("max_age", |text| span(text).map(duration_text)),
    ("warm_up", |text| span(text).map(duration_text)),
    ("hold_max", |text| hold_max(text).map(duration_text)),
    ("ttl", |text| ttl(text).map(duration_text)),
    ("watch", |text| watch(text).map(duration_text)),
    ("scope", |text| Scope::from_str(text).map(|scope| scope.to_string())),
    ("emit", |text| emit(text).map(|_| text.to_owned())),
];

/// Checks options as they were written; the result maps each name to its value in one canonical form.
pub(crate) fn check(raw: &[RawOption]) -> Result<BTreeMap<String, String>, PolicyError> {
    let mut checked = BTreeMap::new();
    for RawOption { name, value } in raw {
        let Some((_, canonical)) = OPTIONS.iter().find(|(known, _)| *known == name.value) else {
            return Err(unknown(&name.value).at(name.span));
        };
        let value = canonical(&value.value).map_err(|why| {
            let message = format!("{} = '{}': {why}", name.value, value.value);
            PolicyError::new(PolicyErrorKind::Option, message).at(value.span)
        })?;
        if checked.insert(name.value.clone(), value).is_some() {
            let message = format!("option '{}' is given twice", name.value);
            return Err(PolicyError::new(PolicyErrorKind::Option, message).at(name.span));
        }
    }
    Ok(checked)
}

fn unknown(name: &str) -> PolicyError {
    let all = OPTIONS.map(|(known, _)| known);
    let nearest =
        all.into_iter().max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    let hint = nearest.filter(|near| strsim::jaro_winkler(near, name) > 0.7);
    let message = match hint {
        Some(near) => format!("unknown option '{name}', did you mean '{near}'?"),
        None => format!("unknown option '{name}'"),
    };
    PolicyError::new(PolicyErrorKind::Option, message).help(format!("the options are {}", all.join(", ")))
}

fn every(text: &str) -> Result<Duration, String> {
    if text.trim() == ARRIVAL {
        return Ok(Duration::ZERO);
    }
    let value = span(text)?;
    if value < EVERY.0 || value > EVERY.1 || value.subsec_nanos() != 0 {
        return Err("expected whole seconds from '1s' to '1h', or 'arrival'".to_owned());
    }
    Ok(value)
}

fn span(text: &str) -> Result<Duration, String> {
    let value = humantime::parse_duration(text.trim())
        .map_err(|_| "expected a duration with its unit, such as '10s' or '5m'".to_owned())?;
    if value > LONGEST {
        return Err("expected at most '7d'".to_owned());
    }
    // The loop's clock counts milliseconds.
    Ok(Duration::from_millis(value.as_millis() as u64))
}

fn hold_max(text: &str) -> Result<Duration, String> {
    let value = span(text)?;
    // The newest sample is looked for in the last minute; a shorter hold could not be told from a slow source.
    if !value.is_zero() && value < Duration::from_secs(60) {
        return Err("expected at least '1m', or '0s' to hold a limit without data for ever".to_owned());
    }
    Ok(value)
}

fn ttl(text: &str) -> Result<Duration, String> {
    let value = span(text)?;
    if value < EVERY.0 {
        return Err("expected at least '1s'".to_owned());
    }
    Ok(value)
}

fn watch(text: &str) -> Result<Duration, String> {
    let value = span(text)?;
    if value > LONGEST_WATCH {
        return Err("expected at most '10m'; '0s' watches nothing".to_owned());
    }
    Ok(value)
}

fn duration_text(value: Duration) -> String {
    humantime::format_duration(value).to_string()
}

fn priority(text: &str) -> Result<i64, String> {
    text.parse::<i32>().map(i64::from).map_err(|_| "expected a whole number; the higher one wins".to_owned())
}

fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}

fn fraction_up(text: &str) -> Result<f64, String> {
    let wanted = "expected a fraction of the limit above 0, such as 0.5 for at most half as much again";
    number(text).filter(|value| *value > 0.0 && *value <= 100.0).ok_or_else(|| wanted.to_owned())
}

fn fraction_down(text: &str) -> Result<f64, String> {
    let wanted = "expected a fraction of the limit above 0 and up to 1, such as 0.05";
    number(text).filter(|value| *value > 0.0 && *value <= 1.0).ok_or_else(|| wanted.to_owned())
}

fn dead_band(text: &str) -> Result<f64, String> {
    let wanted = "expected a fraction of the limit from 0 to below 1, such as 0.05";
    number(text).filter(|value| *value >= 0.0 && *value < 1.0).ok_or_else(|| wanted.to_owned())
}

fn emit(text: &str) -> Result<Emit, String> {
    match text {
        "limit" => Ok(Emit::Limit),
        "event" => Ok(Emit::Event),
        "param" => Ok(Emit::Param),
        _ => Err("expected 'limit', 'event' or 'param'".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Span, Spanned};

    fn raw(pairs: &[(&str, &str)]) -> Vec<RawOption> {
        let span = Span { line: 1, column: 1, end_line: 1, end_column: 2 };
        let spanned = |text: &str| Spanned { value: text.to_owned(), span };
        pairs.iter().map(|(name, value)| RawOption { name: spanned(name), value: spanned(value) }).collect()
    }

    fn message(pairs: &[(&str, &str)]) -> String {
        check(&raw(pairs)).unwrap_err().message
    }

    #[test]
    fn a_misspelt_option_is_told_its_nearest_name() {
        assert_eq!(message(&[("cooldwn_up", "1s")]), "unknown option 'cooldwn_up', did you mean 'cooldown_up'?");
        assert_eq!(message(&[("zzz", "1s")]), "unknown option 'zzz'");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        assert!(message(&[("every", "500ms")]).contains("whole seconds"));
        assert!(message(&[("every", "2h")]).contains("'1h'"));
        assert!(message(&[("mode", "live")]).contains("expected 'off', 'shadow', 'canary n %'"));
        assert!(message(&[("step_down", "1.5")]).contains("fraction"));
        assert!(message(&[("step_up", "NaN")]).contains("fraction"));
        assert!(message(&[("max_age", "10")]).contains("with its unit"));
        assert!(message(&[("hold_max", "5s")]).contains("at least '1m'"));
        assert!(message(&[("ttl", "0s")]).contains("at least '1s'"));
        assert!(message(&[("watch", "1h")]).contains("at most '10m'"));
        assert!(message(&[("scope", "app =")]).contains("expected a value"));
        assert_eq!(message(&[("every", "1s"), ("every", "1s")]), "option 'every' is given twice");
    }

    #[test]
    fn values_take_one_form() {
        let checked = check(&raw(&[("cooldown_down", "90 s"), ("step_down", "0.050")])).unwrap();
        assert_eq!(checked["cooldown_down"], "1m 30s");
        assert_eq!(checked["step_down"], "0.05");
        let checked = check(&raw(&[("mode", "canary 5%"), ("scope", "app=shop,!batch"), ("hold_max", "0s")])).unwrap();
        assert_eq!((&*checked["mode"], &*checked["scope"]), ("canary 5 %", "app = shop, !batch"));
        let again: Vec<_> = checked.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(check(&raw(&again)).unwrap(), checked);
    }

    #[test]
    fn silences_are_filled_from_the_configuration() {
        let config = PolicyConfig::default();
        let options = RuleOptions::resolve(&BTreeMap::new(), &config).unwrap();
        assert_eq!(options.every, Duration::from_secs(1));
        assert_eq!(options.class, Class::Protect);
        assert_eq!(options.step_down(Resource::Memory), config.step_down_memory);
        let watched = |class: &str| {
            let class = BTreeMap::from([("class".to_owned(), class.to_owned())]);
            RuleOptions::resolve(&class, &config).unwrap().watch.as_secs()
        };
        assert_eq!(["safety", "cap", "protect", "optimise"].map(watched), [0, 0, config.watch_s, config.watch_s]);
        assert_eq!((options.hold_max.as_secs(), options.ttl, options.scope), (config.hold_max_s, None, None));
        let small_steps = BTreeMap::from([("step_down".to_owned(), "0.01".to_owned())]);
        assert_eq!(RuleOptions::resolve(&small_steps, &config).unwrap().dead_band, 0.01);
    }

    #[test]
    fn a_dead_band_that_no_step_can_leave_is_a_mistake() {
        let options = check(&raw(&[("step_down", "0.02"), ("dead_band", "0.05")])).unwrap();
        let why = RuleOptions::resolve(&options, &PolicyConfig::default()).unwrap_err();
        assert!(why.contains("every decrease would be refused"), "{why}");
    }
}
