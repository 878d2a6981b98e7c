//! A disk that is full: a small file system of the test's own, in a mount namespace that ends with the test.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::support::{Process, Server, binary, installed, skip, spawn_by, wait_for};

/// Room for a few hundred bodies in the log, with a ballast in it that can be thrown out.
const DISK: &str = "10m";
const BALLAST_MIB: &str = "4";

/// A file system that only processes started through it see.
struct SmallDisk {
    holder: Process,
    home: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, and a report, where no file system can be made.
    fn new(test: &str) -> Option<Self> {
        if !["unshare", "nsenter", "mount"].iter().all(|tool| installed(tool)) {
            skip(test, "no unshare, nsenter or mount (util-linux)");
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        let disk = home.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        let script = format!(
            "mount -t tmpfs -o size={DISK} tidegate-test {0} && dd if=/dev/zero of={0}/ballast bs=1M count={BALLAST_MIB} 2>/dev/null \
             && echo ready && exec sleep 900",
            disk.display()
        );
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let holder = Process(holder);
        if line.trim() != "ready" {
            skip(test, "a file system of its own cannot be mounted here");
            return None;
        }
        Some(Self { holder, home })
    }

    fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.holder.0.id().to_string(), "--"]).arg(program);
        command
    }

    fn serve(&self) -> Server {
        let data = self.home.path().join("disk/data").display().to_string();
        let args = ["serve", "--listen", "127.0.0.1:0", "--data-dir", &data, "--local-host", "false"];
        let (process, base) = spawn_by(self.inside(&binary()), &args, self.home.path());
        let server = Server::of(process, base);
        wait_for("the server to be healthy", Duration::from_secs(120), || server.get("/health").ok());
        server
    }

    fn throw_out_the_ballast(&self) {
        let ballast = self.home.path().join("disk/ballast");
        assert!(self.inside(Path::new("rm")).arg(ballast).status().unwrap().success());
    }
}

/// Pushes bodies of a thousand points until one is refused, at most `most`; gives what was acknowledged and the refusal.
fn push(server: &Server, from: u64, most: u64, start_ms: u64) -> (u64, Option<(u16, String)>) {
    for body in 0..most {
        let time = start_ms + from + body;
        let lines: String = (0..1000).map(|series| format!("full,series={series} value={body} {time}\n")).collect();
        match server.post("/api/v2/write?precision=ms", &[], lines.as_bytes()) {
            (204, _) => {}
            refusal => return (body, Some(refusal)),
        }
    }
    (most, None)
}

#[test]
fn a_full_disk_is_a_clear_error_and_loses_nothing_that_was_acknowledged() {
    let Some(disk) = SmallDisk::new("disk::a_full_disk_is_a_clear_error") else { return };
    let start_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64 - 250_000;
    let server = disk.serve();
    let (kept, refusal) = push(&server, 0, 5000, start_ms);
    let (status, text) = refusal.expect("a disk of 10 MiB takes no 5 M points that are only in the log");
    assert!(status == 500 && text.contains("No space left"), "{status} {text}");
    assert!(kept > 50, "{kept}");
    // Reading goes on, and what was refused is not there.
    let count = |server: &Server| server.number("SELECT count(*) FROM metric.full").unwrap() as u64;
    assert_eq!(count(&server), kept * 1000);
    disk.throw_out_the_ballast();
    let (more, refusal) = push(&server, 100_000, 20, start_ms);
    assert_eq!((more, refusal), (20, None), "it goes on by itself as soon as there is room");
    drop(server);
    let server = disk.serve();
    assert_eq!(count(&server), (kept + more) * 1000);
    // A disk that is full again must not keep it from starting either.
    let (last, refusal) = push(&server, 120_000, 5000, start_ms);
    assert!(refusal.is_some());
    drop(server);
    assert_eq!(count(&disk.serve()), (kept + more + last) * 1000);
}
