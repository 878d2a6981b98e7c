//! `/api/v1/schema`: what an SQL editor completes.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::App;

/// `GET /api/v1/schema`
pub(crate) async fn schema(State(app): State<App>) -> Json<Value> {
    let tables: Vec<Value> = app
        .store
        .tables()
        .iter()
        .map(|table| {
            let columns: Vec<Value> = table
                .columns
                .iter()
                .map(|column| json!({ "name": column.name, "type": column.data_type, "doc": column.doc }))
                .collect();
            json!({ "schema": table.schema, "name": table.name, "columns": columns })
        })
        .collect();
    let functions: Vec<Value> = app
        .store
        .functions()
        .iter()
        .map(|function| json!({ "name": function.name, "signature": function.signature, "doc": function.doc }))
        .collect();
    Json(json!({ "tables": tables, "functions": functions }))
}
