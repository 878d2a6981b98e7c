//! The pack's text with inputs replaced, asked in the middle.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sqlparser::ast::{Expr, Parens, Query, SetExpr, Statement};
use sqlparser::dialect::GenericDialect;
use sqlparser::parser::Parser;
use tidegate_model::TimeMs;
use tidegate_store::arrow::array::{Array, AsArray};
use tidegate_store::arrow::compute::cast;
use tidegate_store::arrow::datatypes::{DataType, Float64Type};
use tidegate_store::arrow::record_batch::RecordBatch;

use crate::world::{START, World};

/// Longest list of rows in one question: a text may only be so long.
pub const AT_ONCE: usize = 150;

pub type Row = Map<String, Value>;

/// The pack's text.
pub fn pack() -> String {
    crate::world::pack("serverless")
}

/// The pack as it was taken by an engine.
pub struct Pack {
    pub world: World,
    /// The queries by the names of their rules.
    pub queries: BTreeMap<String, String>,
}

impl Pack {
    pub async fn new(world: World) -> Self {
        world.run_sql(&pack()).await;
        let queries = world.engine.rules().into_iter().map(|rule| (rule.name, rule.query)).collect();
        Self { world, queries }
    }

    /// What the table expression `asked` of a rule holds when others hold what they are replaced with.
    pub async fn ask(&self, rule: &str, replaced: &[(&str, String)], asked: &str) -> Vec<Row> {
        self.ask_at(rule, replaced, asked, START).await
    }

    pub async fn ask_at(&self, rule: &str, replaced: &[(&str, String)], asked: &str, now: TimeMs) -> Vec<Row> {
        let mut query = replace(&self.queries[rule], replaced);
        let with = query.with.as_mut().unwrap();
        let last = with.cte_tables.iter().position(|table| table.alias.name.value == asked);
        with.cte_tables.truncate(last.unwrap_or_else(|| panic!("{rule} has no {asked}")) + 1);
        let order = if ["aged", "counts", "decided"].contains(&asked) { "resource" } else { "place" };
        query.body = parse(&format!("SELECT * FROM {asked}")).body;
        let text = format!("SELECT * FROM ({query}) AS asked ORDER BY container, {order}");
        let options = self.world.store.default_query_options(now);
        let answer = self.world.store.query(&text, &options).await.unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        rows(&answer.batches)
    }
}

/// A rule's query with other rows in some of its table expressions.
pub fn replace(query: &str, replaced: &[(&str, String)]) -> Box<Query> {
    let mut query = parse(query);
    for (name, rows) in replaced {
        let tables = &mut query.with.as_mut().unwrap().cte_tables;
        let table = tables.iter_mut().find(|table| table.alias.name.value == *name);
        table.unwrap_or_else(|| panic!("no table {name}")).query = parse(rows);
    }
    query
}

/// `query` with each `VALUES` of its table expressions as a union of rows: a plan with `VALUES` is made anew at each run, and a
/// sequence has many.
pub fn unrolled(mut query: Box<Query>) -> Box<Query> {
    for table in &mut query.with.as_mut().unwrap().cte_tables {
        let SetExpr::Values(values) = &*table.query.body else { continue };
        let row = |row: &Parens<Vec<Expr>>| {
            let cells = row.content.iter().enumerate().map(|(at, cell)| format!("{cell} AS column{at}"));
            format!("SELECT {}", cells.collect::<Vec<_>>().join(", "))
        };
        table.query = parse(&values.rows.iter().map(row).collect::<Vec<_>>().join(" UNION ALL "));
    }
    query
}

fn parse(query: &str) -> Box<Query> {
    let parsed = Parser::parse_sql(&GenericDialect {}, query).unwrap_or_else(|error| panic!("{error}\n{query}"));
    match parsed.into_iter().next() {
        Some(Statement::Query(query)) => query,
        other => panic!("{other:?}"),
    }
}

/// Rows for a table expression. `columns` are names with their types.
pub fn values(columns: &[(&str, &str)], rows: &[Vec<String>]) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let typed = |row: &Vec<String>| {
        assert_eq!(row.len(), columns.len(), "{columns:?} {row:?}");
        let cells = row.iter().zip(columns).map(|(cell, (_, kind))| format!("CAST({cell} AS {kind})"));
        format!("({})", cells.collect::<Vec<_>>().join(", "))
    };
    // A list of nothing cannot be written.
    let (none, given) = match rows {
        [] => (" WHERE false", vec![typed(&vec!["NULL".to_owned(); columns.len()])]),
        rows => ("", rows.iter().map(typed).collect()),
    };
    format!("SELECT * FROM (VALUES {}) AS given({}){none}", given.join(", "), names.join(", "))
}

/// As [`values`], but some rows as a union: see [`unrolled`].
pub fn selected(columns: &[(&str, &str)], rows: &[Vec<String>]) -> String {
    let row = |row: &Vec<String>| {
        assert_eq!(row.len(), columns.len(), "{columns:?} {row:?}");
        let cells = row.iter().zip(columns).map(|(cell, (name, kind))| format!("CAST({cell} AS {kind}) AS {name}"));
        format!("SELECT {}", cells.collect::<Vec<_>>().join(", "))
    };
    rows.iter().map(row).collect::<Vec<_>>().join(" UNION ALL ")
}

/// A number of a case as SQL. A text stands for the whole number that it spells; anything else is not known.
pub fn number(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => {
            text.trim().parse::<i64>().map_or_else(|_| "NULL".to_owned(), |number| number.to_string())
        }
        _ => "NULL".to_owned(),
    }
}

/// A text of a case as SQL.
pub fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| "NULL".to_owned(), quoted)
}

pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The rows of an answer, numbers as floating-point numbers.
pub fn rows(batches: &[RecordBatch]) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let named = batch.schema_ref().fields().iter().zip(batch.columns());
            rows.push(named.map(|(field, column)| (field.name().clone(), value(column, row))).collect());
        }
    }
    rows
}

fn value(column: &dyn Array, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Boolean => column.as_boolean().value(row).into(),
        kind if kind.is_numeric() => {
            cast(column, &DataType::Float64).unwrap().as_primitive::<Float64Type>().value(row).into()
        }
        _ => cast(column, &DataType::Utf8).unwrap().as_string::<i32>().value(row).into(),
    }
}
