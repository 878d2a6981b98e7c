//! Keeps the cpusets of containers in step with their CPU limits.

use std::collections::BTreeSet;
use std::path::Path;

use parking_lot::Mutex;
use tidegate_model::{CgroupVersion, Limit, Write};

use crate::cgroup::dir::Dir;
use crate::error::ActuatorError;
use crate::pinning::cores::{Cores, SHARES, TooFew};
use crate::pinning::topology::{CoreOrder, Topology, list_text, parse_list};

const CPUS: &str = "cpuset.cpus";

/// Who is pinned where on this machine.
#[derive(Debug)]
pub(crate) struct Pins {
    topology: Topology,
    /// Locked while a cpuset is written, so that the files say what stands here.
    cores: Mutex<Cores>,
}

impl Pins {
    /// Nobody is pinned yet. `devices` is `/sys/devices/system`.
    pub(crate) fn read(devices: &Path) -> Result<Self, ActuatorError> {
        let topology = Topology::read(devices)?;
        let cores = Mutex::new(Cores::new(topology.order(CoreOrder::GroupThreads)));
        Ok(Self { topology, cores })
    }

    /// Gives a container the CPUs that go with its limit and writes them to its cpuset. Where there are not enough it runs on
    /// all CPUs again: on those that are left it would get less than its limit. Returns what the outcome should mention.
    pub(crate) fn follow(
        &self,
        container: &str,
        dir: &Dir,
        version: CgroupVersion,
        limit: Limit,
        writes: &mut Vec<Write>,
    ) -> Result<Option<String>, ActuatorError> {
        let found = match dir.read(CPUS) {
            Ok(text) => {
                parse_list(&text).ok_or_else(|| ActuatorError::malformed(dir.path().join(CPUS), &text, "CPUs"))?
            }
            Err(error) if error.is_missing() => {
                return Ok(Some("it is not pinned: its cgroup has no cpuset controller".to_owned()));
            }
            Err(error) => return Err(error),
        };
        let allowed = above(dir, version)?;
        let is_allowed = |cpu: u32| allowed.as_ref().is_none_or(|allowed| allowed.contains(&cpu));
        let mut cores = self.cores.lock();
        let before = cores.clone();
        let pinned = match limit {
            Limit::Unlimited => Err(None),
            Limit::At(limit) => self.assign(&mut cores, container, shares(limit), &is_allowed).map_err(Some),
        };
        let (text, note) = match pinned {
            Ok(()) => (list_text(cores.of(container).iter().copied()), None),
            Err(why) => {
                cores.release(container);
                let text = match version {
                    // Empty means all that the parent has, and nothing is written without at least the line's end.
                    CgroupVersion::V2 => "\n".to_owned(),
                    CgroupVersion::V1 => list_text(
                        allowed
                            .clone()
                            .unwrap_or_else(|| self.topology.order(CoreOrder::GroupThreads).into_iter().collect()),
                    ),
                };
                (text, why.map(|why| format!("it is not pinned: {why}")))
            }
        };
        let wanted: Option<BTreeSet<u32>> = parse_list(&text).map(BTreeSet::from_iter);
        if wanted.as_ref() != Some(&found.into_iter().collect()) {
            match dir.write(CPUS, &text) {
                Ok(write) => writes.push(write),
                Err(error) => {
                    *cores = before;
                    return Err(error);
                }
            }
        }
        Ok(note)
    }

    /// Takes over a container that a former process has pinned: if it is on some CPUs only, and its limit fits on them.
    pub(crate) fn adopt(&self, container: &str, dir: &Dir, limit: Limit) {
        let text = dir.read(CPUS).unwrap_or_default();
        let cpus: BTreeSet<u32> = parse_list(&text).unwrap_or_default().into_iter().collect();
        let Limit::At(limit) = limit else { return };
        let mut cores = self.cores.lock();
        if cpus.len() < self.topology.order(CoreOrder::GroupThreads).len() && cores.of(container).is_empty() {
            let taken = cores.grow(container, shares(limit), &|cpu| cpus.contains(&cpu).then_some(0));
            if taken < shares(limit) {
                cores.release(container);
            }
        }
    }

    /// The container is gone.
    pub(crate) fn release(&self, container: &str) {
        self.cores.lock().release(container);
    }

    /// Makes a container hold `wanted` shares, on the memory node that it is on as far as possible.
    fn assign(
        &self,
        cores: &mut Cores,
        container: &str,
        wanted: u32,
        is_allowed: &dyn Fn(u32) -> bool,
    ) -> Result<(), TooFew> {
        if !cores.of(container).iter().all(|cpu| is_allowed(*cpu)) {
            cores.release(container);
        }
        let node = |cpu: u32| self.topology.nodes.get(&cpu).copied();
        let anywhere = |cpu: u32| is_allowed(cpu).then_some(0);
        let has = cores.shares_of(container);
        if wanted <= has {
            return cores.shrink(container, has - wanted);
        }
        if has == 0 {
            let nodes: BTreeSet<Option<u32>> = cores_in_order(&self.topology).map(node).collect();
            let on = |home: Option<u32>| move |cpu: u32| (is_allowed(cpu) && node(cpu) == home).then_some(0);
            let home = nodes.into_iter().find(|home| cores.free(&on(*home)) >= wanted);
            return match home {
                Some(home) => cores.place(container, wanted, &on(home)),
                None => cores.place(container, wanted, &anywhere),
            };
        }
        let free = cores.free(&anywhere);
        if free < wanted - has {
            return Err(TooFew { wanted, there: has + free });
        }
        let homes: BTreeSet<Option<u32>> = cores.of(container).iter().map(|cpu| node(*cpu)).collect();
        let near =
            cores.grow(container, wanted - has, &|cpu| (is_allowed(cpu) && homes.contains(&node(cpu))).then_some(0));
        cores.grow(container, wanted - has - near, &anywhere);
        Ok(())
    }
}

fn cores_in_order(topology: &Topology) -> impl Iterator<Item = u32> {
    topology.order(CoreOrder::GroupThreads).into_iter()
}

/// A limit in shares; a part of one counts as one.
fn shares(limit: f64) -> u32 {
    // A limit is 1.1 cores though the quota over the period is 1.1000000000000001.
    (limit * f64::from(SHARES) - 1e-6).ceil().clamp(1.0, 1e9) as u32
}

/// The CPUs that the cgroup above has; `None` when it has no cpuset of its own to tell.
pub(crate) fn above(dir: &Dir, version: CgroupVersion) -> Result<Option<BTreeSet<u32>>, ActuatorError> {
    let Some(parent) = dir.path().parent() else { return Ok(None) };
    let name = match version {
        CgroupVersion::V1 => CPUS,
        CgroupVersion::V2 => "cpuset.cpus.effective",
    };
    let path = parent.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let cpus = parse_list(&text).ok_or_else(|| ActuatorError::malformed(&path, &text, "CPUs"))?;
            Ok((!cpus.is_empty()).then(|| cpus.into_iter().collect()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ActuatorError::file("read", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// Two sockets of two cores of two threads; a memory node is a socket.
    fn pins() -> Pins {
        let core = |core: u32, threads: [u32; 2]| ((0, core), threads.to_vec());
        let sockets = [(0, [core(0, [0, 4]), core(1, [1, 5])].into()), (1, [core(0, [2, 6]), core(1, [3, 7])].into())];
        let nodes = (0..8).map(|cpu| (cpu, u32::from(cpu % 4 >= 2))).collect();
        let topology = Topology { sockets: sockets.into(), nodes };
        let cores = Mutex::new(Cores::new(topology.order(CoreOrder::GroupThreads)));
        Pins { topology, cores }
    }

    struct Group(TempDir);

    impl Group {
        fn new() -> Self {
            let group = Self(tempfile::tempdir().unwrap());
            fs::create_dir(group.0.path().join("web")).unwrap();
            group.set("\n");
            group
        }

        fn set(&self, text: &str) {
            fs::write(self.0.path().join("web/cpuset.cpus"), text).unwrap();
        }

        fn dir(&self) -> Dir {
            Dir::open(&self.0.path().join("web")).unwrap()
        }

        /// The list after a limit, and what is said of it.
        fn follow(&self, pins: &Pins, name: &str, limit: Limit) -> (String, Option<String>) {
            let mut writes = Vec::new();
            let note = pins.follow(name, &self.dir(), CgroupVersion::V2, limit, &mut writes).unwrap();
            (self.dir().read(CPUS).unwrap().trim().to_owned(), note)
        }
    }

    #[test]
    fn a_container_gets_whole_cores_on_one_node_and_stays_there() {
        let (pins, web, db) = (pins(), Group::new(), Group::new());
        assert_eq!(web.follow(&pins, "web", Limit::At(1.5)).0, "0-1");
        assert_eq!(db.follow(&pins, "db", Limit::At(3.0)).0, "2-3,6", "the first node that has room for all of it");
        assert_eq!(web.follow(&pins, "web", Limit::At(3.0)).0, "0-1,4", "near before far");
        assert_eq!(web.follow(&pins, "web", Limit::At(4.5)).0, "0-1,4-5,7", "and far when near is full");
        assert_eq!(web.follow(&pins, "web", Limit::At(0.5)).0.len(), 1);
        assert_eq!(db.follow(&pins, "db", Limit::At(3.0)).1, None);
    }

    #[test]
    fn who_does_not_fit_runs_everywhere() {
        let (pins, web, db) = (pins(), Group::new(), Group::new());
        assert_eq!(web.follow(&pins, "web", Limit::At(6.0)).0, "0-5");
        let (cpus, note) = db.follow(&pins, "db", Limit::At(2.5));
        assert_eq!(cpus, "");
        assert!(note.is_some_and(|note| note.contains("250 shares") && note.contains("200")));
        assert_eq!(web.follow(&pins, "web", Limit::Unlimited), (String::new(), None));
        assert_eq!(db.follow(&pins, "db", Limit::At(2.5)).0, "0-1,4");
        pins.release("db");
        assert_eq!(pins.cores.lock().free(&|_| Some(0)), 800);
    }

    #[test]
    fn only_cpus_of_the_group_above_are_given() {
        let (pins, web) = (pins(), Group::new());
        fs::write(web.0.path().join("cpuset.cpus.effective"), "3,6-7\n").unwrap();
        assert_eq!(web.follow(&pins, "web", Limit::At(2.0)).0, "3,6");
        fs::write(web.0.path().join("cpuset.cpus.effective"), "0-2\n").unwrap();
        assert_eq!(web.follow(&pins, "web", Limit::At(2.0)).0, "0-1", "the ones it had are not there any more");
    }

    #[test]
    fn a_cpuset_that_cannot_be_written_leaves_the_map_as_it_was() {
        let (pins, web) = (pins(), Group::new());
        let file = web.0.path().join("web/cpuset.cpus");
        assert_eq!(web.follow(&pins, "web", Limit::At(1.0)).0, "0");
        let before = pins.cores.lock().clone();
        let dir = web.dir();
        fs::remove_file(&file).unwrap();
        // A link is not followed, so this fails for root, too.
        std::os::unix::fs::symlink("/no/such", &file).unwrap();
        assert!(pins.follow("web", &dir, CgroupVersion::V2, Limit::At(3.0), &mut Vec::new()).is_err());
        assert_eq!(*pins.cores.lock(), before);
    }

    #[test]
    fn what_a_former_process_pinned_is_taken_over_where_it_fits() {
        let (pins, web, db) = (pins(), Group::new(), Group::new());
        web.set("1,5\n");
        pins.adopt("web", &web.dir(), Limit::At(2.0));
        assert_eq!(pins.cores.lock().of("web"), [1, 5]);
        db.set("5-6\n");
        pins.adopt("db", &db.dir(), Limit::At(1.5));
        assert_eq!(pins.cores.lock().of("db"), [] as [u32; 0], "one of the two is taken");
        assert_eq!(web.follow(&pins, "web", Limit::At(3.0)).0, "0-1,5");
    }
}
