//! Which cgroups are containers.
//!
//! A container is told by its path alone. The walk goes down from the root and stops at the first match, so that what a
//! container runs inside itself (systemd units in LXC, Docker in Docker) belongs to the outer one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use tidegate_model::{CgroupVersion, Runtime};

use crate::cgroup::{Hierarchy, below};
use crate::error::ActuatorError;

/// Deeper than any runtime nests its cgroups; keeps a runaway tree from being walked each second.
const MAX_DEPTH: usize = 12;
/// Services that keep their containers' cgroups below their own. They are no containers, and limiting one would limit all.
/// Tidegate is among them because [`OwnCgroups`] cannot know it from inside a cgroup namespace.
const ENGINES: [&str; 13] = [
    "containerd",
    "crio",
    "docker",
    "incus",
    "k3s",
    "k3s-agent",
    "kubelet",
    "lxd",
    "rke2-agent",
    "rke2-server",
    "snap.docker.dockerd",
    "snap.lxd.daemon",
    "tidegate",
];
/// The cgroup into which crun puts a container, below the scope that it asks systemd for. The limits are those of this one:
/// crun 1.8 sets none on the scope at all.
const CRUNS_OWN: &str = "container";
/// How many digits of an identifier make a short name, as in the runtimes' own listings.
const SHORT_ID: usize = 12;

/// Who a container is, as its cgroup path tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who made it.
    pub runtime: Runtime,
    /// The runtime's identifier.
    pub id: String,
    /// Its name, or a short identifier where the path has no name.
    pub name: String,
    /// Path of the container's cgroup, which is the outermost that matches, or where crun made it the one below that.
    pub path: PathBuf,
    /// Labels that the path tells: `pod` for Kubernetes.
    pub labels: BTreeMap<String, String>,
}

/// What a cgroup is to the walk.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Container(Identity),
    /// Neither a container nor a place where containers are.
    Skip,
    Between,
}

/// The container that the cgroup at `path` (below the hierarchy's root) is or belongs to.
pub fn identify(path: &Path) -> Option<Identity> {
    let mut prefixes: Vec<&Path> = path.ancestors().collect();
    prefixes.reverse();
    for prefix in prefixes {
        match classify(prefix) {
            Place::Container(identity) => return Some(identity),
            Place::Skip => return None,
            Place::Between => {}
        }
    }
    None
}

/// Looks at the last component of a path and those above it, not at what is below.
fn classify(path: &Path) -> Place {
    let parts: Vec<&str> = path.iter().skip(1).map(|part| part.to_str().unwrap_or("")).collect();
    let Some((leaf, above)) = parts.split_last() else { return Place::Between };
    let parent = above.last().copied().unwrap_or("");

    if leaf.starts_with("lxc.monitor") || parent.starts_with("lxc.monitor") || leaf.contains("-conmon-") {
        return Place::Skip;
    }
    let found = |runtime, id: &str, name: &str| {
        let (id, name, path) = (id.to_owned(), name.to_owned(), path.to_owned());
        Place::Container(Identity { runtime, id, name, path, labels: BTreeMap::new() })
    };
    let by_id = |runtime, id: &str| found(runtime, id, &id[..SHORT_ID]);
    let scope = leaf.strip_suffix(".scope");
    let bare_leaf = scope.unwrap_or(leaf);

    if let Some(id) = bare_leaf.strip_prefix("libpod-").and_then(hex_id)
        && (scope.is_some() || parent == "libpod_parent")
    {
        return by_id(Runtime::Podman, id);
    }
    if above.iter().any(|part| part.starts_with("kubepods"))
        && let Some(pod) = pod_uid(parent)
    {
        let prefixes = ["cri-containerd-", "crio-", "docker-"];
        let id = prefixes.iter().find_map(|prefix| bare_leaf.strip_prefix(prefix)).unwrap_or(bare_leaf);
        return match hex_id(id).map(|id| by_id(Runtime::Cri, id)) {
            Some(Place::Container(mut identity)) => {
                identity.labels.insert("pod".to_owned(), pod.replace('_', "-"));
                Place::Container(identity)
            }
            _ => Place::Between,
        };
    }
    if let Some(id) = leaf.split_once(":cri-containerd:").and_then(|(_, id)| hex_id(id)) {
        return by_id(Runtime::Cri, id);
    }
    if parent == "docker"
        && let Some(id) = hex_id(leaf)
    {
        return by_id(Runtime::Docker, id);
    }
    if let Some(id) = scope.and_then(|scope| scope.strip_prefix("docker-")).and_then(hex_id) {
        return by_id(Runtime::Docker, id);
    }
    if let Some(name) = leaf.strip_prefix("lxc.payload.").filter(|name| !name.is_empty()) {
        return found(Runtime::Lxc, name, name);
    }
    if parent == "lxc.payload" || parent == "lxc" {
        return found(Runtime::Lxc, leaf, leaf);
    }
    // A machine is registered as a scope, or it is the service that `machinectl start` starts.
    let in_scope = scope.and_then(|scope| scope.strip_prefix("machine-"));
    let in_service = || leaf.strip_prefix("systemd-nspawn@")?.strip_suffix(".service");
    if parent == "machine.slice"
        && let Some(name) = in_scope.or_else(in_service)
    {
        let name = unescape_unit(name);
        return found(Runtime::Machine, &name, &name);
    }
    for engine in ["apptainer", "singularity"] {
        let in_scope = scope.and_then(|scope| scope.strip_prefix(engine)?.strip_prefix('-'));
        let pid = in_scope.or((parent == engine).then_some(*leaf));
        if let Some(pid) = pid.filter(|pid| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit())) {
            return found(Runtime::Apptainer, pid, &format!("{engine}-{pid}"));
        }
    }
    // Units of the user's own systemd, and of one in a container, are none of the host's services.
    if above == ["system.slice"] && leaf.strip_suffix(".service").is_some_and(|unit| !ENGINES.contains(&unit)) {
        return found(Runtime::Systemd, leaf, leaf);
    }
    Place::Between
}

fn hex_id(text: &str) -> Option<&str> {
    (text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))).then_some(text)
}

/// The uid in `pod0c1e...`, `kubepods-burstable-pod0c1e_....slice`.
fn pod_uid(part: &str) -> Option<&str> {
    let (_, uid) = part.strip_suffix(".slice").unwrap_or(part).rsplit_once("pod")?;
    let is_uid = (32..=36).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'_' || b == b'-');
    is_uid.then_some(uid)
}

/// systemd writes `-` in a unit's name as `\x2d`.
fn unescape_unit(name: &str) -> String {
    let mut plain = String::new();
    let mut rest = name;
    while let Some(at) = rest.find("\\x") {
        let code = rest.get(at + 2..at + 4).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        plain.push_str(&rest[..at]);
        match code {
            Some(code) => plain.push(char::from(code)),
            None => plain.push_str("\\x"),
        }
        rest = &rest[at + if code.is_some() { 4 } else { 2 }..];
    }
    plain + rest
}

/// A container that the walk came across.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) identity: Identity,
    /// Inode of its directory in the first hierarchy that has one.
    pub(crate) inode: u64,
}

/// Walks the hierarchies. `roots` are cgroups whose children are containers whatever their names are; with `known`, the
/// runtimes' patterns are looked for in the whole tree. `listing` is told of each directory right before it is listed. What
/// could not be listed is noted in `problems`.
pub(crate) fn walk(
    hierarchy: &Hierarchy,
    roots: &[PathBuf],
    known: bool,
    listing: &mut dyn FnMut(&Path),
    problems: &mut Vec<String>,
) -> Vec<Found> {
    let is_v2 = hierarchy.version == CgroupVersion::V2;
    let mut walk = Walk { found: BTreeMap::new(), roots, is_v2, listing, problems };
    for mount in hierarchy.walk_roots() {
        for root in roots {
            walk.children(mount, root, 0, false);
        }
        if known {
            walk.children(mount, Path::new("/"), 0, true);
        }
    }
    walk.found.into_values().collect()
}

struct Walk<'a> {
    found: BTreeMap<PathBuf, Found>,
    roots: &'a [PathBuf],
    is_v2: bool,
    listing: &'a mut dyn FnMut(&Path),
    problems: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn children(&mut self, mount: &Path, parent: &Path, depth: usize, known: bool) {
        let dir = below(mount, parent);
        (self.listing)(&dir);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            // A cgroup may go away under the walk, and a root may not exist yet or not in every hierarchy.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.problems.push(format!("cannot list {}: {error}", dir.display())),
        };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let path = parent.join(entry.file_name());
            if !known {
                self.add(bare(path), entry.ino());
                continue;
            }
            if self.roots.contains(&path) {
                continue;
            }
            match classify(&path) {
                Place::Container(identity) => {
                    let (identity, inode) = self.within_scope(mount, identity, entry.ino());
                    self.add(identity, inode);
                }
                Place::Between if depth < MAX_DEPTH => self.children(mount, &path, depth + 1, known),
                Place::Between | Place::Skip => {}
            }
        }
    }

    /// What stands for a container that may be in a scope: with crun it is the cgroup below.
    fn within_scope(&mut self, mount: &Path, identity: Identity, inode: u64) -> (Identity, u64) {
        let is_scope = identity.path.extension().is_some_and(|extension| extension == "scope");
        let may_be_oci =
            matches!(identity.runtime, Runtime::Docker | Runtime::Podman | Runtime::Cri | Runtime::Machine);
        if !(self.is_v2 && is_scope && may_be_oci) {
            return (identity, inode);
        }
        let scope = below(mount, &identity.path);
        // It is made a moment after the scope.
        (self.listing)(&scope);
        match fs::metadata(scope.join(CRUNS_OWN)) {
            Ok(dir) if dir.is_dir() => {
                let path = identity.path.join(CRUNS_OWN);
                (Identity { path, ..identity }, dir.ino())
            }
            _ => (identity, inode),
        }
    }

    fn add(&mut self, identity: Identity, inode: u64) {
        // The first hierarchy that has the cgroup names its incarnation.
        self.found.entry(identity.path.clone()).or_insert(Found { identity, inode });
    }
}

fn bare(path: PathBuf) -> Identity {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let id = path.display().to_string();
    Identity { runtime: Runtime::Bare, id, name, path, labels: BTreeMap::new() }
}

/// The cgroups that this very process is in. A limit on one of them would squeeze the control plane, which then could not
/// raise it again.
#[derive(Debug)]
pub(crate) struct OwnCgroups(Vec<PathBuf>);

impl OwnCgroups {
    pub(crate) fn read() -> Result<Self, ActuatorError> {
        let path = "/proc/self/cgroup";
        fs::read_to_string(path)
            .map(|text| Self::parse(&text))
            .map_err(|error| ActuatorError::file("read", path, error))
    }

    /// Lines are `ID:CONTROLLERS:PATH`, on v1 one a hierarchy, on v2 `0::PATH`. A path may hold colons.
    fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(PathBuf::from).collect())
    }

    /// Whether this process is in the cgroup at `path` or below it. The root holds everybody and is nobody's container.
    pub(crate) fn are_within(&self, path: &Path) -> bool {
        path != Path::new("/") && self.0.iter().any(|own| own.starts_with(path))
    }
}

/// Whether a container of a pod is the `pause` process that only holds the pod's namespaces. `None` while it has no process
/// by which it could be told.
pub(crate) fn is_pause(cgroup_dir: &Path) -> Option<bool> {
    let pids = fs::read_to_string(cgroup_dir.join("cgroup.procs")).unwrap_or_default();
    let mut pids = pids.split_whitespace();
    let first = pids.next()?;
    if pids.next().is_some() {
        return Some(false);
    }
    let comm = fs::read_to_string(Path::new("/proc").join(first).join("comm")).unwrap_or_default();
    Some(comm.trim() == "pause")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f2a9c0d11223344556677889900aabbccddeeff00112233445566778899aabb";

    #[test]
    fn containers_are_told_by_their_paths() {
        let short = &ID[..12];
        let cases: &[(&str, Option<(Runtime, &str)>)] = &[
            ("/docker/ID", Some((Runtime::Docker, short))),
            ("/system.slice/docker-ID.scope", Some((Runtime::Docker, short))),
            ("/docker/ID/docker/ID", Some((Runtime::Docker, short))),
            ("/machine.slice/libpod-ID.scope", Some((Runtime::Podman, short))),
            ("/machine.slice/libpod-ID.scope/container", Some((Runtime::Podman, short))),
            ("/libpod_parent/libpod-ID", Some((Runtime::Podman, short))),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
                Some((Runtime::Podman, short)),
            ),
            ("/machine.slice/libpod-conmon-ID.scope", None),
            ("/libpod_parent/libpod-conmon-ID", None),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0c1e2d3f_1111_2222_3333_444455556666.slice/cri-containerd-ID.scope",
                Some((Runtime::Cri, short)),
            ),
            ("/kubepods/besteffort/pod0c1e2d3f-1111-2222-3333-444455556666/ID", Some((Runtime::Cri, short))),
            ("/kubepods/pod0c1e2d3f-1111-2222-3333-444455556666/crio-ID", Some((Runtime::Cri, short))),
            ("/kubepods/pod0c1e2d3f-1111-2222-3333-444455556666/crio-conmon-ID", None),
            ("/kubepods/pod0c1e2d3f-1111-2222-3333-444455556666", None),
            ("/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:ID", Some((Runtime::Cri, short))),
            ("/system.slice/containerd.service", None),
            ("/system.slice/tidegate.service", None),
            ("/system.slice/snap.docker.dockerd.service", None),
            ("/kubelet/kubepods-pod1.slice:cri-containerd:ID", Some((Runtime::Cri, short))),
            ("/lxc.payload.web", Some((Runtime::Lxc, "web"))),
            ("/lxc.payload/web", Some((Runtime::Lxc, "web"))),
            ("/lxc/web", Some((Runtime::Lxc, "web"))),
            ("/lxc.payload.web/system.slice/cron.service", Some((Runtime::Lxc, "web"))),
            ("/lxc.monitor.web", None),
            ("/lxc.monitor/web", None),
            ("/machine.slice/machine-qemu\\x2d1\\x2dvm.scope", Some((Runtime::Machine, "qemu-1-vm"))),
            ("/machine.slice/systemd-nspawn@web-1.service", Some((Runtime::Machine, "web-1"))),
            ("/machine.slice/systemd-nspawn@web-1.service/payload", Some((Runtime::Machine, "web-1"))),
            ("/machine.slice/other.service", None),
            ("/user.slice/user-0.slice/apptainer-4711.scope", Some((Runtime::Apptainer, "apptainer-4711"))),
            ("/singularity/4711", Some((Runtime::Apptainer, "singularity-4711"))),
            ("/singularity/x", None),
            ("/system.slice/nginx.service", Some((Runtime::Systemd, "nginx.service"))),
            ("/system.slice/system-getty.slice/getty@tty1.service", None),
            ("/user.slice/user-0.slice/user@0.service", None),
            ("/system.slice/dbus.socket", None),
            ("/init.scope", None),
            ("/docker/buildkit", None),
            ("/", None),
        ];
        for (path, expected) in cases {
            let path = path.replace("ID", ID);
            let found = identify(Path::new(&path));
            assert_eq!(found.as_ref().map(|f| (f.runtime, f.name.as_str())), *expected, "{path}");
        }
    }

    #[test]
    fn a_nested_path_belongs_to_the_outer_cgroup() {
        let found = identify(Path::new("/lxc.payload.web/system.slice/cron.service")).unwrap();
        assert_eq!(found.path, Path::new("/lxc.payload.web"));
    }

    #[test]
    fn a_pods_uid_becomes_a_label() {
        let path = format!("/kubepods.slice/kubepods-pod0c1e2d3f_1111_2222_3333_444455556666.slice/crio-{ID}.scope");
        let found = identify(Path::new(&path)).unwrap();
        assert_eq!(found.labels["pod"], "0c1e2d3f-1111-2222-3333-444455556666");
        assert_eq!(found.id, ID);
    }

    #[test]
    fn the_own_cgroup_and_those_above_it_are_known() {
        let v1 = "4:memory:/docker/ID/init\n3:cpu,cpuacct:/lxc/a:b\n1:name=systemd:/\n0::/\n";
        let v2 = "0::/system.slice/tidegate.service\n";
        let cases = [
            (v1, "/docker/ID", true),
            (v1, "/docker/ID/init", true),
            (v1, "/lxc/a:b", true),
            (v1, "/lxc/a", false),
            (v1, "/docker/ID/init/below", false),
            (v1, "/", false),
            (v2, "/system.slice/tidegate.service", true),
            (v2, "/system.slice", true),
            (v2, "/system.slice/tidegate.service.d", false),
            ("", "/docker/ID", false),
        ];
        for (text, path, expected) in cases {
            assert_eq!(OwnCgroups::parse(text).are_within(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn what_crun_made_below_a_scope_is_the_container() {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("cgroup.controllers"), "cpu memory").unwrap();
        let scope =
            |prefix: &str, digit: char| format!("machine.slice/{prefix}-{}.scope", digit.to_string().repeat(64));
        let (by_crun, by_runc, of_a_pod) = (scope("libpod", 'a'), scope("libpod", 'b'), scope("crio", 'c'));
        let of_a_pod = format!("kubepods.slice/kubepods-pod{}.slice/{}", "0".repeat(32), &of_a_pod[14..]);
        let below = [format!("{by_crun}/container"), format!("{by_runc}/inner"), format!("{of_a_pod}/container")];
        let service = "system.slice/web.service/container".to_owned();
        below.iter().chain([&service]).for_each(|dir| fs::create_dir_all(tree.path().join(dir)).unwrap());
        let hierarchy = Hierarchy::find(tree.path()).unwrap();
        let (mut listed, mut problems) = (Vec::new(), Vec::new());
        let found = walk(&hierarchy, &[], true, &mut |dir| listed.push(dir.to_owned()), &mut problems);
        let paths: Vec<_> = found.iter().map(|found| found.identity.path.display().to_string()).collect();
        assert_eq!(paths, [&below[2], &below[0], &by_runc, "system.slice/web.service"].map(|path| format!("/{path}")));
        let inode = fs::metadata(tree.path().join(&below[0])).unwrap().ino();
        assert_eq!((found[1].inode, found[1].identity.runtime), (inode, Runtime::Podman));
        assert!(listed.contains(&tree.path().join(&by_runc)), "what comes below later is noticed");
    }

    #[test]
    fn the_walk_lists_children_of_roots_and_known_patterns_once() {
        let tree = tempfile::tempdir().unwrap();
        for dir in
            ["cpu/own/a/inner", "cpu/own/b", "cpu/docker/ID", "memory/own/a", "memory/lxc.payload.web/lxc/x", "cpu/x"]
        {
            fs::create_dir_all(tree.path().join(dir.replace("ID", ID))).unwrap();
        }
        let hierarchy = Hierarchy::find(tree.path()).unwrap();
        let mut problems = Vec::new();
        let mut names = |roots: &[PathBuf], known| -> Vec<String> {
            let found = walk(&hierarchy, roots, known, &mut |_| {}, &mut problems);
            found.into_iter().map(|found| found.identity.name).collect()
        };
        let roots = [PathBuf::from("/own"), PathBuf::from("/not-there")];
        assert_eq!(names(&roots, false), ["a", "b"]);
        assert_eq!(names(&roots, true), [&ID[..12], "web", "a", "b"]);
        assert!(problems.is_empty());
    }
}
