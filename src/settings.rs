//! Every setting as a flag and as an environment variable, made from the configuration's own defaults.
//!
//! The leaves of the default [`Config`](crate::config::Config) are the settings: `store.retention_s` is the flag
//! `--store-retention-s` and the variable `TIDEGATE_STORE_RETENTION_S`. So a setting that a room adds is a flag at once.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Command, Error, FromArgMatches};
use serde_json::Value;

use crate::config::Config;

const PREFIX: &str = "TIDEGATE_";
/// Variables with the prefix that are no settings: they steer the command line itself.
const OTHER_VARIABLES: [&str; 5] =
    ["TIDEGATE_CONFIG", "TIDEGATE_LOG", "TIDEGATE_SERVER", "TIDEGATE_TOKEN", "TIDEGATE_OUTPUT"];

/// The settings given as flags or variables: path such as `store.retention_s` to text.
#[derive(Clone, Debug, Default)]
pub struct Given(pub BTreeMap<String, String>);

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
            Some((path, value))
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
    fn a_misspelt_setting_finds_its_neighbour() {
        assert_eq!(nearest("store.retenton_s").as_deref(), Some("store.retention_s"));
        assert_eq!(nearest("zzz"), None);
    }
}
