//! The host around the agent: a tree of cgroups, a daemon, people who change limits, and the books in which each change of a
//! limit has to have a cause.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tempfile::TempDir;
use tidegate_model::{Outcome, OutcomeStatus, Resource};

use crate::agent::{Agent, Answer, Order, Setting};
use crate::daemon::late::{ALL, Apply, LateDaemon};
use crate::daemon::{docker_path, id};
use crate::files::{file_of, floor, known_limit, look, parse, same, set_memory_use, usage_file, write_limit};
use crate::tree::{Kind, MIB, Tree};

/// Containers of Docker, which come back under their identifiers.
const DOCKER: [char; 3] = ['a', 'b', 'c'];
const MOST: usize = 10;

/// The same numbers for the same seed (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }

    pub fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (self.next() as f64 / u64::MAX as f64) * (to - from)
    }

    pub fn chance(&mut self, share: f64) -> bool {
        self.between(0.0, 1.0) < share
    }
}

/// What a daemon has written, with what was there and what the container used.
struct OwnerWrite {
    file: PathBuf,
    text: String,
    /// A memory limit below what is used: this kills.
    kills: bool,
}

/// One limit of one container.
struct Cell {
    file: PathBuf,
    text: String,
    modified: SystemTime,
    /// What stood there before the first change of ours: one of these is the baseline.
    before_ours: Vec<Option<f64>>,
    is_changed: bool,
    /// What we wrote last.
    ours: Option<String>,
}

struct Container {
    path: String,
    name: String,
    docker: Option<char>,
    cells: BTreeMap<Resource, Cell>,
}

/// How many changes of limits had which cause.
#[derive(Debug, Default)]
pub struct Books {
    pub decisions: usize,
    pub owner: usize,
    pub put_back: usize,
    pub foreign: usize,
    pub killed: usize,
    pub refused: usize,
    pub late: usize,
    pub orders: usize,
    pub kills: usize,
    pub born: usize,
    pub full: usize,
}

pub struct World {
    pub now: i64,
    pub dice: Dice,
    pub books: Books,
    kind: Kind,
    tree: Tree,
    aside: TempDir,
    _state: TempDir,
    setting: Setting,
    agent: Agent,
    daemon: LateDaemon,
    log: Arc<Mutex<Vec<OwnerWrite>>>,
    containers: Vec<Container>,
    /// Of Docker's containers that are not running: what is remembered of their limits.
    away: BTreeMap<char, BTreeMap<Resource, Cell>>,
    full: bool,
    last_frame: u64,
    what: String,
}

impl World {
    pub fn new(kind: Kind, seed: u64) -> Self {
        let tree = Tree::new(kind);
        fs::remove_dir_all(tree.path("/own/web", tree.memory_file()).parent().unwrap()).unwrap();
        if kind != Kind::V2 {
            for file in ["cpu.stat", "cpuacct.usage"] {
                let _ = fs::remove_dir_all(tree.path("/own/web", file).parent().unwrap());
            }
        }
        tree.cgroup("/docker");
        let log = Arc::new(Mutex::new(Vec::new()));
        let apply = |digit: char| -> (String, Apply) {
            let path = docker_path(&id(digit));
            let path = path.to_str().unwrap();
            let files = [Resource::Cpu, Resource::Memory].map(|resource| file_of(&tree, path, resource));
            (id(digit), owner_apply(kind, files, usage_file(&tree, path), Arc::clone(&log)))
        };
        let daemon = LateDaemon::start(DOCKER.into_iter().map(apply).collect());
        daemon.permit(ALL);
        let state = tempfile::tempdir().unwrap();
        let setting =
            Setting { mount: tree.dir.path().to_owned(), state: state.path().to_owned(), docker: daemon.socket() };
        let agent = Agent::start(&setting);
        let aside = tempfile::tempdir().unwrap();
        let mut world = Self {
            now: 1_700_000_000_000,
            dice: Dice(seed),
            books: Books::default(),
            kind,
            tree,
            aside,
            _state: state,
            setting,
            agent,
            daemon,
            log,
            containers: Vec::new(),
            away: BTreeMap::new(),
            full: false,
            last_frame: 0,
            what: String::new(),
        };
        for _ in 0..6 {
            world.birth();
        }
        world.collect();
        world
    }

    /// What is going on, for whoever reads of a failure.
    fn note(&mut self, what: impl Into<String>) {
        self.what = what.into();
    }

    fn birth(&mut self) {
        self.books.born += 1;
        let living: Vec<char> = self.containers.iter().filter_map(|container| container.docker).collect();
        let docker = DOCKER.into_iter().find(|digit| !living.contains(digit)).filter(|_| self.dice.chance(0.5));
        let (path, name) = match docker {
            Some(digit) => (
                docker_path(&id(digit)).to_str().unwrap().to_owned(),
                if digit == 'a' { "web".to_owned() } else { digit.to_string().repeat(4) },
            ),
            None => (format!("/own/c{}", self.books.born), format!("c{}", self.books.born)),
        };
        self.tree.cgroup(&path);
        let mut cells = docker.and_then(|digit| self.away.remove(&digit)).unwrap_or_default();
        for resource in Resource::ALL {
            let file = file_of(&self.tree, &path, resource);
            if self.dice.chance(0.5) && docker.is_none() {
                let (cores, mib) = (self.dice.between(0.5, 4.0), self.dice.between(200.0, 600.0));
                write_limit(
                    self.kind,
                    resource,
                    &file,
                    Some(if resource == Resource::Cpu { cores } else { mib * MIB }),
                );
            }
            let (text, modified) = look(&file);
            let first = vec![parse(resource, &text)];
            match cells.get_mut(&resource) {
                Some(cell) => (cell.text, cell.modified) = (text, modified),
                None => {
                    let cell = Cell { file, text, modified, before_ours: first, is_changed: false, ours: None };
                    cells.insert(resource, cell);
                }
            }
        }
        self.containers.push(Container { path, name, docker, cells });
        let at = self.containers.len() - 1;
        self.use_memory(at);
        if let Some(digit) = docker {
            // Docker starts it with what it remembers.
            self.owner_writes_what_it_knows(at, digit);
        }
    }

    fn death(&mut self, at: usize) {
        let container = self.containers.remove(at);
        for file in ["cpu.stat", "memory.stat", "cpuacct.usage"] {
            let path = self.tree.path(&container.path, file);
            let dir = path.parent().unwrap();
            if path.exists() && dir.exists() {
                // Not removed, or another one gets its inode.
                let name = format!("{}-{}-{}", container.name, self.books.born, file);
                fs::rename(dir, self.aside.path().join(name)).unwrap();
            }
        }
        if let Some(digit) = container.docker {
            self.away.insert(digit, container.cells);
        }
    }

    /// What it holds and uses is below its limit, as the kernel sees to.
    fn use_memory(&mut self, at: usize) {
        let container = &self.containers[at];
        let limit = parse(Resource::Memory, &container.cells[&Resource::Memory].text).unwrap_or(400.0 * MIB);
        let used = (self.dice.between(20.0, 300.0) * MIB).min(limit * self.dice.between(0.5, 1.0));
        let held = used * self.dice.between(0.1, 0.95);
        set_memory_use(&self.tree, &container.path, used as u64, held as u64);
    }

    fn foreign(&mut self, at: usize) {
        let resource = if self.dice.chance(0.5) { Resource::Cpu } else { Resource::Memory };
        let value = match resource {
            Resource::Cpu => self.dice.between(0.1, 4.0),
            _ => (self.dice.between(50.0, 600.0) * MIB / 4096.0).floor() * 4096.0,
        };
        let value = (!self.dice.chance(0.1)).then_some(value);
        let cell = self.containers[at].cells.get_mut(&resource).unwrap();
        write_limit(self.kind, resource, &cell.file, value);
        self.books.foreign += 1;
        self.accept(at, resource);
        self.use_memory(at);
    }

    /// What stands there was set by somebody else and is accounted for.
    fn accept(&mut self, at: usize, resource: Resource) {
        let cell = self.containers[at].cells.get_mut(&resource).unwrap();
        (cell.text, cell.modified) = look(&cell.file);
        if !cell.is_changed {
            cell.before_ours.push(parse(resource, &cell.text));
        }
    }

    /// As a daemon-reload does, or a start of the container.
    fn owner_writes_what_it_knows(&mut self, at: usize, digit: char) {
        let known = self.daemon.config(&id(digit));
        for resource in Resource::ALL {
            let Some(value) = known_limit(&known, resource) else { continue };
            write_limit(self.kind, resource, &self.containers[at].cells[&resource].file, value);
            self.books.owner += 1;
            self.accept(at, resource);
        }
        self.use_memory(at);
    }

    /// Everything that happens around the agent in one step.
    pub fn disturb(&mut self) {
        self.now += self.dice.below(89_000) as i64 + 1_000;
        if self.dice.chance(0.01) {
            self.now += self.dice.between(-10_000_000.0, 10_000_000.0) as i64;
        }
        if self.containers.len() < MOST && self.dice.chance(0.05) {
            self.note("birth");
            self.birth();
        }
        if self.containers.len() > 3 && self.dice.chance(0.04) {
            let at = self.dice.below(self.containers.len());
            self.death(at);
        }
        for _ in 0..2 {
            let at = self.dice.below(self.containers.len());
            self.use_memory(at);
        }
        let at = self.dice.below(self.containers.len());
        if self.dice.chance(0.06) {
            self.foreign(at);
        }
        if let (Some(digit), true) = (self.containers[at].docker, self.dice.chance(0.1)) {
            self.owner_writes_what_it_knows(at, digit);
        }
        if self.dice.chance(if self.full { 0.3 } else { 0.02 }) {
            self.full = !self.full;
            self.books.full += usize::from(self.full);
            let order = Order::Disk { full: self.full };
            self.tell(&order);
        }
    }

    fn tell(&mut self, order: &Order) -> Answer {
        self.note(format!("{order:?}"));
        self.books.orders += 1;
        self.agent.send(self.now, order);
        let answer = self.agent.answer();
        self.audit(&answer.outcomes, None);
        answer
    }

    pub fn collect(&mut self) -> Answer {
        let answer = self.tell(&Order::Collect);
        if let Some((number, true)) = answer.frame {
            assert!(number > self.last_frame, "frame {number} after {}", self.last_frame);
            self.last_frame = number;
        }
        answer
    }

    /// A decision about a container.
    fn decide(&mut self) -> (usize, Order) {
        let at = self.dice.below(self.containers.len());
        let container = &self.containers[at];
        let resource = if self.dice.chance(0.5) { Resource::Cpu } else { Resource::Memory };
        let target = match resource {
            Resource::Cpu => self.dice.between(0.02, 4.0),
            _ => self.dice.between(20.0, 600.0) * MIB,
        };
        let stands = parse(resource, &container.cells[&resource].text);
        let before = stands.filter(|_| self.dice.chance(0.8));
        (at, Order::Apply { name: container.name.clone(), resource, target, before })
    }

    pub fn act(&mut self) {
        let (at, order) = self.decide();
        if self.containers.len() > 3 && self.dice.chance(0.015) {
            // It dies in the middle of it.
            self.agent.send(self.now, &order);
            self.nap();
            self.note(format!("{order:?}, and death"));
            self.death(at);
            let answer = self.agent.answer();
            self.audit(&answer.outcomes, None);
            return;
        }
        if self.dice.chance(0.015) {
            self.agent.send(self.now, &order);
            self.nap();
            self.kill(Some(&order));
            return;
        }
        let answer = self.tell(&order);
        let (_, resource, outcome) = &answer.outcomes[0];
        self.books.refused += usize::from(outcome.status != OutcomeStatus::Applied);
        let at = self.containers.iter().position(|container| container.name == answer.outcomes[0].0).unwrap();
        let stands = parse(*resource, &self.containers[at].cells[resource].text);
        if outcome.status == OutcomeStatus::Applied {
            assert!(same(*resource, stands, outcome.limit_after), "{outcome:?} but {stands:?}");
        }
    }

    /// Some part of what an order takes.
    fn nap(&mut self) {
        let us = self.dice.below(6_000) as u64;
        thread::sleep(Duration::from_micros(us));
    }

    /// Ends the agent at this instant and starts it again.
    pub fn kill(&mut self, in_flight: Option<&Order>) {
        self.agent.kill();
        self.books.kills += 1;
        self.note(format!("killed during {in_flight:?}"));
        // What it had asked a daemon for may come a moment later.
        thread::sleep(Duration::from_millis(20));
        // A file of the kernel is not empty between its opening and its writing.
        for container in &self.containers {
            for cell in container.cells.values() {
                if fs::read_to_string(&cell.file).unwrap().is_empty() {
                    fs::write(&cell.file, &cell.text).unwrap();
                }
            }
            let high = self.tree.path(&container.path, "memory.high");
            if fs::read_to_string(&high).is_ok_and(|text| text.is_empty()) {
                fs::write(&high, "max").unwrap();
            }
        }
        self.audit(&[], in_flight);
        self.agent = Agent::start(&self.setting);
        self.full = false;
        self.collect();
    }

    pub fn restore(&mut self) -> Answer {
        self.tell(&Order::Restore)
    }

    /// Each limit that is another one than before has a cause, and none was written for nothing.
    fn audit(&mut self, outcomes: &[(String, Resource, Outcome)], in_flight: Option<&Order>) {
        let log = std::mem::take(&mut *self.log.lock());
        let what = &self.what;
        if let Some(OwnerWrite { file, text, .. }) = log.iter().find(|write| write.kills) {
            panic!("{what}: an owner was told of {text} for {}, which kills", file.display());
        }
        for container in &mut self.containers {
            let path = &container.path;
            for (resource, cell) in &mut container.cells {
                let is_ours = |write: &&tidegate_model::Write| Path::new(&write.target) == cell.file;
                let of = outcomes.iter().filter(|(name, of, _)| *name == container.name && of == resource);
                let ours: Vec<&str> = of
                    .flat_map(|(_, _, outcome)| outcome.writes.iter().filter(is_ours))
                    .map(|write| write.value.trim())
                    .collect();
                let theirs: Vec<&str> =
                    log.iter().filter(|write| write.file == cell.file).map(|write| write.text.trim()).collect();
                let whole: Vec<&str> = std::iter::once(cell.text.as_str()).chain(ours.iter().copied()).collect();
                if theirs.is_empty() {
                    let twice = whole.windows(2).find(|pair| pair[0] == pair[1]);
                    assert_eq!(twice, None, "{what}: a redundant write of {resource} of {path}");
                }
                let (text, modified) = look(&cell.file);
                let expected = match in_flight {
                    Some(Order::Apply { name, resource: of, target, .. })
                        if *name == container.name && of == resource =>
                    {
                        Some(*target)
                    }
                    _ => None,
                };
                let (from, to) = (parse(*resource, &cell.text), parse(*resource, &text));
                if from == to {
                    let excused = ours.len() > 1 || !theirs.is_empty() || expected.is_some();
                    assert!(modified == cell.modified || excused, "{what}: {text} of {path} was written for nothing");
                    (cell.text, cell.modified) = (text, modified);
                    continue;
                }
                let by_us = if ours.last() == Some(&text.as_str()) {
                    self.books.decisions += 1;
                    true
                } else if expected.is_some_and(|target| same(*resource, to, Some(target))) {
                    self.books.killed += 1;
                    true
                } else if theirs.last() == Some(&text.as_str()) {
                    self.books.owner += 1;
                    // It was told by us.
                    true
                } else if !theirs.is_empty() && cell.ours.as_ref() == Some(&text) {
                    self.books.put_back += 1;
                    true
                } else {
                    panic!(
                        "{what}: {resource} of {path} went from {from:?} to {to:?}: {ours:?} {theirs:?} {outcomes:?}"
                    );
                };
                if by_us {
                    let lowered = from.unwrap_or(f64::INFINITY) > to.unwrap_or(f64::INFINITY);
                    let floor = floor(&self.tree, path);
                    let below = *resource == Resource::Memory && lowered && to.is_some_and(|to| to < floor);
                    assert!(!below, "{what}: memory of {path} from {from:?} to {to:?}, below {floor}");
                    (cell.is_changed, cell.ours) = (true, Some(text.clone()));
                }
                (cell.text, cell.modified) = (text, modified);
            }
        }
    }

    /// A daemon that answers late: a limit that it brings back later is undone.
    pub fn late(&mut self) {
        let Some(at) = self.containers.iter().position(|container| container.docker.is_some()) else { return };
        let name = self.containers[at].name.clone();
        // What somebody else has set is adopted by then.
        self.now += 3_600_000;
        self.collect();
        self.now += 3_600_000;
        self.collect();
        let order =
            |mib: f64| Order::Apply { name: name.clone(), resource: Resource::Memory, target: mib * MIB, before: None };
        if self.full {
            self.full = false;
            self.tell(&Order::Disk { full: false });
        }
        set_memory_use(&self.tree, &self.containers[at].path, 100 << 20, 40 << 20);
        self.tell(&order(500.0));
        thread::sleep(Duration::from_millis(1_200));
        self.daemon.permit(0);
        let lower = self.tell(&order(130.0));
        let (_, _, outcome) = &lower.outcomes[0];
        assert!(outcome.message.contains("may carry this out later"), "{outcome:?}");
        self.tell(&order(300.0));
        self.daemon.permit(ALL);
        let file = self.containers[at].cells[&Resource::Memory].file.clone();
        let started = Instant::now();
        let came = || self.log.lock().iter().any(|write| write.file == file);
        let is_back = || parse(Resource::Memory, &look(&file).0) == Some(300.0 * MIB);
        while !(came() && is_back()) {
            assert!(started.elapsed() < Duration::from_secs(5), "{:?}", look(&file));
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(Duration::from_millis(2_500));
        let answer = self.collect();
        let foreign = answer.drifts.iter().find(|drift| drift.container.name == name);
        assert!(foreign.is_none(), "{foreign:?}");
        assert!(answer.news.iter().any(|news| news.knob == "memory late update"), "{:?}", answer.news);
        self.books.late += 1;
    }

    /// All baselines are put back: what stands is what stood there before the first change, where that is possible.
    pub fn end(&mut self) {
        self.kill(None);
        // What somebody else has set is nobody's any more for an agent that was started again.
        let answer = self.restore();
        self.note("the end");
        for container in &self.containers {
            for (resource, cell) in container.cells.iter().filter(|(_, cell)| cell.is_changed) {
                let of = answer.outcomes.iter().find(|(name, of, _)| *name == container.name && of == resource);
                let stands = parse(*resource, &cell.text);
                let is_back = cell.before_ours.iter().any(|before| same(*resource, *before, stands));
                let is_infeasible = of.is_some_and(|(.., outcome)| outcome.status == OutcomeStatus::Infeasible);
                assert!(
                    is_back || is_infeasible,
                    "{resource} of {}: {stands:?} instead of {:?}: {of:?}",
                    container.path,
                    cell.before_ours
                );
            }
            if self.kind == Kind::V2 {
                assert_eq!(self.tree.read(&container.path, "memory.high").trim(), "max", "{}", container.path);
            }
        }
    }
}

/// What Docker does with an update: it writes what differs.
fn owner_apply(kind: Kind, files: [PathBuf; 2], usage: PathBuf, log: Arc<Mutex<Vec<OwnerWrite>>>) -> Apply {
    Box::new(move |body| {
        for (resource, file) in Resource::ALL.into_iter().zip(&files) {
            let Some(value) = known_limit(body, resource) else { continue };
            let Ok(found) = fs::read_to_string(file) else { continue };
            if same(resource, parse(resource, &found), value) {
                continue;
            }
            // It may die at any moment.
            let Ok(used) = fs::read_to_string(&usage).unwrap_or_default().trim().parse::<f64>() else { continue };
            if !write_limit(kind, resource, file, value) {
                continue;
            }
            let kills = resource == Resource::Memory && value.is_some_and(|value| value < used);
            let Ok(text) = fs::read_to_string(file) else { continue };
            log.lock().push(OwnerWrite { file: file.clone(), text: text.trim().to_owned(), kills });
        }
    })
}
