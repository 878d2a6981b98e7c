//! A real page cache under the default rules for memory: who reads a file again and again, and then needs memory of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::support::{ProcessGroup, Server, TestContainers, wait_for};

/// Generous, since an emulated machine runs this.
const LONG: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;
const LIMIT: u64 = 512 * MIB;
/// What is read again and again, in parts.
const PARTS: u64 = 16;
const PART: u64 = 16 * MIB;
const PAGE: u64 = 4096;
/// What the process takes for itself afterwards: together with the file more than it is squeezed to, and less than the limit.
const GROWS_TO_MIB: u64 = 176;
/// How long what is read is counted, and how long before that.
const WINDOW: Duration = Duration::from_secs(10);
const SETTLING: Duration = Duration::from_secs(8);
/// What reads may fall to, as a share of what they are without rules: a busy machine takes some, too.
const LEAST_RATE: f64 = 0.25;
/// How much of what is read may have to come from the disk again.
const MOST_FROM_DISK: f64 = 0.25;

/// A process that reads all parts of the file in turns, and counts them.
struct Reader {
    _process: ProcessGroup,
    parts_read: Arc<AtomicU64>,
}

impl Reader {
    fn start(containers: &TestContainers, dir: &Path) -> Self {
        let script = "read go; while :; do for part in part-*; do cat $part >/dev/null; echo; done; done";
        let mut command = Command::new("busybox");
        command.args(["sh", "-c", script]).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut group = ProcessGroup::spawn(&mut command).unwrap();
        let process = &mut group.0;
        containers.sandbox.move_process("app", process.id()).unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let parts_read = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&parts_read);
        std::thread::spawn(move || lines.for_each(|_| _ = counter.fetch_add(1, Ordering::Relaxed)));
        process.stdin.take().unwrap().write_all(b"\n").unwrap();
        Self { _process: group, parts_read }
    }

    /// MiB a second, over a while.
    fn rate(&self, time: Duration) -> f64 {
        let (start, before) = (Instant::now(), self.parts_read.load(Ordering::Relaxed));
        std::thread::sleep(time);
        let parts = self.parts_read.load(Ordering::Relaxed) - before;
        (parts * PART / MIB) as f64 / start.elapsed().as_secs_f64()
    }
}

/// Files that no zeros are in, on the disk and in nobody's cache.
fn write_parts(dir: &Path) {
    let mut part = vec![0; PART as usize];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut part).unwrap();
    for number in 0..PARTS {
        fs::write(dir.join(format!("part-{number}")), &part).unwrap();
    }
    assert!(Command::new("sync").status().unwrap().success());
    // What is cached belongs to whoever read it first.
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

/// Pages that were taken away a short while ago and were read again.
const REFAULTS: &str = "workingset_refault_file";

/// The container's cgroup, and what the kernel says of it.
struct Group(PathBuf);

impl Group {
    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.0.join(file)).unwrap().trim().parse().ok()
    }

    /// A line of memory.stat.
    fn stat(&self, name: &str) -> u64 {
        let text = fs::read_to_string(self.0.join("memory.stat")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
        line.parse().unwrap()
    }

    fn describe(&self) -> String {
        let mib = |bytes: u64| bytes / MIB;
        let high = self.number("memory.high").map_or("max".to_owned(), |high| mib(high).to_string());
        format!(
            "high {high}, max {:?}, current {:?}, anon {}, active file {}, inactive file {} MiB, refaults {}",
            self.number("memory.max").map(mib),
            self.number("memory.current").map(mib),
            mib(self.stat("anon")),
            mib(self.stat("active_file")),
            mib(self.stat("inactive_file")),
            self.stat(REFAULTS),
        )
    }
}

/// For whoever reads what a failed test printed.
fn decisions(server: &Server) -> Vec<String> {
    let sql = "SELECT time, rule, resource, limit_before, limit_after, outcome, message, reason FROM decisions \
               WHERE outcome IN ('applied', 'rolled_back', 'failed', 'infeasible') ORDER BY time";
    server.sql(sql).iter().map(|row| format!("{row:?}")).collect()
}

/// How the kernel keeps track of what is used: in two lists, or in generations, where what is read again and again stays among
/// the inactive until something is reclaimed.
#[derive(Clone, Copy, Debug)]
enum Lru {
    Lists,
    Generations,
}

/// The rules for memory are in force, and no others: those for CPU would change what is read, too.
fn enforce_memory_rules(server: &Server) {
    for rule in server.sql("SELECT name FROM rules WHERE name LIKE 'memory%'") {
        let sql = format!("ALTER RULE {} SET (mode = 'on')", rule[0].as_str().unwrap());
        let (status, text) = server.post("/api/v1/sql", &[], sql.as_bytes());
        assert_eq!(status, 200, "{text}");
    }
}

fn check(test: &str, lru: Lru) {
    // It changes how the whole machine keeps its caches, so only a virtual one will do.
    let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if !is_v2 || std::env::var_os("TIDEGATE_TEST_BIN").is_none() {
        return;
    }
    let Some(containers) = TestContainers::new(test) else { return };
    fs::write("/sys/kernel/mm/lru_gen/enabled", if matches!(lru, Lru::Lists) { "n" } else { "y" }).unwrap();
    containers.sandbox.add_group("app").unwrap();
    containers.sandbox.limit_memory("app", LIMIT).unwrap();
    let group = Group(Path::new("/sys/fs/cgroup").join(&containers.root).join("app"));
    let dir = tempfile::tempdir().unwrap();
    write_parts(dir.path());
    let reader = Reader::start(&containers, dir.path());
    let settings = containers.settings();
    let server = Server::start(&settings.iter().map(String::as_str).collect::<Vec<_>>());
    reader.rate(SETTLING);
    let alone = reader.rate(WINDOW).min(reader.rate(WINDOW));
    println!("{lru:?}: without rules {alone:.0} MiB/s; {}", group.describe());

    let (refaults, parts) = (group.stat(REFAULTS), reader.parts_read.load(Ordering::Relaxed));
    enforce_memory_rules(&server);
    let squeezed =
        wait_for("memory.high to be lowered", LONG, || group.number("memory.high").filter(|high| *high < LIMIT));
    let mut rates = Vec::new();
    for _ in 0..5 {
        rates.push(reader.rate(WINDOW / 2));
        println!("{lru:?}: {:.0} MiB/s; {}", rates.last().unwrap(), group.describe());
    }
    let squeezed_rate = rates.iter().sum::<f64>() / rates.len() as f64;

    let memory = GROWS_TO_MIB.to_string();
    let mut grower = containers.load("app", &["--shape", "ramp", "--cycle", "20", "--memory", &memory]);
    wait_for("the process to have grown", LONG, || {
        assert!(grower.is_alive(), "it was killed");
        (group.stat("anon") >= (GROWS_TO_MIB - 8) * MIB).then_some(())
    });
    let in_the_end = reader.rate(WINDOW / 2);
    println!("{lru:?}: grown, {in_the_end:.0} MiB/s; {}", group.describe());
    println!("{:#?}", decisions(&server));
    let read = (reader.parts_read.load(Ordering::Relaxed) - parts) * PART;
    let from_disk = ((group.stat(REFAULTS) - refaults) * PAGE) as f64 / read as f64;
    println!(
        "{lru:?}: memory.high was lowered to {} MiB; reads went on at {:.2} of their rate without rules, and at {:.2} in the \
         end; {:.1} % of what was read came from the disk again",
        squeezed / MIB,
        squeezed_rate / alone,
        in_the_end / alone,
        100.0 * from_disk,
    );
    assert!(from_disk < MOST_FROM_DISK, "{from_disk:.3} of what was read came from the disk again");
    assert_eq!(containers.sandbox.oom_kills("app").unwrap(), 0);
    let given_back = "SELECT count(*) FROM decisions WHERE resource = 'memory.high' AND outcome = 'applied' \
                      AND coalesce(limit_after, 1e18) > limit_before AND rule IN ('memory_release', '(watch)')";
    assert!(server.number(given_back) >= Some(1.0), "memory.high was given back");
    assert!(squeezed_rate > LEAST_RATE * alone, "reads crawl: {rates:?} MiB/s, without rules {alone}");
    assert!(in_the_end > LEAST_RATE * alone, "reads crawl: {in_the_end} MiB/s, without rules {alone}");
}

#[test]
fn with_lists_what_is_read_again_stays_cached_and_memory_is_given_back() {
    check("page_cache::with_lists", Lru::Lists);
}

#[test]
fn with_generations_reads_that_became_slow_are_helped_within_seconds() {
    check("page_cache::with_generations", Lru::Generations);
}
