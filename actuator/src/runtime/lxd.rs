//! LXD and Incus: their API, which is the same. Plain LXC containers look like theirs in the cgroup tree, so a container is
//! theirs when one of them has an instance whose cgroup would have its name.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Deserializer};

use crate::runtime::Described;
use crate::runtime::daemon::{Daemon, NoAnswer};
use crate::runtime::http::{self, Answer};
use crate::runtime::sent::Sent;

/// How long the list of all instances is waited for. It is read from a database, for every container that appears.
const LIST_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a list is good for those who are in it: many containers appear at once when Tidegate starts.
const LIST_AGE: Duration = Duration::from_secs(1);
/// All instances of all projects, with their configurations.
const LIST: &str = "/1.0/instances?recursion=1&all-projects=true";
/// The project whose name is not in the names of cgroups.
const DEFAULT_PROJECT: &str = "default";
/// What begins the keys that are everybody's own.
const USER: &str = "user.";
/// What begins the keys under which is kept what a limit's key said before Tidegate changed it.
pub(crate) const KEPT: &str = "user.tidegate-kept.";
/// What cloud-init reads: whole files, often with passwords in them, and no labels.
const CLOUD_INIT: [&str; 4] = ["user.user-data", "user.vendor-data", "user.meta-data", "user.network-config"];

pub(crate) type Config = BTreeMap<String, String>;

/// An instance as its daemon answers it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) project: String,
    status: String,
    /// Its own configuration.
    #[serde(deserialize_with = "or_nothing")]
    pub(crate) config: Config,
    /// The same with that of its profiles below it.
    #[serde(deserialize_with = "or_nothing")]
    pub(crate) expanded_config: Config,
    /// Those that count more come later.
    #[serde(deserialize_with = "or_nothing")]
    pub(crate) profiles: Vec<String>,
}

/// A map or a list without entries may be answered as `null`.
fn or_nothing<'d, D: Deserializer<'d>, T: Deserialize<'d> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// What stands around each answer.
#[derive(Deserialize)]
pub(crate) struct Envelope<T> {
    pub(crate) metadata: T,
}

/// Where an instance is found again.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// Which of the daemons has it.
    daemon: usize,
    pub(crate) project: String,
    pub(crate) name: String,
    /// Whether a limit in its configuration is ours.
    has_ours: bool,
}

type List = Arc<BTreeMap<String, Instance>>;

/// The daemons of this host.
#[derive(Debug)]
pub(crate) struct Lxd {
    daemons: Vec<Daemon>,
    lists: Vec<Mutex<Option<(Instant, List)>>>,
    /// By the name of the cgroup.
    known: Mutex<BTreeMap<String, Known>>,
}

impl Instance {
    /// What follows `lxc.payload.` in the name of its cgroup. Neither part has an underscore of its own before the last one.
    fn cgroup(&self) -> String {
        match self.project.as_str() {
            "" | DEFAULT_PROJECT => self.name.clone(),
            project => format!("{project}_{}", self.name),
        }
    }

    /// Whether it has no cgroup. While one starts, its status is still that of a stopped one.
    fn is_stopped(&self) -> bool {
        self.status == "Stopped"
    }

    /// What a key says, that of profiles included; empty where nothing does.
    pub(crate) fn says(&self, key: &str) -> &str {
        self.expanded_config.get(key).or_else(|| self.config.get(key)).map_or("", String::as_str)
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let config = if self.expanded_config.is_empty() { &self.config } else { &self.expanded_config };
        let ours = config.iter().filter(|(key, _)| !key.starts_with(KEPT) && !CLOUD_INIT.contains(&key.as_str()));
        let labels = ours.filter_map(|(key, value)| Some((key.strip_prefix(USER)?.to_owned(), value.clone())));
        let project = if self.project.is_empty() { DEFAULT_PROJECT } else { &self.project };
        let places = [("project".to_owned(), project.to_owned()), ("instance".to_owned(), self.name.clone())];
        labels.chain(places).collect()
    }
}

impl Lxd {
    pub(super) fn new(sockets: &[PathBuf]) -> Self {
        let name = |socket: &PathBuf| if socket.to_string_lossy().contains("incus") { "Incus" } else { "LXD" };
        Self {
            daemons: sockets.iter().map(|socket| Daemon::new(name(socket), socket)).collect(),
            lists: sockets.iter().map(|_| Mutex::default()).collect(),
            known: Mutex::default(),
        }
    }

    pub(super) fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        self.daemons.iter()
    }

    /// The instance of the cgroup `id`, and its daemon. What was learnt when the container appeared counts: a change does not
    /// look for it anew.
    pub(crate) fn find(&self, id: &str) -> Option<(&Daemon, Known)> {
        let known = self.known.lock().get(id).cloned()?;
        Some((self.daemons.get(known.daemon)?, known))
    }

    /// Whether an instance has no limit of ours, so that it does not come back with one.
    pub(crate) fn brings_nothing_back(&self, id: &str) -> bool {
        self.known.lock().get(id).is_some_and(|known| !known.has_ours)
    }

    /// Asks who has it; of two, the one where it runs. With `plain` there is such a container of plain LXC as well, and it is
    /// that one unless the instance runs. `None` is nobody; the error says that a daemon failed.
    pub(super) fn ask(&self, id: &str, plain: bool) -> Result<Option<Described>, NoAnswer> {
        let mut failed = None;
        let mut stopped = None;
        for (at, daemon) in self.daemons.iter().enumerate() {
            match self.instance(at, id) {
                Ok(Some(instance)) if instance.is_stopped() => stopped = stopped.or(Some((at, instance))),
                Ok(Some(instance)) => return Ok(Some(self.remember(id, at, instance))),
                Ok(None) | Err(NoAnswer::Absent(_)) => {}
                Err(why) => {
                    tracing::debug!(daemon = daemon.name(), %why, id, "no description");
                    failed = Some(why);
                }
            }
        }
        if let Some(why) = failed {
            return Err(why);
        }
        if let Some((at, instance)) = stopped.filter(|_| !plain) {
            return Ok(Some(self.remember(id, at, instance)));
        }
        self.known.lock().remove(id);
        Ok(None)
    }

    fn remember(&self, id: &str, daemon: usize, instance: Instance) -> Described {
        let labels = instance.labels();
        let has_ours = instance.config.keys().any(|key| key.starts_with(KEPT));
        let Instance { project, name, .. } = instance;
        let project = if project.is_empty() { DEFAULT_PROJECT.to_owned() } else { project };
        self.known.lock().insert(id.to_owned(), Known { daemon, project, name, has_ours });
        // The cgroup's name is the one that is there without the daemon, too, and no two projects share it.
        Described { name: Some(id.to_owned()), labels, incomplete: false }
    }

    fn instance(&self, at: usize, id: &str) -> Result<Option<Instance>, NoAnswer> {
        let mut list = self.lists[at].lock();
        let found = list.as_ref().filter(|(at, _)| at.elapsed() < LIST_AGE).and_then(|(_, list)| list.get(id));
        if let Some(found) = found {
            return Ok(Some(found.clone()));
        }
        let answer = self.daemons[at].get(LIST, LIST_TIMEOUT)?;
        let all: Vec<Instance> = match parse(&answer) {
            Ok(all) => all,
            Err(why) => {
                tracing::debug!(daemon = self.daemons[at].name(), why, "no list of instances");
                return Ok(None);
            }
        };
        let all: BTreeMap<String, Instance> = all.into_iter().map(|instance| (instance.cgroup(), instance)).collect();
        let found = all.get(id).cloned();
        *list = Some((Instant::now(), Arc::new(all)));
        Ok(found)
    }
}

/// What an answer is about, or the daemon's own words.
pub(crate) fn parse<T: for<'a> Deserialize<'a>>(answer: &Answer) -> Result<T, String> {
    if answer.status != 200 {
        return Err(error_text(answer));
    }
    let found: Result<Envelope<T>, _> = serde_json::from_slice(&answer.body);
    found.map(|found| found.metadata).map_err(|error| format!("an answer that is not understood: {error}"))
}

/// Why it said no.
pub(crate) fn error_text(answer: &Answer) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    let refusal: Option<Refusal> = serde_json::from_slice(&answer.body).ok();
    let text = refusal.map_or_else(|| "no reason given".to_owned(), |refusal| refusal.error);
    format!("{} (status {})", text.trim().chars().take(200).collect::<String>(), answer.status)
}

/// Changes some keys of what `target` names. Beside the error is what was asked for and may still be carried out.
pub(crate) fn patch(
    daemon: &Daemon,
    target: &str,
    body: &str,
    timeout: Duration,
) -> Result<Answer, (NoAnswer, Option<Sent>)> {
    daemon.send(|socket| http::request(socket, "PATCH", target, Some(body), timeout))
}

/// Waits for what goes on in the background.
pub(crate) fn wait(daemon: &Daemon, target: &str, timeout: Duration) -> Result<Answer, (NoAnswer, Option<Sent>)> {
    daemon.send(|socket| http::request(socket, "GET", target, None, timeout))
}

/// A name as a part of an address.
pub(crate) fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_told_by_project_and_name_and_its_own_keys_are_labels() {
        let text = r#"{"type":"sync","metadata":[
            {"name":"web","project":"default","config":{"user.tidegate.app":"x"},"profiles":["default"],
             "expanded_config":{"user.tidegate.app":"x","user.tier":"gold","user.user-data":"secret","limits.cpu":"2",
              "user.tidegate-kept.limits.memory":"unset"}},
            {"name":"web","project":"shop-1","config":null,"expanded_config":null,"profiles":null}]}"#;
        let answer = Answer { status: 200, body: text.as_bytes().to_vec() };
        let all: Vec<Instance> = parse(&answer).unwrap();
        let names: Vec<String> = all.iter().map(Instance::cgroup).collect();
        assert_eq!(names, ["web", "shop-1_web"]);
        let labels: Vec<(String, String)> = all[0].labels().into_iter().collect();
        let expected = [("instance", "web"), ("project", "default"), ("tidegate.app", "x"), ("tier", "gold")];
        assert_eq!(labels, expected.map(|(label, value)| (label.to_owned(), value.to_owned())));
        assert_eq!((all[0].says("limits.cpu"), all[0].says("limits.memory")), ("2", ""));
        let refused = Answer { status: 403, body: br#"{"type":"error","error":"not authorized"}"#.to_vec() };
        assert_eq!(parse::<Vec<Instance>>(&refused).unwrap_err(), "not authorized (status 403)");
        assert_eq!(escaped("a-b c/\u{e9}"), "a-b%20c%2F%C3%A9");
    }
}
