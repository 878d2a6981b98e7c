//! Docker: its API, and the file of its data directory in which it keeps each container's configuration.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::runtime::Described;
use crate::runtime::daemon::{Daemon, NoAnswer};

/// How long a description is waited for. The collector waits with it, once a second for everybody.
pub(super) const DESCRIBE_TIMEOUT: Duration = Duration::from_millis(500);

/// What is read of a container, from the API and from `config.v2.json` alike.
#[derive(Deserialize)]
struct Inspected {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Config")]
    config: Option<Config>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "Labels")]
    labels: Option<BTreeMap<String, String>>,
}

/// Asks the API. The error says whether asking again may help.
pub(super) fn ask(daemon: &Daemon, id: &str) -> Result<Described, bool> {
    inspect(daemon, &format!("/containers/{id}/json"))
}

/// A description by a call that answers as Docker's does.
pub(super) fn inspect(daemon: &Daemon, target: &str) -> Result<Described, bool> {
    match daemon.get(target, DESCRIBE_TIMEOUT) {
        Ok(answer) if answer.status == 200 => parse(&answer.body).ok_or(false),
        Ok(answer) => {
            tracing::debug!(daemon = daemon.name(), target, status = answer.status, "no description");
            // It answers, and has nothing to say about this one.
            Err(false)
        }
        Err(NoAnswer::Absent(_)) => Err(false),
        Err(NoAnswer::Failed(_)) => Err(true),
    }
}

/// Reads `containers/ID/config.v2.json`.
pub(super) fn read(id: &str, root: &Path) -> Described {
    let path = root.join("containers").join(id).join("config.v2.json");
    match fs::read(&path) {
        Ok(bytes) => parse(&bytes).unwrap_or_default(),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "no docker configuration; the container goes by its short id");
            Described::default()
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Described> {
    let found: Inspected = serde_json::from_slice(bytes).ok()?;
    let name = found.name.trim_start_matches('/').to_owned();
    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    Some(Described { name: (!name.is_empty()).then_some(name), labels, incomplete: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_labels_are_read_from_the_containers_file() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("containers/abc");
        fs::create_dir_all(&dir).unwrap();
        let text = r#"{"ID":"abc","Name":"/shop-web-1","Config":{"Hostname":"x","Labels":{"tidegate.app":"shop"}}}"#;
        fs::write(dir.join("config.v2.json"), text).unwrap();
        let found = read("abc", root.path());
        assert_eq!(found.name.as_deref(), Some("shop-web-1"));
        assert_eq!(found.labels["tidegate.app"], "shop");
        assert_eq!(read("def", root.path()), Described::default());
        assert_eq!(parse(br#"{"Name":"/x","Config":{"Labels":null}}"#).unwrap().name.as_deref(), Some("x"));
        assert_eq!(parse(b"{}"), None);
    }
}
