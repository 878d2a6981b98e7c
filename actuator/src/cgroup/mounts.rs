//! Where the cgroup hierarchies are mounted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The v1 controllers that mean something here.
const CONTROLLERS: [&str; 5] = ["blkio", "cpu", "cpuacct", "cpuset", "memory"];

/// One mount point.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mount {
    pub(crate) path: PathBuf,
    pub(crate) read_only: bool,
}

/// The hierarchies below a directory.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Mounts {
    /// By controller; combined mounts such as `cpu,cpuacct` appear under each.
    pub(crate) v1: BTreeMap<String, Mount>,
    pub(crate) v2: Option<Mount>,
}

impl Mounts {
    /// Asks the kernel's mount table; below a directory where nothing is mounted, such as a test's fake tree, looks at the
    /// directories themselves.
    pub(crate) fn find(base: &Path) -> Self {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mounted = Self::parse(&table, base);
        if mounted == Self::default() { Self::look(base) } else { mounted }
    }

    fn parse(table: &str, base: &Path) -> Self {
        let mut found = Self::default();
        for line in table.lines() {
            // 33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
            let Some((place, kind)) = line.split_once(" - ") else { continue };
            let (place, kind): (Vec<&str>, Vec<&str>) = (place.split(' ').collect(), kind.split(' ').collect());
            let (Some(path), Some(options)) = (place.get(4), place.get(5)) else { continue };
            let path = PathBuf::from(unescape(path));
            if !path.starts_with(base) {
                continue;
            }
            let mount = Mount { path, read_only: options.split(',').any(|option| option == "ro") };
            match kind.as_slice() {
                ["cgroup2", ..] => found.v2 = found.v2.or(Some(mount)),
                ["cgroup", _, super_options] => found.add_v1(super_options, &mount),
                _ => {}
            }
        }
        found
    }

    fn add_v1(&mut self, names: &str, mount: &Mount) {
        for name in names.split(',').filter(|name| CONTROLLERS.contains(name)) {
            self.v1.entry(name.to_owned()).or_insert_with(|| mount.clone());
        }
    }

    fn look(base: &Path) -> Self {
        let is_v2 = |path: &Path| path.join("cgroup.controllers").is_file();
        let mount = |path: PathBuf| Mount { path, read_only: false };
        if is_v2(base) {
            return Self { v1: BTreeMap::new(), v2: Some(mount(base.to_owned())) };
        }
        let mut found = Self::default();
        let entries = fs::read_dir(base).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if is_v2(&path) {
                found.v2 = found.v2.or(Some(mount(path)));
            } else {
                found.add_v1(&name, &mount(path));
            }
        }
        found
    }
}

/// The mount table writes blanks and backslashes in octal: `\040`.
fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(code.map_or('\\', char::from));
        rest = &rest[at + if code.is_some() { 4 } else { 1 }..];
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
23 28 0:22 / /sys rw,nosuid - sysfs sysfs rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory ro,relatime shared:9 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn separate_mounts_of_a_hybrid_host() {
        let mounts = Mounts::parse(HYBRID, Path::new("/sys/fs/cgroup"));
        assert_eq!(mounts.v1["cpu"].path, Path::new("/sys/fs/cgroup/cpu"));
        assert_eq!(mounts.v1["cpuacct"].path, Path::new("/sys/fs/cgroup/cpuacct"));
        assert!(mounts.v1["memory"].read_only && !mounts.v1["cpu"].read_only);
        assert_eq!(mounts.v2.unwrap().path, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(mounts.v1.len(), 3);
    }

    #[test]
    fn combined_mount_and_a_path_with_a_blank() {
        let table = "1 2 0:3 / /mnt/c\\040g/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let mounts = Mounts::parse(table, Path::new("/mnt"));
        assert_eq!(mounts.v1["cpu"], mounts.v1["cpuacct"]);
        assert_eq!(mounts.v1["cpu"].path, Path::new("/mnt/c g/cpu,cpuacct"));
    }

    #[test]
    fn unified_only_and_mounts_elsewhere() {
        let table = "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert!(Mounts::parse(table, Path::new("/sys/fs/cgroup")).v2.is_some());
        assert_eq!(Mounts::parse(table, Path::new("/other")), Mounts::default());
    }

    #[test]
    fn fake_trees_are_looked_at() {
        let tree = tempfile::tempdir().unwrap();
        for dir in ["cpu,cpuacct", "memory", "pids", "unified"] {
            fs::create_dir(tree.path().join(dir)).unwrap();
        }
        fs::write(tree.path().join("unified/cgroup.controllers"), "").unwrap();
        let mounts = Mounts::find(tree.path());
        assert_eq!(mounts.v1.keys().map(String::as_str).collect::<Vec<_>>(), ["cpu", "cpuacct", "memory"]);
        assert_eq!(mounts.v2.unwrap().path, tree.path().join("unified"));
    }
}
