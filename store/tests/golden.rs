//! Runs the golden SQL files in `tests/golden` of the repository: what goes in, a question, and the answer as it must be.
//!
//! A file is made of blocks, separated by blank lines; a line that begins with `#` is a comment. The first line of a block
//! says what it is:
//!
//! - `now 2026-11-21T20:00:00Z`: the instant for everything below.
//! - `samples`: one a line, `metric offset value tag=value ...`; the offset is from now, such as `-10s`, `-500ms` or `0s`.
//! - `containers`: one a line, `host/name app=.. user=.. cpu=min..max memory=min..max`, all of them optional.
//! - `groups`: one a line, `app name cpu=min..max memory=min..max`, or `user`; an end may be left out.
//! - `hosts`: one a line, `name cpu=cores memory=bytes`.
//! - `rules`, `rule_changes`, `experiments`, `decisions`, `events`: one a line, as JSON. A time may be an offset.
//! - `params`, `states`: one a line, as JSON. `consumed`: an event as JSON whose rule acts on the oldest of its name.
//! - `flush`: everything goes to segments.
//! - `query`: SQL lines, a line `----`, then a header and the rows, cells separated by ` | `.
//! - `error`: SQL lines, a line `----`, then the kind, the place, the message, and the help on a line of its own.
//!
//! With `TIDEGATE_BLESS=1` in the environment, the answers in the files are replaced by those that were given.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tidegate_model::{
    Bounds, Bytes, CgroupVersion, Container, ContainerKey, Cores, Decision, Event, GroupBounds, GroupKey, Host,
    Resource, Runtime, SampleBatch, SeriesKey, TimeMs,
};
use tidegate_store::{
    Consumption, Experiment, GroupRow, Param, QueryError, QueryResult, RuleChange, RuleRow, Store, StoreConfig,
    StoreError, export,
};

#[tokio::test]
async fn golden_files_give_the_answers_that_stand_in_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "slt"));
    files.sort();
    assert!(files.len() > 10, "the golden files are missing");
    let mut wrong = Vec::new();
    for path in files {
        let expected = std::fs::read_to_string(&path).unwrap();
        let given = run(&expected, &path).await;
        if std::env::var_os("TIDEGATE_BLESS").is_some() {
            std::fs::write(&path, &given).unwrap();
        } else if given != expected {
            wrong.push(format!("{}\n{}", path.display(), difference(&expected, &given)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn difference(expected: &str, given: &str) -> String {
    let line = expected.lines().zip(given.lines()).position(|(a, b)| a != b);
    let line = line.unwrap_or_else(|| expected.lines().count().min(given.lines().count()));
    let from = |text: &str| text.lines().skip(line).take(12).collect::<Vec<_>>().join("\n");
    format!("line {}, expected:\n{}\ngiven:\n{}", line + 1, from(expected), from(given))
}

/// The file as it would stand with the answers that were given.
async fn run(text: &str, path: &Path) -> String {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { dir: dir.path().join("data"), ..StoreConfig::default() };
    let mut script = Script { store: None, config, now: TimeMs(0) };
    let mut out = Vec::new();
    for block in text.trim_end().split("\n\n") {
        let lines: Vec<&str> = block.lines().collect();
        let comments = lines.iter().take_while(|line| line.starts_with('#')).count();
        let (comments, lines) = lines.split_at(comments);
        let mut shown: Vec<String> = comments.iter().map(|line| (*line).to_owned()).collect();
        shown.extend(script.block(lines, path).await);
        out.push(shown.join("\n"));
    }
    out.join("\n\n") + "\n"
}

struct Script {
    store: Option<Arc<Store>>,
    config: StoreConfig,
    now: TimeMs,
}

impl Script {
    async fn block(&mut self, lines: &[&str], path: &Path) -> Vec<String> {
        let mut shown: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let Some((first, rest)) = lines.split_first() else { return shown };
        if let Some(now) = first.strip_prefix("now ") {
            self.now = TimeMs(chrono::DateTime::parse_from_rfc3339(now).unwrap().timestamp_millis());
            return shown;
        }
        let now = self.now;
        let config = self.config.clone();
        let store = self.store.get_or_insert_with(|| Store::open(config, now).unwrap());
        match *first {
            "samples" => {
                let mut batch = SampleBatch::new();
                for line in rest {
                    push_sample(&mut batch, line, now);
                }
                let report = store.append(&batch, TimeMs(now.0 + 60_000)).await.unwrap();
                assert!(report.rejected.is_empty(), "{}: {:?}", path.display(), report.rejected);
            }
            "containers" => {
                store.put_containers(&rest.iter().map(|line| container(line, now)).collect::<Vec<_>>()).unwrap();
            }
            "groups" => rest.iter().for_each(|line| store.put_group(group(line, now)).unwrap()),
            "hosts" => rest.iter().for_each(|line| store.put_host(host(line, now)).unwrap()),
            "rule_changes" => {
                let changes = rest.iter().map(|line| from_json::<RuleChange>(line, now)).collect();
                store.put_changed_rules(store.rules(), changes, usize::MAX).unwrap();
            }
            "experiments" => {
                let rows: Vec<Experiment> = rest.iter().map(|line| from_json(line, now)).collect();
                let put = |all: &mut BTreeMap<String, Experiment>| {
                    all.extend(rows.into_iter().map(|row| (row.name.clone(), row)));
                    Ok::<(), StoreError>(())
                };
                store.change_experiments(put).unwrap();
            }
            "rules" => store.put_rules(rest.iter().map(|line| from_json::<RuleRow>(line, now)).collect()).unwrap(),
            "decisions" => {
                let rows: Vec<Decision> = rest.iter().map(|line| from_json(line, now)).collect();
                store.append_decisions(&rows).await.unwrap();
            }
            "events" => {
                let rows: Vec<Event> = rest.iter().map(|line| from_json(line, now)).collect();
                store.append_events(&rows).await.unwrap();
            }
            "params" => store.put_params(now, rest.iter().map(|line| from_json::<Param>(line, now))).unwrap(),
            "states" => {
                for line in rest {
                    let row: Value = from_json(line, now);
                    let container = serde_json::from_value(row["container"].clone()).unwrap();
                    let resource = serde_json::from_value(row["resource"].clone()).unwrap();
                    let columns = row["columns"].as_object().unwrap().clone();
                    store.put_state(row["rule"].as_str().unwrap(), now, [(container, resource, columns)]).unwrap();
                }
            }
            "consumed" => {
                for line in rest {
                    let event: Event = from_json(line, now);
                    let Event { rule, container, resource, name, .. } = event;
                    let consumed = Consumption {
                        rule,
                        shadow: false,
                        container,
                        resource,
                        name,
                        most: Some(1),
                        within: Consumption::REACH,
                    };
                    assert_eq!(store.consume_events(now, &[consumed]).unwrap(), 1);
                }
            }
            "flush" => {
                store.flush(TimeMs(now.0 + 60_000)).await.unwrap();
            }
            "query" | "error" => {
                let sql: Vec<&str> = rest.iter().copied().take_while(|line| *line != "----").collect();
                let options = store.default_query_options(now);
                let answer = store.query(&sql.join("\n"), &options).await;
                let is_error = *first == "error";
                assert_eq!(answer.is_err(), is_error, "{}: {sql:?}: {:?}", path.display(), answer.err());
                shown.truncate(1 + sql.len());
                shown.push("----".to_owned());
                shown.extend(answer.map_or_else(|error| shown_error(&error), |result| shown_rows(&result)));
            }
            other => panic!("{}: '{other}' is no block", path.display()),
        }
        shown
    }
}

fn push_sample(batch: &mut SampleBatch, line: &str, now: TimeMs) {
    let mut words = line.split_whitespace();
    let mut next = || words.next().unwrap_or_else(|| panic!("sample '{line}' is too short"));
    let (metric, time, value) = (next(), offset(next(), now), next().parse().unwrap());
    let tags = words.map(|word| word.split_once('=').unwrap()).map(|(key, value)| (key.to_owned(), value.to_owned()));
    batch.push(SeriesKey::new(metric, tags), time, value);
}

/// `-10s`, `-500ms`: before now.
fn offset(text: &str, now: TimeMs) -> TimeMs {
    let ms = match text.strip_suffix("ms") {
        Some(ms) => ms.parse::<f64>().unwrap(),
        None => text.strip_suffix('s').unwrap().parse::<f64>().unwrap() * 1000.0,
    };
    TimeMs(now.0 + ms as i64)
}

fn container(line: &str, now: TimeMs) -> Container {
    let mut words = line.split_whitespace();
    let (host, name) = words.next().and_then(|key| key.split_once('/')).unwrap();
    let mut container = Container {
        key: ContainerKey { host: host.to_owned(), name: name.to_owned() },
        path: PathBuf::from("/tidegate-test").join(name),
        cgroup: CgroupVersion::V2,
        runtime: Runtime::Bare,
        id: name.to_owned(),
        incarnation: 1,
        app: None,
        user: None,
        labels: [("team".to_owned(), "a".to_owned())].into(),
        first_seen: TimeMs(now.0 - 3_600_000),
        last_seen: now,
        baseline: [
            (Resource::Cpu, tidegate_model::Limit::At(2.0)),
            (Resource::Memory, tidegate_model::Limit::Unlimited),
        ]
        .into(),
        bounds: [].into(),
    };
    for (key, value) in words.map(|word| word.split_once('=').unwrap()) {
        match key {
            "app" => container.app = Some(value.to_owned()),
            "user" => container.user = Some(value.to_owned()),
            resource => {
                let (min, max) = value.split_once("..").unwrap();
                let bounds = Bounds { min: min.parse().unwrap(), max: max.parse().unwrap() };
                container.bounds.insert(resource.parse().unwrap(), bounds);
            }
        }
    }
    container
}

fn group(line: &str, now: TimeMs) -> GroupRow {
    let mut words = line.split_whitespace();
    let (kind, name) = (words.next().unwrap().parse().unwrap(), words.next().unwrap().to_owned());
    let bounds = words.map(|word| {
        let (resource, value) = word.split_once('=').unwrap();
        let (min, max) = value.split_once("..").unwrap();
        let end = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        (resource.parse().unwrap(), GroupBounds { min: end(min), max: end(max) })
    });
    let (bounds, changed_by) = (bounds.collect(), "me".to_owned());
    GroupRow { key: GroupKey { kind, name }, bounds, changed_by, changed_at: now }
}

fn host(line: &str, now: TimeMs) -> Host {
    let mut words = line.split_whitespace();
    let mut host = Host { name: words.next().unwrap().to_owned(), cpu: Cores(0.0), memory: Bytes(0), last_seen: now };
    for (key, value) in words.map(|word| word.split_once('=').unwrap()) {
        match key {
            "cpu" => host.cpu = Cores(value.parse().unwrap()),
            _ => host.memory = Bytes(value.parse().unwrap()),
        }
    }
    host
}

fn from_json<T: serde::de::DeserializeOwned>(line: &str, now: TimeMs) -> T {
    let mut value: Value = serde_json::from_str(line).unwrap();
    resolve_times(&mut value, now);
    serde_json::from_value(value).unwrap()
}

/// Replaces offsets where times stand.
fn resolve_times(value: &mut Value, now: TimeMs) {
    let Value::Object(fields) = value else { return };
    for (key, field) in fields {
        match field {
            Value::String(text)
                if matches!(
                    key.as_str(),
                    "time" | "at" | "updated_at" | "last_run" | "start" | "end" | "changed_at"
                ) =>
            {
                *field = offset(text, now).0.into();
            }
            Value::Array(rows) => rows.iter_mut().for_each(|row| resolve_times(row, now)),
            nested => resolve_times(nested, now),
        }
    }
}

fn shown_rows(result: &QueryResult) -> Vec<String> {
    let header = result.schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(" | ");
    let rows: Vec<Vec<Value>> = serde_json::from_slice(&export::json_rows(&result.batches).unwrap()).unwrap();
    let cell = |value: &Value| match value {
        Value::String(text) => text.replace('\n', "\\n"),
        other => other.to_string(),
    };
    let row = |row: &Vec<Value>| row.iter().map(cell).collect::<Vec<_>>().join(" | ").trim_end().to_owned();
    std::iter::once(header).chain(rows.iter().map(row)).collect()
}

fn shown_error(error: &QueryError) -> Vec<String> {
    let place = match (error.line, error.column, error.end_line, error.end_column) {
        (Some(line), Some(column), Some(end_line), Some(end_column)) => {
            format!(" {line}:{column}-{end_line}:{end_column}")
        }
        (Some(line), Some(column), ..) => format!(" {line}:{column}"),
        _ => String::new(),
    };
    let mut lines = vec![format!("{}{place} {}", format!("{:?}", error.kind).to_lowercase(), error.message)];
    lines.extend(error.help.as_ref().map(|help| format!("help: {help}")));
    lines
}

#[tokio::test]
async fn a_query_waits_no_longer_than_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig { dir: dir.path().join("data"), ..StoreConfig::default() }, TimeMs(0)).unwrap();
    let mut options = store.default_query_options(TimeMs(0));
    options.timeout = Duration::from_millis(100);
    let error = store.query("SELECT max(value) FROM generate_series(1, 1000000000000)", &options).await.unwrap_err();
    assert_eq!(error.kind, tidegate_store::QueryErrorKind::Timeout);
}
