//! A container daemon that answers on a Unix socket as it is told, and remembers what it was asked.
#![allow(dead_code)]

pub mod late;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};

use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;

/// What was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub method: String,
    pub target: String,
    pub body: Value,
}

pub struct Daemon {
    dir: TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
    ends: Arc<AtomicBool>,
}

impl Daemon {
    /// Answers every request with the status and the body that `answer` gives, in chunks.
    pub fn start(mut answer: impl FnMut(&Asked) -> (u16, Value) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let (asked, ends) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen, over) = (Arc::clone(&asked), Arc::clone(&ends));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let mut stream = stream.unwrap();
                let Some(request) = read(&stream) else { continue };
                let (status, body) = answer(&request);
                seen.lock().push(request);
                let text = body.to_string();
                let (first, second) = text.split_at(text.len() / 2);
                let chunks = [first, second].map(|part| match part.len() {
                    0 => String::new(),
                    length => format!("{length:x}\r\n{part}\r\n"),
                });
                let head = format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n");
                // Whoever asked may have lost patience.
                let _ = stream.write_all((head + &chunks.concat() + "0\r\n\r\n").as_bytes());
            }
        });
        Self { dir, asked, ends }
    }

    /// One that takes requests and does not answer until it is woken, by a word into the channel.
    pub fn hanging(mut answer: impl FnMut(&Asked) -> (u16, Value) + Send + 'static, woken: Receiver<()>) -> Self {
        let mut is_awake = false;
        Self::start(move |asked| {
            if !is_awake {
                is_awake = woken.recv().is_ok();
            }
            answer(asked)
        })
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// What was asked since this was called last.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // The thread may be in the middle of keeping somebody waiting, so it is not waited for.
        let _ = UnixStream::connect(self.dir.path().join("socket"));
    }
}

fn read(stream: &UnixStream) -> Option<Asked> {
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    let mut next = || {
        line.clear();
        lines.read_line(&mut line).ok().filter(|count| *count > 0)?;
        Some(line.trim().to_owned())
    };
    let first = next()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let header = next()?;
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body).ok()?;
    Some(Asked { method, target, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

/// A channel whose word wakes a hanging daemon.
pub fn alarm() -> (std::sync::mpsc::Sender<()>, Receiver<()>) {
    channel()
}

/// The identifier of a container, 64 digits.
pub fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

/// Where a container's cgroup is under the driver `cgroupfs`.
pub fn docker_path(id: &str) -> PathBuf {
    Path::new("/docker").join(id)
}
