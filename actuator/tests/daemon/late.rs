//! A container daemon that carries out updates when it is let, as one under load does minutes after it was asked.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What a daemon does with a body that changes limits.
pub type Apply = Box<dyn Fn(&Value) + Send + Sync>;

struct State {
    /// By container, what is remembered of it.
    configs: Mutex<BTreeMap<String, Value>>,
    /// How many updates it may still carry out.
    permits: Mutex<usize>,
    permitted: Condvar,
    /// Bodies in the order in which they came, and in which they were carried out.
    came: Mutex<Vec<Value>>,
    done: Mutex<Vec<Value>>,
    apply: BTreeMap<String, Apply>,
    ends: AtomicBool,
}

pub struct LateDaemon {
    dir: TempDir,
    state: Arc<State>,
}

/// As many as one likes.
pub const ALL: usize = usize::MAX / 2;

impl LateDaemon {
    /// Knows containers by their identifiers, and what an update does to each. It answers questions at once.
    pub fn start(apply: BTreeMap<String, Apply>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let state = Arc::new(State {
            configs: Mutex::default(),
            permits: Mutex::new(0),
            permitted: Condvar::new(),
            came: Mutex::default(),
            done: Mutex::default(),
            apply,
            ends: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.ends.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&shared);
                // Each request has a thread, as it has with Docker: none waits for another.
                thread::spawn(move || shared.serve(stream.unwrap()));
            }
        });
        Self { dir, state }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Lets it carry out so many updates more.
    pub fn permit(&self, updates: usize) {
        *self.state.permits.lock() = updates;
        self.state.permitted.notify_all();
    }

    /// What it remembers of a container.
    pub fn config(&self, id: &str) -> Value {
        self.state.configs.lock().get(id).cloned().unwrap_or(json!({}))
    }

    pub fn came(&self) -> Vec<Value> {
        self.state.came.lock().clone()
    }

    /// Waits until so many updates were carried out.
    pub fn wait_done(&self, updates: usize) -> Vec<Value> {
        let started = Instant::now();
        while self.state.done.lock().len() < updates {
            assert!(started.elapsed() < Duration::from_secs(20), "{:?} of {updates}", self.state.done.lock());
            thread::sleep(Duration::from_millis(2));
        }
        self.state.done.lock().clone()
    }
}

impl State {
    fn serve(&self, mut stream: UnixStream) {
        let Some(asked) = super::read(&stream) else { return };
        let Some(id) = self.apply.keys().find(|id| asked.target.contains(*id)) else {
            // In the tree of a real kernel there are containers of other tests, too.
            return answer(&mut stream, "404 Not Found", &json!({ "message": "no such container" }));
        };
        let config = || self.configs.lock().get(id).cloned().unwrap_or(json!({}));
        if asked.method == "GET" {
            let name = if id.starts_with('a') { "web" } else { &id[..4] };
            let body = json!({ "Name": format!("/{name}"), "Config": { "Labels": {} }, "HostConfig": config() });
            return answer(&mut stream, "200 OK", &body);
        }
        self.came.lock().push(asked.body.clone());
        let mut permits = self.permits.lock();
        while *permits == 0 {
            self.permitted.wait(&mut permits);
        }
        *permits -= 1;
        drop(permits);
        let mut config = config();
        for (name, value) in asked.body.as_object().unwrap() {
            config[name] = value.clone();
        }
        self.configs.lock().insert(id.clone(), config);
        self.apply[id](&asked.body);
        self.done.lock().push(asked.body);
        answer(&mut stream, "200 OK", &json!({ "Warnings": null }));
    }
}

fn answer(stream: &mut UnixStream, status: &str, body: &Value) {
    let body = body.to_string();
    let text = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    // Whoever asked may be gone.
    let _ = stream.write_all(text.as_bytes());
}

impl Drop for LateDaemon {
    fn drop(&mut self) {
        self.state.ends.store(true, Ordering::Relaxed);
        self.permit(ALL);
        let _ = UnixStream::connect(self.socket());
    }
}

/// Writes the memory limit of an update of Docker or Podman into a file, as the kernel takes it.
pub fn write_memory(file: PathBuf) -> Apply {
    Box::new(move |body| {
        if let Some(memory) = body["Memory"].as_u64().or_else(|| body["memory"]["limit"].as_u64()) {
            fs::write(&file, memory.to_string()).unwrap();
        }
    })
}
