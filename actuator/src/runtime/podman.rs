//! Podman: its API where the service runs, and otherwise the list of containers that its storage keeps, which has names
//! but no labels.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::runtime::daemon::Daemon;
use crate::runtime::{Described, docker};

/// Podman's own calls exist below a version only; 4.0 is the oldest that Podman 4 and 5 take.
pub(crate) const PREFIX: &str = "/v4.0.0/libpod/containers";

/// Asks the API. The error says whether asking again may help.
pub(super) fn ask(daemon: &Daemon, id: &str) -> Result<Described, bool> {
    docker::inspect(daemon, &format!("{PREFIX}/{id}/json"))
}

#[derive(Deserialize)]
struct Stored {
    id: String,
    #[serde(default)]
    names: Vec<String>,
}

/// Looks into `DRIVER-containers/containers.json` of each storage driver.
pub(super) fn read(id: &str, root: &Path) -> Described {
    let dirs = fs::read_dir(root).into_iter().flatten().flatten();
    let dirs = dirs.filter(|entry| entry.file_name().to_string_lossy().ends_with("-containers"));
    let name = dirs.map(|entry| entry.path().join("containers.json")).find_map(|path| {
        let stored: Vec<Stored> = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        stored.into_iter().find(|stored| stored.id == id)?.names.into_iter().next()
    });
    Described { name, ..Described::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_storage_names_its_containers() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("overlay-containers");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("containers.json"), r#"[{"id":"x"},{"id":"abc","names":["web"],"layer":"y"}]"#).unwrap();
        assert_eq!(read("abc", root.path()).name.as_deref(), Some("web"));
        assert_eq!(read("x", root.path()).name, None);
        assert_eq!(read("def", Path::new("/no/such")).name, None);
    }
}
