//! Docker keeps each container's configuration in a file of its data directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::runtime::Described;

#[derive(Deserialize)]
struct ConfigV2 {
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

/// Reads `containers/ID/config.v2.json`.
pub(crate) fn describe(id: &str, root: &Path) -> Described {
    let path = root.join("containers").join(id).join("config.v2.json");
    match fs::read(&path) {
        Ok(bytes) => parse(&bytes),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "no docker configuration; the container goes by its short id");
            Described::default()
        }
    }
}

fn parse(bytes: &[u8]) -> Described {
    let Ok(file) = serde_json::from_slice::<ConfigV2>(bytes) else { return Described::default() };
    let name = file.name.trim_start_matches('/').to_owned();
    let labels = file.config.and_then(|config| config.labels).unwrap_or_default();
    Described { name: (!name.is_empty()).then_some(name), labels }
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
        let found = describe("abc", root.path());
        assert_eq!(found.name.as_deref(), Some("shop-web-1"));
        assert_eq!(found.labels["tidegate.app"], "shop");
        assert_eq!(describe("def", root.path()), Described::default());
        assert_eq!(parse(br#"{"Name":"/x","Config":{"Labels":null}}"#).name.as_deref(), Some("x"));
    }
}
