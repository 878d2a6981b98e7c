//! A world in which the pack runs in its compatible mode, one tick a window, with nothing in its way: what the reference
//! measured is measured, what it stores as `current` is the limit.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tidegate_model::{Bytes, Cores, Host, Resource, SampleBatch, SeriesKey, TimeMs, metrics};
use tidegate_policy::{PolicyConfig, TickReport};

use super::settings::{self, original, resource};
use super::text::{Row, number, replace, rows, selected, text, unrolled};
use crate::world::{MIB, World, key};

/// The container of a sequence.
const NAME: &str = "c";
/// A window's usage, under a name of its own: what counts as usage for the guards stands still.
const USAGE: &str = "case.usage";

/// What one event was, as the table `events` has it.
#[derive(Clone, PartialEq)]
pub struct Seen {
    pub time: TimeMs,
    pub name: String,
    pub resource: String,
    pub value: f64,
    pub consumed: bool,
}

pub struct Windows {
    world: World,
    /// The resources with their units, in cores or bytes.
    units: BTreeMap<String, f64>,
}

/// How many cores or bytes one of the reference's units is.
fn unit(name: &str) -> Option<f64> {
    match name {
        "cpu" => Some(0.01),
        "mem" => Some(MIB),
        _ => None,
    }
}

impl Windows {
    /// Fails with what a container of Tidegate cannot have.
    pub async fn new(
        input: &Value,
        rulesets: &Value,
        queries: &BTreeMap<String, String>,
        began: TimeMs,
    ) -> Result<Self, String> {
        let names = input["resources"].as_object().unwrap().keys();
        let units: Option<BTreeMap<String, f64>> = names.map(|name| Some((name.clone(), unit(name)?))).collect();
        let units = units.ok_or("a container has limits of cpu and memory only")?;
        let config = PolicyConfig {
            gather_ms: 60_000,
            rule_timeout_ms: 60_000,
            min_change_interval_ms: 0,
            drift_hold_s: 0,
            shrink_share: 1.0,
            capacity_ratio_cpu: 1_000.0,
            capacity_ratio_memory: 1_000.0,
            floor_cpu_cores: 1e-9,
            floor_memory_bytes: 1,
            ..PolicyConfig::default()
        };
        let world = World::with(config);
        let host = Host { name: "node0".to_owned(), cpu: Cores(1e6), memory: Bytes(1 << 60), last_seen: began };
        world.store.put_host(host).unwrap();
        let windows = Self { world, units };
        windows.apply_pack(input, rulesets, queries, began).await;
        Ok(windows)
    }

    async fn apply_pack(&self, input: &Value, rulesets: &Value, queries: &BTreeMap<String, String>, began: TimeMs) {
        // Before the pack, so that there is such a metric.
        self.push(TimeMs(began.0 - 1_000), |batch, tags, at| batch.push(SeriesKey::new(USAGE, tags("none")), at, 0.0))
            .await;
        self.world.clock.set(TimeMs(began.0 - 1_000));
        let set = input["ruleset"].as_str().unwrap();
        let timeout = selected(&[("event_timeout", "DOUBLE")], &[vec![number(&input["event_timeout"])]]);
        for (name, query) in queries {
            let measured = ("measured", self.measured(&input["resources"]));
            let (options, replaced) = match name.as_str() {
                "serverless_limits" => {
                    let compatible = selected(&[("compatible", "BOOLEAN")], &[vec!["true".to_owned()]]);
                    ("emit = 'param'", vec![measured, ("policy", compatible), ("settings", boundaries(input))])
                }
                "serverless_events" => {
                    ("emit = 'event'", vec![measured, ("settings", settings::events(rulesets, set, selected))])
                }
                _ => (
                    "dead_band = 0, cooldown_up = '0s', cooldown_down = '0s', step_down = 1, warm_up = '0s', watch = '0s'",
                    vec![
                        measured,
                        ("settings", timeout.clone()),
                        ("requests", settings::requests(rulesets, set, selected)),
                    ],
                ),
            };
            let query = unrolled(replace(query, &replaced));
            // At any instant, since windows are not always of whole seconds.
            let statement =
                format!("CREATE OR REPLACE RULE {name} WITH (mode = 'on', every = 'arrival', {options}) AS {query}");
            self.world.run_sql(&statement).await;
        }
        let stored = input["limits"].as_object().unwrap().iter().filter(|(_, limits)| limits.get("upper").is_some());
        let stored = stored.map(|(name, limits)| {
            let columns: Map<String, Value> =
                ["upper", "lower"].into_iter().map(|key| (key.to_owned(), limits[key].clone())).collect();
            (key(NAME), resource(name).parse::<Resource>().unwrap(), columns)
        });
        self.world.store.put_state("serverless_limits", TimeMs(began.0 - 1_000), stored).unwrap();
    }

    /// What is measured at the instant itself, in place of what `recent()` makes of it.
    fn measured(&self, resources: &Value) -> String {
        let bounds: Vec<Vec<String>> = (self.units.iter())
            .map(|(name, unit)| {
                let bound =
                    |key: &str| resources[name][key].as_f64().map_or("NULL".to_owned(), |v| (v * unit).to_string());
                vec![format!("'{}'", resource(name)), bound("min"), bound("max")]
            })
            .collect();
        let bounds = selected(&[("resource", "VARCHAR"), ("min", "DOUBLE"), ("max", "DOUBLE")], &bounds);
        format!(
            "SELECT l.host, l.container, l.resource, u.value AS usage, u.value AS peak, l.value AS allocated, b.min, b.max
             FROM limits AS l JOIN ({bounds}) AS b ON b.resource = l.resource
             LEFT JOIN (SELECT * FROM metric.\"{USAGE}\" WHERE time = now()) AS u ON u.resource = l.resource
             WHERE l.time = now()"
        )
    }

    async fn push(&self, at: TimeMs, fill: impl Fn(&mut SampleBatch, &dyn Fn(&str) -> Vec<(String, String)>, TimeMs)) {
        let mut batch = SampleBatch::new();
        let tags = |name: &str| -> Vec<(String, String)> {
            let tags = [("host", "node0"), ("container", NAME), ("resource", resource(name))];
            tags.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()
        };
        fill(&mut batch, &tags, at);
        let report = self.world.store.append(&batch, at).await.unwrap();
        assert_eq!(report.rejected.len(), 0);
    }

    /// A window passes.
    pub async fn tick(&self, now: TimeMs, current: &BTreeMap<String, f64>, usage: &Value) -> TickReport {
        self.world.clock.set(now);
        self.push(now, |batch, tags, at| {
            for (name, unit) in &self.units {
                let mut put = |metric: &str, value: f64| batch.push(SeriesKey::new(metric, tags(name)), at, value);
                put(metrics::LIMIT, current[name] * unit);
                // Enough for the guards to see that there is data, and nothing in the way of a lower limit.
                put(metrics::USAGE, 1e-9);
                put(metrics::UNRECLAIMABLE, 0.0);
                if let Some(usage) = usage[name].as_f64() {
                    put(USAGE, usage * unit);
                }
            }
        })
        .await;
        let report = self.world.engine.tick(now).await;
        let errors: Vec<_> = report.runs.iter().filter_map(|run| run.error.as_ref()).collect();
        assert!(report.problems.is_empty() && errors.is_empty(), "{:?} {errors:?}", report.problems);
        report
    }

    /// The limit that was written last, in the reference's units.
    pub fn written(&self, name: &str) -> Option<f64> {
        let limits = self.world.actuator.limits.lock();
        let key = (NAME.to_owned(), resource(name).parse().unwrap());
        limits.get(&key).map(|limit| (limit / self.units[name] * 1e6).round() / 1e6)
    }

    /// The state that a rule has, by the reference's resources, and whether it is of now.
    pub async fn state(&self, rule: &str, now: TimeMs) -> BTreeMap<String, (Value, bool)> {
        let query =
            format!("SELECT resource, columns, time = now() AS new FROM state WHERE rule = {}", text(&json!(rule)));
        let of = |row: Row| {
            let columns = serde_json::from_str(row["columns"].as_str().unwrap()).unwrap();
            (original(row["resource"].as_str().unwrap()).to_owned(), (columns, row["new"] == true))
        };
        self.query(&query, now).await.into_iter().map(of).collect()
    }

    /// All events so far.
    pub async fn events(&self, now: TimeMs) -> Vec<Seen> {
        let query = "SELECT CAST(date_part('epoch', time) * 1000 AS BIGINT) AS ms, name, resource, value,
                            consumed_by IS NOT NULL AS consumed FROM events WHERE rule = 'serverless_events' ORDER BY time";
        let of = |row: Row| Seen {
            time: TimeMs(row["ms"].as_f64().unwrap().round() as i64),
            name: row["name"].as_str().unwrap().to_owned(),
            resource: original(row["resource"].as_str().unwrap()).to_owned(),
            value: row["value"].as_f64().unwrap(),
            consumed: row["consumed"] == true,
        };
        self.query(query, now).await.into_iter().map(of).collect()
    }

    async fn query(&self, query: &str, now: TimeMs) -> Vec<Row> {
        let options = self.world.store.default_query_options(now);
        rows(&self.world.store.query(query, &options).await.unwrap().batches)
    }
}

/// `settings` of serverless_limits: what is guarded, in its order.
fn boundaries(input: &Value) -> String {
    let guarded = input["guarded"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
    let rows: Vec<Vec<String>> = guarded
        .enumerate()
        .map(|(place, name)| {
            let limits = &input["limits"][name];
            let name = format!("'{}'", resource(name));
            vec![name, place.to_string(), number(&limits["boundary"]), text(&limits["boundary_type"])]
        })
        .collect();
    let columns = [("resource", "VARCHAR"), ("place", "BIGINT"), ("boundary", "DOUBLE"), ("boundary_type", "VARCHAR")];
    selected(&columns, &rows)
}
