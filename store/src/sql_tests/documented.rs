//! Every table and every function is documented: in `docs/sql.md` with an example that runs, and in a golden file.

use std::fs;
use std::path::{Path, PathBuf};

use super::open;
use crate::functions::own_names;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The SQL of all golden files.
fn golden() -> String {
    let files = fs::read_dir(repository("tests/golden")).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "slt"));
    let queries = |path: PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let blocks = text.split("\n\n").filter_map(|block| block.split_once("query\n")).map(|(_, rest)| rest);
        blocks.map(|rest| rest.split("----").next().unwrap_or_default().to_owned()).collect::<Vec<_>>().join("\n")
    };
    files.map(queries).collect::<Vec<_>>().join("\n")
}

/// The examples in `docs/sql.md`.
fn examples() -> Vec<String> {
    let text = fs::read_to_string(repository("docs/sql.md")).unwrap();
    let blocks = text.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    blocks
        .flat_map(|block| block.split(";\n"))
        .map(str::trim)
        .filter(|sql| !sql.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Whether `sql` has `name`, not as a part of another name, followed by `after`.
fn names(sql: &str, name: &str, after: &[char]) -> bool {
    sql.match_indices(name).any(|(at, _)| {
        let is_end = |c: char| !c.is_alphanumeric() && c != '_';
        let next = sql[at + name.len()..].chars().next();
        sql[..at].chars().next_back().is_none_or(is_end)
            && (if after.is_empty() { next.is_none_or(is_end) } else { next.is_some_and(|c| after.contains(&c)) })
    })
}

#[test]
fn every_function_and_table_has_an_example_and_a_golden_file() {
    let store = open();
    let (golden, examples) = (golden(), examples().join("\n"));
    let mut missing = Vec::new();
    for (place, sql) in [("tests/golden", &golden), ("docs/sql.md", &examples)] {
        let functions = own_names().filter(|name| !names(sql, name, &['('])).map(|name| format!("{name}()"));
        missing.extend(functions.map(|name| format!("{name} in {place}")));
        let tables = store.store.tables().into_iter().map(|table| table.name).filter(|name| !names(sql, name, &[]));
        missing.extend(tables.map(|name| format!("table {name} in {place}")));
        if !names(sql, "metric", &['.']) {
            missing.push(format!("metric tables in {place}"));
        }
    }
    assert!(missing.is_empty(), "without an example: {}", missing.join(", "));
}

#[test]
fn every_signature_stands_in_the_documentation() {
    let store = open();
    let text = fs::read_to_string(repository("docs/sql.md")).unwrap();
    for function in store.store.functions().iter().take(own_names().count()) {
        assert!(text.contains(&format!("`{}`", function.signature)), "{} is not in docs/sql.md", function.signature);
        assert!(!function.doc.is_empty());
    }
    for table in store.store.tables() {
        assert!(text.contains(&format!("`{}(", table.name)), "table {} is not in docs/sql.md", table.name);
    }
}

#[tokio::test]
async fn every_example_runs() {
    let store = open();
    store
        .push(&[
            ("proc.cpu.user", &[("host", "web"), ("pid", "1")], 5.0, 50.0),
            ("queue.depth", &[("container", "web")], 5.0, 17.0),
            ("requests_total", &[("host", "a")], 5.0, 3.0),
            ("latency_bucket", &[("host", "a"), ("le", "+Inf")], 5.0, 3.0),
        ])
        .await;
    let examples = examples();
    assert!(examples.len() > 20, "{}", examples.len());
    for sql in examples {
        store.ask(&sql).await;
    }
}
