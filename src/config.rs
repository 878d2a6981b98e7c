//! The configuration: defaults, then the file, then `TIDEGATE_...` variables, then flags; the later wins.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use serde::{Deserialize, Serialize};
use tidegate_actuator::ActuatorConfig;
use tidegate_actuator::agent::AgentConfig;
use tidegate_policy::PolicyConfig;
use tidegate_store::StoreConfig;
use tidegate_web::{Origin, TokenRecord, WebConfig};

use crate::settings::{self, Given};

/// Everything that can be set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the API and the dashboard listen. Off loopback only with `tokens`.
    pub listen: SocketAddr,
    /// The directory that holds everything that is kept. Made when it is not there.
    pub data_dir: PathBuf,
    /// Installs the shipped rules when there is no rule at all.
    pub install_default_rules: bool,
    /// How often this host's cgroups are measured, in ms.
    pub collect_every_ms: u64,
    /// Whether this process measures and scales the containers of its own host.
    pub local_host: bool,
    /// The least epoch that this controller begins with: agents obey none lower than one they obeyed before. For a new data
    /// directory that takes over from another one.
    pub epoch_at_least: Option<u64>,
    /// How an agent behaves, for `tidegate agent`.
    pub agent: AgentConfig,
    pub store: StoreConfig,
    pub policy: PolicyConfig,
    pub actuator: ActuatorConfig,
    pub web: WebConfig,
    /// Who may do what; `tidegate token` makes the entries.
    pub tokens: Vec<TokenRecord>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8642)),
            data_dir: default_data_dir(),
            install_default_rules: true,
            collect_every_ms: 1000,
            local_host: true,
            epoch_at_least: None,
            agent: AgentConfig::default(),
            store: StoreConfig::default(),
            policy: PolicyConfig::default(),
            actuator: ActuatorConfig::default(),
            web: WebConfig::default(),
            tokens: Vec::new(),
        }
    }
}

/// Root keeps its data where services do; anybody else below the home directory.
fn default_data_dir() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/tidegate");
    }
    match std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")))
    {
        Some(data_home) => data_home.join("tidegate"),
        None => PathBuf::from("tidegate-data"),
    }
}

impl Config {
    /// As [`Config::load`], with what an agent keeps beside what a server on the same machine keeps.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_for_agent(file: Option<&Path>, given: &Given) -> Result<Self> {
        let mut config = Self::load(file, given)?;
        if config.actuator.state_dir == Some(config.data_dir.join("actuator")) {
            config.actuator.state_dir = Some(config.data_dir.join("agent"));
        }
        config.check_agent()?;
        Ok(config)
    }

    /// Reads the layers. Without `file`, `./tidegate.toml` and then `/etc/tidegate/tidegate.toml` are taken if they exist.
    ///
    /// # Errors
    /// A key that is unknown (with the nearest known one), a value of another type, a file that cannot be read.
    pub fn load(file: Option<&Path>, given: &Given) -> Result<Self> {
        Ok(Self::load_with_origins(file, given)?.0)
    }

    /// As [`Config::load`], with where each setting comes from that is not as it is by default.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with_origins(file: Option<&Path>, given: &Given) -> Result<(Self, BTreeMap<String, Origin>)> {
        let mut origins = BTreeMap::new();
        if let Some((name, meant)) = settings::unknown_variable() {
            bail!("unknown setting {name} in the environment{}", did_you_mean(meant.as_deref()));
        }
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = find_file(file)? {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let table = check_keys(&text, &path)?;
            let in_file = settings::known().into_keys().filter(|path| holds(&table, path));
            origins.extend(in_file.map(|path| (path, Origin::File)));
            figment = figment.merge(Toml::string(&text));
        }
        for (path, (text, origin)) in &given.0 {
            origins.insert(path.clone(), *origin);
            figment = figment.merge(Serialized::default(path, typed(path, text)));
        }
        let mut config: Self = figment.extract().map_err(|error| anyhow::anyhow!("configuration: {error}"))?;
        if config.store.dir == StoreConfig::default().dir {
            config.store.dir = config.data_dir.join("store");
            origins.insert("store.dir".to_owned(), Origin::Derived);
        }
        if config.actuator.state_dir.is_none() {
            config.actuator.state_dir = Some(config.data_dir.join("actuator"));
            origins.insert("actuator.state_dir".to_owned(), Origin::Derived);
        }
        config.check()?;
        Ok((config, origins))
    }

    /// Times that do not fit together would break what is promised of orders.
    fn check_agent(&self) -> Result<()> {
        let longest = self.agent.order_max_age_ms + self.actuator.squeeze_timeout_ms;
        if longest > 12_000 {
            bail!(
                "agent.order_max_age_ms and actuator.squeeze_timeout_ms are {longest} ms together: at most 12000, since a \
                 controller waits 15 s for what comes of an order"
            );
        }
        let (hold, restore) = (self.agent.hold_after_s, self.agent.restore_after_s);
        if hold < 7 || (restore != 0 && restore < hold) {
            bail!(
                "agent.hold_after_s = {hold}, agent.restore_after_s = {restore}: the first must be 7 or more, since a \
                 controller speaks each five seconds, and the second not below it (or 0 for never)"
            );
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if !self.listen.ip().is_loopback() && self.tokens.is_empty() {
            bail!(
                "listen = {}: nothing listens outside loopback without a token; make one with `tidegate token` and put it \
                 into the configuration, or listen on 127.0.0.1",
                self.listen
            );
        }
        if !(100..=3_600_000).contains(&self.collect_every_ms) {
            bail!("collect_every_ms = {}: must be between 100 and 3600000", self.collect_every_ms);
        }
        Ok(())
    }
}

fn find_file(given: Option<&Path>) -> Result<Option<PathBuf>> {
    if let Some(path) = given {
        if !path.is_file() {
            bail!("no configuration file at {}", path.display());
        }
        return Ok(Some(path.to_owned()));
    }
    Ok(["tidegate.toml", "/etc/tidegate/tidegate.toml"].into_iter().map(PathBuf::from).find(|path| path.is_file()))
}

/// A value as its setting's default is typed: text stays text, everything else is read as TOML.
fn typed(path: &str, text: &str) -> serde_json::Value {
    if matches!(settings::known().get(path), Some(serde_json::Value::String(_))) {
        return serde_json::Value::String(text.to_owned());
    }
    toml::from_str::<toml::Table>(&format!("value = {text}"))
        .ok()
        .and_then(|table| serde_json::to_value(table.get("value")?).ok())
        .unwrap_or_else(|| serde_json::Value::String(text.to_owned()))
}

/// Whether a setting, or a part of one that has parts, stands in a file.
fn holds(table: &toml::Table, path: &str) -> bool {
    match path.split_once('.') {
        None => table.contains_key(path),
        Some((section, rest)) => {
            table.get(section).and_then(toml::Value::as_table).is_some_and(|table| holds(table, rest))
        }
    }
}

/// The file's table, in which every key is known.
fn check_keys(text: &str, file: &Path) -> Result<toml::Table> {
    let table: toml::Table = toml::from_str(text).map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
    let known = settings::known();
    let mut unknown = Vec::new();
    find_unknown(&table, "", &known.keys().map(String::as_str).collect::<Vec<_>>(), &mut unknown);
    match unknown.first() {
        None => Ok(table),
        Some(path) => {
            bail!("{}: unknown setting '{path}'{}", file.display(), did_you_mean(settings::nearest(path).as_deref()))
        }
    }
}

fn find_unknown(table: &toml::Table, prefix: &str, known: &[&str], unknown: &mut Vec<String>) {
    for (name, value) in table {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let section = format!("{path}.");
        match value {
            _ if known.contains(&path.as_str()) => {}
            toml::Value::Table(inner) if known.iter().any(|key| key.starts_with(&section)) => {
                find_unknown(inner, &path, known, unknown);
            }
            _ => unknown.push(path),
        }
    }
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean '{name}'?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, given: &[(&str, &str)]) -> Result<Config> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("t.toml");
        std::fs::write(&path, text)?;
        Ok(load_all(&path, given)?.0)
    }

    fn load_all(path: &Path, given: &[(&str, &str)]) -> Result<(Config, BTreeMap<String, Origin>)> {
        let given = given.iter().map(|(k, v)| (k.to_string(), (v.to_string(), Origin::Flag))).collect();
        Config::load_with_origins(Some(path), &Given(given))
    }

    #[test]
    fn every_setting_knows_where_it_comes_from() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("t.toml");
        std::fs::write(&path, "collect_every_ms = 500\n[store]\nhot_s = 60\nretention_s = 5000\n").expect("written");
        let (_, origins) = load_all(&path, &[("store.hot_s", "90")]).expect("valid");
        for (path, origin) in [
            ("collect_every_ms", Some(Origin::File)),
            ("store.retention_s", Some(Origin::File)),
            ("store.hot_s", Some(Origin::Flag)),
            ("store.dir", Some(Origin::Derived)),
            ("store.flush_every_s", None),
        ] {
            assert_eq!(origins.get(path).copied(), origin, "{path}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let config = load("collect_every_ms = 500\n[store]\nhot_s = 60\n", &[("store.hot_s", "90")]).expect("valid");
        assert_eq!((config.collect_every_ms, config.store.hot_s), (500, 90));
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_nearest() {
        let error = load("[store]\nretenton_s = 5\n", &[]).expect_err("unknown").to_string();
        assert!(error.contains("'store.retenton_s'") && error.contains("did you mean 'store.retention_s'"), "{error}");
    }

    #[test]
    fn a_value_of_another_type_names_its_key() {
        let error = load("collect_every_ms = \"soon\"\n", &[]).expect_err("typed").to_string();
        assert!(error.contains("collect_every_ms"), "{error}");
    }

    #[test]
    fn nothing_listens_off_loopback_without_a_token() {
        let error = load("listen = \"0.0.0.0:1\"\n", &[]).expect_err("open").to_string();
        assert!(error.contains("tidegate token"), "{error}");
    }
}
