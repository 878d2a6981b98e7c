//! `/api/v1/schema`: what an SQL editor completes.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tidegate_store::{FunctionInfo, TableInfo};
use utoipa::ToSchema;

use crate::App;

/// What can be asked about.
#[derive(Serialize, ToSchema)]
pub(crate) struct Schema {
    tables: Vec<Table>,
    functions: Vec<Function>,
}

/// A table.
#[derive(Serialize, ToSchema)]
struct Table {
    /// `public` or `metric`.
    schema: String,
    /// Its name, unquoted.
    name: String,
    /// Its columns in order.
    columns: Vec<TableColumn>,
}

/// A column of a table.
#[derive(Serialize, ToSchema)]
struct TableColumn {
    /// Its name, unquoted.
    name: String,
    /// Its SQL type.
    r#type: String,
    /// What it holds, with the unit.
    doc: String,
}

/// A function.
#[derive(Serialize, ToSchema)]
struct Function {
    name: String,
    /// How it is called.
    signature: String,
    /// What it gives.
    doc: String,
}

/// The tables and functions that SQL knows here.
#[utoipa::path(
    get, path = "/api/v1/schema", tag = "SQL",
    responses((status = 200, description = "All of them, each pushed metric as a table", body = Schema)),
)]
pub(crate) async fn schema(State(app): State<App>) -> Json<Schema> {
    let tables = app.store.tables().into_iter().map(table).collect();
    let function = |FunctionInfo { name, signature, doc, .. }| Function { name, signature, doc };
    Json(Schema { tables, functions: app.store.functions().into_iter().map(function).collect() })
}

fn table(TableInfo { schema, name, columns }: TableInfo) -> Table {
    let columns = columns.into_iter();
    let columns = columns.map(|column| TableColumn { name: column.name, r#type: column.data_type, doc: column.doc });
    Table { schema, name, columns: columns.collect() }
}
