//! The files of the made-up tree, as the books and the daemon see them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tidegate_model::Resource;

use crate::tree::{Kind, MIB, Tree, UNLIMITED_V1};

/// The limit that a file holds, as text.
pub fn quota_text(kind: Kind, cores: Option<f64>) -> String {
    let us = cores.map(|cores| ((cores * 100_000.0).round() as u64).max(1_000));
    match (kind, us) {
        (Kind::V2, Some(us)) => format!("{us} 100000"),
        (Kind::V2, None) => "max 100000".to_owned(),
        (_, Some(us)) => us.to_string(),
        (_, None) => "-1".to_owned(),
    }
}

/// Cores or bytes of what a file holds; `None` is unlimited.
pub fn parse(resource: Resource, text: &str) -> Option<f64> {
    let number: f64 = text.split_whitespace().next()?.parse().ok()?;
    match resource {
        _ if number < 0.0 => None,
        Resource::Cpu => Some(number / 100_000.0),
        _ if number > 1e15 => None,
        _ => Some(number),
    }
}

pub fn same(resource: Resource, one: Option<f64>, other: Option<f64>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) if resource == Resource::Cpu => (one - other).abs() <= 0.010_1_f64.max(one * 0.01),
        (Some(one), Some(other)) => (one - other).abs() <= MIB / 64.0,
        (one, other) => one.is_none() && other.is_none(),
    }
}

pub fn file_of(tree: &Tree, path: &str, resource: Resource) -> PathBuf {
    tree.path(path, if resource == Resource::Cpu { tree.cpu_file() } else { tree.memory_file() })
}

pub fn usage_file(tree: &Tree, path: &str) -> PathBuf {
    tree.path(path, if tree.kind == Kind::V2 { "memory.current" } else { "memory.kmem.usage_in_bytes" })
}

pub fn set_memory_use(tree: &Tree, path: &str, used: u64, held: u64) {
    if tree.kind == Kind::V2 {
        tree.write(path, "memory.current", &used.to_string());
        let text = format!("anon {held}\nfile 0\nkernel 0\nshmem 0\ninactive_file {}\n", used - held);
        tree.write(path, "memory.stat", &text);
    } else {
        tree.write(path, "memory.usage_in_bytes", &used.to_string());
        let text = format!("total_rss 0\ntotal_shmem 0\ntotal_inactive_file {}\n", used - held);
        tree.write(path, "memory.stat", &text);
        // All of it, so that one file tells it.
        tree.write(path, "memory.kmem.usage_in_bytes", &held.to_string());
    }
}

/// Below this a memory limit kills, or the kernel refuses it: on v2 what is used, on v1 what it cannot reclaim.
pub fn floor(tree: &Tree, path: &str) -> f64 {
    fs::read_to_string(usage_file(tree, path)).unwrap().trim().parse().unwrap()
}

/// False where the container is gone.
pub fn write_limit(kind: Kind, resource: Resource, file: &Path, value: Option<f64>) -> bool {
    let text = match (resource, kind, value) {
        (Resource::Cpu, ..) => quota_text(kind, value),
        (_, _, Some(bytes)) => (bytes as u64).to_string(),
        (_, Kind::V2, None) => "max".to_owned(),
        (_, _, None) => UNLIMITED_V1.to_owned(),
    };
    fs::write(file, text).is_ok()
}

pub fn look(file: &Path) -> (String, SystemTime) {
    let started = Instant::now();
    loop {
        let text = fs::read_to_string(file).unwrap();
        // It is empty for a moment while it is written.
        if !text.trim().is_empty() {
            return (text.trim().to_owned(), fs::metadata(file).unwrap().modified().unwrap());
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{} is empty", file.display());
    }
}

/// The limit that Docker remembers; the inner `None` is unlimited.
pub fn known_limit(known: &Value, resource: Resource) -> Option<Option<f64>> {
    let number = |name: &str| known[name].as_f64().filter(|number| *number != 0.0);
    match resource {
        Resource::Cpu => match (number("NanoCpus"), number("CpuQuota")) {
            (Some(nano), _) => Some(Some(nano / 1e9)),
            (_, Some(quota)) => Some((quota > 0.0).then_some(quota / 100_000.0)),
            _ => None,
        },
        _ => number("Memory").map(Some),
    }
}
