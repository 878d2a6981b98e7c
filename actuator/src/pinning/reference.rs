//! The core mapping of Serverless Containers, case by case. Further cases may be added through `TIDEGATE_CONFORMANCE`, a list
//! of trees that are laid out like `tests/fixtures/conformance`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::pinning::cores::{Cores, Rank};
use crate::pinning::topology::{CoreOrder, Topology, parse_list};

const ANY: Rank<'static> = &|_| Some(0);

/// Compares all cases of a kind, and prints how many there were and how many agreed.
fn compare(kind: &str, answer: impl Fn(&Value) -> Value) {
    let own = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/conformance"));
    let more = std::env::var_os("TIDEGATE_CONFORMANCE").unwrap_or_default();
    let trees = std::iter::once(own).chain(std::env::split_paths(&more));
    for file in trees.map(|tree| tree.join("serverless-containers/scaler_cases.jsonl")).filter(|file| file.exists()) {
        let text = std::fs::read_to_string(&file).unwrap();
        let cases = text.lines().filter(|line| !line.trim().is_empty());
        let cases = cases.map(|line| serde_json::from_str::<Value>(line).unwrap());
        let is_ours = |case: &Value| {
            let defect = case["note"].as_str().is_some_and(|note| note.starts_with("DEFECT"));
            case["kind"] == kind && !defect
        };
        let (mut seen, mut wrong) = (0, Vec::new());
        for case in cases.filter(is_ours) {
            seen += 1;
            let given = answer(&case["in"]);
            // Of an error its being one is compared, not its name in the original.
            let expected = if case["out"]["error"].is_string() { json!("error") } else { case["out"].clone() };
            if given != expected {
                wrong.push(format!("{}: {given}, expected {expected}", case["id"]));
            }
        }
        println!("{}: {seen} cases of {kind}, {} agreed", file.display(), seen - wrong.len());
        assert!(seen > 0 && wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

fn topology(case: &Value) -> Topology {
    let mut topology = Topology::default();
    for (socket, cores) in case["topology"].as_object().unwrap() {
        for (core, threads) in cores.as_object().unwrap() {
            let threads = threads.as_array().unwrap().iter().map(|cpu| cpu.as_u64().unwrap() as u32).collect();
            let cores = topology.sockets.entry(socket.parse().unwrap()).or_default();
            cores.insert((0, core.parse().unwrap()), threads);
        }
    }
    topology
}

/// The map of a case: CPUs that its topology does not have stand at the end.
fn cores(case: &Value, order: CoreOrder) -> Cores {
    let map = case["map"].as_object().unwrap();
    let mut cpus = topology(case).order(order);
    let mut others: Vec<u32> = map.keys().map(|cpu| cpu.parse().unwrap()).filter(|cpu| !cpus.contains(cpu)).collect();
    others.sort_unstable();
    cpus.extend(others);
    let mut cores = Cores::new(cpus);
    // A container's own CPUs are listed in the order in which it got them, which the map does not tell.
    let listed = parse_list(case["cpu_num"].as_str().unwrap_or_default()).unwrap();
    let mut all: Vec<u32> = map.keys().map(|cpu| cpu.parse().unwrap()).collect();
    all.sort_by_key(|cpu| (listed.iter().position(|listed| listed == cpu).unwrap_or(listed.len()), *cpu));
    for cpu in all {
        let holders = map[&cpu.to_string()].as_object().unwrap();
        for (name, shares) in holders.iter().filter(|(name, _)| *name != "free") {
            cores.grow(name, shares.as_u64().unwrap() as u32, &|other| (other == cpu).then_some(0));
        }
    }
    cores
}

fn names(cpus: impl IntoIterator<Item = u32>) -> Value {
    cpus.into_iter().map(|cpu| cpu.to_string()).collect()
}

/// The map as the cases write it.
fn map(cores: &Cores, case: &Value, container: &str) -> Value {
    let given = case["map"].as_object().unwrap();
    let shares = given.iter().map(|(cpu, holders)| {
        let number: u32 = cpu.parse().unwrap();
        let mut shares: BTreeMap<String, u64> = BTreeMap::new();
        let names = holders.as_object().unwrap().keys().filter(|name| *name != "free").cloned();
        for name in names.chain([container.to_owned()]) {
            let held = cores.shares_on(number, &name);
            if held > 0 {
                shares.insert(name, held.into());
            }
        }
        shares.insert("free".to_owned(), cores.free_of(number).into());
        (cpu.clone(), json!(shares))
    });
    Value::Object(shares.collect())
}

#[test]
fn conformance_core_order() {
    compare("core_order", |case| match case["name"].as_str().unwrap().parse() {
        Ok(order) => json!({ "cores": names(topology(case).order(order)) }),
        Err(_) => json!("error"),
    });
}

#[test]
fn conformance_cpu_list() {
    compare("cpu_list", |case| match parse_list(case["text"].as_str().unwrap()) {
        Some(cpus) => json!({ "cores": names(cpus) }),
        None => json!("error"),
    });
}

#[test]
fn conformance_map_cpu() {
    compare("map_cpu", |case| {
        let (container, order) = (case["container"].as_str().unwrap(), case["order"].as_str().unwrap());
        let mut cores = cores(case, order.parse().unwrap());
        let (limit, amount) = (case["limit"].as_i64().unwrap(), case["amount"].as_i64().unwrap());
        let shares = amount.unsigned_abs() as u32;
        let changed = if amount >= 0 {
            i64::from(cores.grow(container, shares, ANY))
        } else {
            match cores.shrink(container, shares) {
                Ok(()) => amount,
                Err(_) => return json!("error"),
            }
        };
        let (map, free) = (map(&cores, case, container), cores.free(ANY));
        let cpus = names(cores.of(container).iter().copied());
        json!({ "cpu_num": cpus, "limit": limit + changed, "map": map, "free": free })
    });
}

#[test]
fn conformance_initial_map() {
    compare("initial_map", |case| {
        let mut cores = cores(case, CoreOrder::GroupThreads);
        if cores.place("c", case["needed"].as_u64().unwrap() as u32, ANY).is_err() {
            return json!("error");
        }
        let cpus = names(cores.of("c").iter().copied());
        json!({ "cores": cpus, "map": map(&cores, case, "c"), "free": cores.free(ANY) })
    });
}
