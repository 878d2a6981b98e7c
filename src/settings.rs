//! Every setting as a flag and as an environment variable, made from the configuration's own defaults.
//!
//! The leaves of the default [`Config`](crate::config::Config) are the settings: `store.retention_s` is the flag
//! `--store-retention-s` and the variable `TIDEGATE_STORE_RETENTION_S`. So a setting that a room adds is a flag at once.

use std::collections::BTreeMap;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, Error, FromArgMatches};
use serde_json::Value;
use tidegate_web::{Origin, Setting};

use crate::config::Config;

const PREFIX: &str = "TIDEGATE_";
/// Variables with the prefix that are no settings: they steer the command line itself.
const OTHER_VARIABLES: [&str; 5] =
    ["TIDEGATE_CONFIG", "TIDEGATE_LOG", "TIDEGATE_SERVER", "TIDEGATE_TOKEN", "TIDEGATE_OUTPUT"];

/// The settings given as flags or variables: path such as `store.retention_s` to text and where it comes from.
#[derive(Clone, Debug, Default)]
pub struct Given(pub BTreeMap<String, (String, Origin)>);

/// The paths of all settings with their default values.
pub fn known() -> BTreeMap<String, Value> {
    let defaults = serde_json::to_value(Config::default()).expect("the default configuration is plain data");
    let mut leaves = BTreeMap::new();
    collect(&defaults, "", &mut leaves);
    leaves
}

fn collect(value: &Value, path: &str, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, field) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(field, &path, leaves);
            }
        }
        leaf => {
            leaves.insert(path.to_owned(), leaf.clone());
        }
    }
}

/// Words in the name of a setting whose value is nobody's business.
const SECRET_WORDS: [&str; 4] = ["secret", "password", "sha256", "private_key"];
/// Stands in the place of a secret.
const MASK: &str = "•••";

/// What is in force of `config`, setting by setting, for people to read: with origins, without secrets.
pub fn shown(config: &Config, origins: &BTreeMap<String, Origin>) -> Vec<Setting> {
    let in_force = serde_json::to_value(config).expect("a configuration is plain data");
    let setting = |(path, _): (String, Value)| {
        let value = path.split('.').try_fold(&in_force, |value, name| value.get(name)).cloned().unwrap_or_default();
        let origin = origins.get(&path).copied().unwrap_or(Origin::Default);
        Setting { value: masked(&path, value), origin, path }
    };
    known().into_iter().map(setting).collect()
}

/// The settings of `config` that are not as they are by default.
pub fn changed(config: &Config) -> impl Iterator<Item = String> {
    let in_force = serde_json::to_value(config).expect("a configuration is plain data");
    known().into_iter().filter_map(move |(path, default)| {
        let value = path.split('.').try_fold(&in_force, |value, name| value.get(name));
        (value != Some(&default)).then_some(path)
    })
}

fn masked(name: &str, value: Value) -> Value {
    match value {
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name.clone(), masked(&name, value))).collect(),
        Value::Array(items) => items.into_iter().map(|item| masked(name, item)).collect(),
        Value::Null => Value::Null,
        _ if SECRET_WORDS.iter().any(|word| name.contains(word)) => MASK.into(),
        Value::String(text) => without_credentials(&text).into(),
        plain => plain,
    }
}

/// An address without what stands before its host: `https://user:password@host/`.
fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((credentials, _)) => format!("{scheme}://{MASK}{}", &rest[credentials.len()..]),
        None => text.to_owned(),
    }
}

/// The known setting that looks most like `path`, when one looks alike at all.
pub fn nearest(path: &str) -> Option<String> {
    known()
        .into_keys()
        .map(|key| (strsim::jaro_winkler(&key, path), key))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key)
}

/// A variable with our prefix that is no setting: its name and the setting it may have meant.
pub fn unknown_variable() -> Option<(String, Option<String>)> {
    let known: Vec<String> = known().keys().map(|path| variable(path)).collect();
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with(PREFIX))
        // The test suite's own switches share the prefix; they steer tests, never the program.
        .filter(|name| !name.starts_with("TIDEGATE_TEST_"))
        .find(|name| !known.contains(name) && !OTHER_VARIABLES.contains(&name.as_str()))
        .map(|name| {
            let meant = nearest(&name[PREFIX.len()..].to_lowercase()).map(|path| variable(&path));
            (name, meant)
        })
}

fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "_").to_uppercase())
}

impl clap::Args for Given {
    fn augment_args(command: Command) -> Command {
        known().into_iter().fold(command, |command, (path, default)| {
            let default = match &default {
                Value::Null => "unset".to_owned(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let arg = Arg::new(path.clone())
                .long(path.replace(['.', '_'], "-"))
                .env(variable(&path))
                .value_name("VALUE")
                .help_heading("Settings")
                .help(format!("{path} in the configuration file [default: {default}]"))
                // The everyday ones stand in the short help, all of them in --help.
                .hide_short_help(path.contains('.'));
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given = known().into_keys().filter_map(|path| {
            let value = matches.get_one::<String>(&path)?.clone();
            let origin = match matches.value_source(&path) {
                Some(ValueSource::EnvVariable) => Origin::Environment,
                _ => Origin::Flag,
            };
            Some((path, (value, origin)))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_of_every_room_is_a_flag() {
        let known = known();
        for path in ["listen", "data_dir", "store.retention_s", "policy.tick_delay_ms", "actuator.discover"] {
            assert!(known.contains_key(path), "{path} is missing in {known:?}");
        }
    }

    #[test]
    fn what_is_shown_holds_no_secret() {
        assert_eq!(without_credentials("https://me:pass@host:1/x@y"), "https://•••@host:1/x@y");
        assert_eq!(without_credentials("https://host/x@y"), "https://host/x@y");
        let mut config = Config::default();
        config.agent.server = Some("https://me:hush@far".to_owned());
        config.tokens.push(tidegate_web::TokenRecord {
            name: "ops".to_owned(),
            sha256: "00ff".repeat(16),
            rights: [tidegate_web::Right::Read].into(),
        });
        let origins = BTreeMap::from([("tokens".to_owned(), Origin::File)]);
        let shown = shown(&config, &origins);
        let of = |path: &str| shown.iter().find(|setting| setting.path == path).expect("known");
        assert_eq!(of("tokens").value, serde_json::json!([{ "name": "ops", "sha256": MASK, "rights": ["read"] }]));
        assert_eq!(of("tokens").origin, Origin::File);
        assert_eq!(of("agent.server").value, "https://•••@far");
        assert_eq!((&of("store.hot_s").value, of("store.hot_s").origin), (&900.into(), Origin::Default));
        assert_eq!(changed(&config).collect::<Vec<_>>(), ["agent.server", "tokens"]);
    }

    #[test]
    fn a_misspelt_setting_finds_its_neighbour() {
        assert_eq!(nearest("store.retenton_s").as_deref(), Some("store.retention_s"));
        assert_eq!(nearest("zzz"), None);
    }
}
