//! Sequences of windows: the whole pack through the engine, beside what the original did with the same load.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value, json};
use tidegate_model::TimeMs;

use super::cases::{Case, trees};
use super::text::Pack;
use super::window::{Seen, Windows};
use crate::world::World;

/// How many sequences run at once.
const AT_ONCE: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn conformance_sequence() {
    let queries = Pack::new(World::new().await).await.queries;
    for tree in trees("sequence") {
        let (mut answers, mut left_out) = (BTreeMap::new(), BTreeMap::new());
        for cases in tree.cases.chunks(AT_ONCE) {
            let mut running = Vec::new();
            for Case { id, input, .. } in cases {
                let (id, input, rulesets, queries) =
                    (id.clone(), input.clone(), tree.rulesets.clone(), queries.clone());
                running.push(tokio::spawn(async move { (id, replay(&input, &rulesets, &queries).await) }));
            }
            for one in running {
                match one.await.unwrap() {
                    (id, Ok(answer)) => drop(answers.insert(id, answer)),
                    (id, Err(why)) => drop(left_out.insert(id, why)),
                }
            }
        }
        tree.compare(&answers, &left_out);
    }
}

/// What became of the current limits and events so far.
struct Replay {
    current: BTreeMap<String, f64>,
    /// By resource, in the order in which they were made; the window at which they are applied.
    due: VecDeque<(usize, String, f64)>,
    left: Vec<Seen>,
    timeout: f64,
    subtype: Value,
    requests: usize,
}

async fn replay(input: &Value, rulesets: &Value, queries: &BTreeMap<String, String>) -> Result<Value, String> {
    let windows = input["windows"].as_array().unwrap();
    let began = instant(&windows[0]);
    let world = Windows::new(input, rulesets, queries, began).await?;
    let delay = input["apply_delay_windows"].as_u64().unwrap() as usize;
    let currents = input["resources"].as_object().unwrap().iter();
    let currents: Option<_> =
        currents.map(|(name, values)| Some((name.clone(), values["current"].as_f64()?))).collect();
    let mut replay = Replay {
        current: currents.ok_or("a resource without a current limit: nothing is measured of it")?,
        due: VecDeque::new(),
        left: Vec::new(),
        timeout: input["event_timeout"].as_f64().unwrap(),
        subtype: input["subtype"].clone(),
        requests: 0,
    };
    let mut out = Vec::new();
    for (at, window) in windows.iter().enumerate() {
        replay.apply_until(at);
        if let Some((name, current)) = replay.current.iter().find(|(_, current)| **current <= 0.0) {
            return Err(format!("{name} would have a limit of {current} in window {at}"));
        }
        let mut found = replay.window(&world, window, at + delay).await;
        if delay == 0 {
            replay.apply_until(at);
        }
        found.insert("current_after".to_owned(), json!(replay.current));
        out.push(Value::Object(found));
    }
    Ok(json!({"windows": out, "final_current": replay.current, "n_requests": replay.requests}))
}

fn instant(window: &Value) -> TimeMs {
    TimeMs((window["t"].as_f64().unwrap() * 1e3).round() as i64)
}

impl Replay {
    fn apply_until(&mut self, window: usize) {
        while let Some((_, name, amount)) = self.due.pop_front_if(|(at, ..)| *at <= window) {
            *self.current.get_mut(&name).unwrap() += amount;
        }
    }

    /// One window: what the pack leaves behind, in the words of the reference.
    async fn window(&mut self, world: &Windows, window: &Value, due: usize) -> Map<String, Value> {
        let now = instant(window);
        let report = world.tick(now, &self.current, &window["usage"]).await;
        let bands = world.state("serverless_limits", now).await;
        let scaled = world.state("serverless_scale", now).await;
        let ran = bands.values().any(|(_, new)| *new);
        let failed = |states: &BTreeMap<String, (Value, bool)>| -> Option<Value> {
            states.values().find(|(row, new)| *new && !row["error"].is_null()).map(|(row, _)| row["error"].clone())
        };
        let processed = ran && failed(&bands).is_none();
        let events = world.events(now).await;
        let mut new: Vec<Seen> = events.iter().filter(|event| event.time == now).cloned().collect();
        // Events of one instant have no order; those of the reference are in that of its rules.
        new.sort_by(|a, b| a.resource.cmp(&b.resource));
        let (expired, removed) = if processed { self.age(now, &new, &events) } else { (0, BTreeMap::new()) };

        let mut limits = Map::new();
        for name in self.current.keys() {
            let of = |key: &str| bands.get(name).map_or(Value::Null, |(row, _)| row[key].clone());
            limits.insert(name.clone(), json!({"upper": of("upper"), "lower": of("lower")}));
        }
        let mut counts = Map::new();
        let mut requests = Vec::new();
        for (name, (row, _)) in scaled.iter().filter(|(_, (_, new))| *new) {
            counts.insert(name.clone(), json!({"up": row["up"], "down": row["down"]}));
            let mut total = 0.0;
            for request in row["requests"].as_str().unwrap_or_default().split(", ").filter(|text| !text.is_empty()) {
                let (action, amount) = request.split_once(' ').unwrap();
                let amount: f64 = amount.parse().unwrap();
                total += amount;
                self.due.push_back((due, name.clone(), amount));
                requests.push(json!({
                    "resource": name, "amount": amount, "action": action,
                    "field": "current", "priority": 0, "structure_type": self.subtype,
                }));
            }
            if total != 0.0 {
                // What the engine wrote is what the requests add up to.
                let wanted = self.current[name] + total;
                assert_eq!(world.written(name), Some(wanted), "{name}: {:?}", report.decisions);
            }
        }
        self.requests += requests.len();
        let seen = |(name, current): (&String, &f64)| {
            let cut = bands.get(name).filter(|(_, new)| *new).map(|(row, _)| row["current"].clone());
            (name.clone(), cut.unwrap_or(json!(current)))
        };
        let mut found = Map::new();
        let mut put = |key: &str, value: Value| drop(found.insert(key.to_owned(), value));
        put("current_seen", Value::Object(self.current.iter().map(seen).collect()));
        put("limits", Value::Object(limits));
        put("events", new.iter().map(event).collect());
        put("expired", json!(expired));
        put("counts", Value::Object(counts));
        put("requests", Value::Array(requests));
        put("removed", json!(removed));
        put("events_left", json!(by_name(&self.left)));
        if !ran {
            put("skipped", json!("no_data"));
        }
        if let Some(error) = failed(&bands).or(failed(&scaled)) {
            put("error", error);
        }
        found
    }

    /// How many events of those that were left became too old, and how many the rule acted on.
    fn age(&mut self, now: TimeMs, new: &[Seen], all: &[Seen]) -> (usize, BTreeMap<String, usize>) {
        let before: Vec<Seen> = self.left.iter().chain(new).cloned().collect();
        let oldest = now.0 as f64 / 1e3 - self.timeout;
        let (live, ended): (Vec<Seen>, Vec<Seen>) =
            before.into_iter().partition(|event| (event.time.0 / 1000) as f64 >= oldest);
        let acted_on =
            |event: &Seen| all.iter().any(|one| one.consumed && (one.time, &one.name) == (event.time, &event.name));
        let (removed, left): (Vec<Seen>, Vec<Seen>) = live.into_iter().partition(acted_on);
        self.left = left;
        (ended.len(), by_name(&removed))
    }
}

fn by_name(events: &[Seen]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    events.iter().for_each(|event| *counts.entry(event.name.clone()).or_default() += 1);
    counts
}

fn event(event: &Seen) -> Value {
    let (up, down) = if event.name.ends_with("Bottleneck") { (event.value, 0.0) } else { (0.0, event.value) };
    json!({"name": event.name, "resource": event.resource, "up": up, "down": down})
}
