//! An instance as LXD keeps it: what is asked of it by its API lands in its configuration, and what that changes of its
//! limits in the files of its cgroup.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::daemon::{Asked, Daemon};
use crate::tree::Tree;

pub const LIST: &str = "/1.0/instances?recursion=1&all-projects=true";
const OPERATION: &str = "/1.0/operations/b8d84888";

const LATE: Duration = Duration::from_millis(4_500);

/// How a change is answered.
#[derive(Clone, Copy, PartialEq)]
pub enum Way {
    AtOnce,
    InTheBackground,
    /// As before, and it fails.
    Failing,
    /// As before, and it is not over in time.
    Lasting,
    /// At once, after so long that nobody waits any more.
    Late,
    Refused,
}

pub struct Instance {
    pub project: &'static str,
    pub config: BTreeMap<String, String>,
    pub profile: BTreeMap<String, String>,
    pub way: Way,
    pub status: &'static str,
    /// Its cpu.max, memory.max and memory.high.
    files: [PathBuf; 3],
}

pub type Shared = Arc<Mutex<Instance>>;

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The instance `web` of a project whose cgroup is `path`, and its daemon.
pub fn instance(tree: &Tree, path: &str, project: &'static str, config: &[(&str, &str)]) -> (Shared, Daemon) {
    let files = ["cpu.max", "memory.max", "memory.high"].map(|file| tree.path(path, file));
    let (config, profile) = (texts(config), BTreeMap::new());
    let shared =
        Arc::new(Mutex::new(Instance { project, config, profile, way: Way::AtOnce, status: "Running", files }));
    let answers = Arc::clone(&shared);
    (shared, Daemon::start(move |asked| answers.lock().answer(asked)))
}

fn done(metadata: Value) -> (u16, Value) {
    (200, json!({ "type": "sync", "status": "Success", "status_code": 200, "metadata": metadata }))
}

impl Instance {
    pub fn set_profile(&mut self, pairs: &[(&str, &str)]) {
        self.profile = texts(pairs);
    }

    fn expanded(&self) -> BTreeMap<String, String> {
        self.profile.clone().into_iter().chain(self.config.clone()).collect()
    }

    fn described(&self) -> Value {
        json!({
            "name": "web", "project": self.project, "type": "container", "status": self.status, "profiles": ["small"],
            "config": self.config, "expanded_config": self.expanded(), "devices": {}
        })
    }

    fn answer(&mut self, asked: &Asked) -> (u16, Value) {
        let own = format!("/1.0/instances/web?project={}", self.project);
        let profile = format!("/1.0/profiles/small?project={}", self.project);
        match (asked.method.as_str(), asked.target.as_str()) {
            ("GET", LIST) => done(json!([self.described()])),
            ("GET", target) if target == own => done(self.described()),
            ("GET", target) if target == profile => done(json!({ "name": "small", "config": self.profile })),
            ("GET", target) if target == format!("{OPERATION}/wait?timeout=3") => {
                let (code, why) = match self.way {
                    Way::Failing => (400, "Failed to write cgroup"),
                    Way::Lasting => (103, ""),
                    _ => (200, ""),
                };
                done(json!({ "id": "b8d84888", "status_code": code, "err": why }))
            }
            ("PATCH", target) if target == own => self.change(&asked.body["config"]),
            _ => (404, json!({ "type": "error", "error": "not found", "error_code": 404 })),
        }
    }

    fn change(&mut self, config: &Value) -> (u16, Value) {
        if self.way == Way::Refused {
            return (400, json!({ "type": "error", "error": "Invalid value", "error_code": 400 }));
        }
        if self.way == Way::Late {
            thread::sleep(LATE);
        }
        if !matches!(self.way, Way::Failing | Way::Lasting) {
            self.set(config);
        }
        if matches!(self.way, Way::AtOnce | Way::Late) {
            return done(json!({}));
        }
        (202, json!({ "type": "async", "status_code": 100, "operation": OPERATION, "metadata": {} }))
    }

    fn set(&mut self, config: &Value) {
        let before = self.expanded();
        for (key, value) in config.as_object().unwrap() {
            match value.as_str().unwrap() {
                "" => drop(self.config.remove(key)),
                text => drop(self.config.insert(key.clone(), text.to_owned())),
            }
        }
        let after = self.expanded();
        let changed = |key| before.get(key) != after.get(key);
        let says = |key| after.get(key).map_or("", String::as_str);
        let [cpu, memory, high] = &self.files;
        if changed("limits.cpu.allowance") {
            let text = match says("limits.cpu.allowance").split_once("ms/") {
                // It takes whole numbers only.
                Some((quota, period)) => {
                    let us = |ms: &str| 1_000 * ms.trim_end_matches("ms").parse::<u64>().unwrap();
                    format!("{} {}", us(quota), us(period))
                }
                None => "max 100000".to_owned(),
            };
            fs::write(cpu, text).unwrap();
        }
        if changed("limits.memory") {
            let text = match says("limits.memory") {
                "" => "max".to_owned(),
                text => match text.strip_suffix("MiB") {
                    Some(mib) => (mib.parse::<u64>().unwrap() << 20).to_string(),
                    None => text.strip_suffix('B').unwrap().parse::<u64>().unwrap().to_string(),
                },
            };
            fs::write(high, "max").unwrap();
            fs::write(memory, text).unwrap();
        }
    }
}
