//! LXC: the name is in the cgroup's path, labels are environment variables of the container's configuration, the only key
//! there that takes a text of one's own: `lxc.environment = tidegate.app=shop`.

use std::fs;
use std::path::Path;

use crate::runtime::Described;

/// Whether there is `NAME/config`.
pub(super) fn is_there(name: &str, root: &Path) -> bool {
    root.join(name).join("config").is_file()
}

/// Reads `NAME/config`.
pub(super) fn read(name: &str, root: &Path) -> Described {
    let text = fs::read_to_string(root.join(name).join("config")).unwrap_or_default();
    let entries = text.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        let (label, value) = (key.trim() == "lxc.environment").then_some(value)?.split_once('=')?;
        label.trim().starts_with("tidegate.").then(|| (label.trim().to_owned(), value.trim().to_owned()))
    });
    Described { labels: entries.collect(), ..Described::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_environment_variables_of_the_configuration() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("web")).unwrap();
        let text = "# lxc.environment = tidegate.user=x\nlxc.uts.name = web\nlxc.environment = tidegate.app=shop\n\
                    lxc.environment=tidegate.cpu.max = 2\nlxc.environment = PATH=/bin\n";
        fs::write(root.path().join("web/config"), text).unwrap();
        let labels: Vec<(String, String)> = read("web", root.path()).labels.into_iter().collect();
        let expected = [("tidegate.app", "shop"), ("tidegate.cpu.max", "2")];
        assert_eq!(labels, expected.map(|(label, value)| (label.to_owned(), value.to_owned())));
        assert_eq!(read("db", root.path()), Described::default());
    }
}
