//! The columns that a rule returns, and those of its state among them.
//!
//! A rule may read what it returned before, so the types of its state depend on themselves: `coalesce(s.seen, 0) + 1 AS seen`.
//! They are found by planning with columns of no type, which take the type of whatever stands beside them, then with those
//! that come out, until the same come out again.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::sql::parser::{DFParserBuilder, Statement as DFStatement};
use datafusion::sql::sqlparser::ast::{Expr, Ident, Query, SelectItem, SetExpr, Statement};
use datafusion::sql::sqlparser::tokenizer::TokenWithSpan;
use tidegate_model::TimeMs;

use super::QueryPool;
use crate::memory::{STATE_KEY, state_type};
use crate::query::error::{QueryError, QueryErrorKind};
use crate::query::guard::Deadline;
use crate::query::parameter;
use crate::query::reach::reach;
use crate::query::session::{Present, Text, session};
use crate::store::Store;

/// How often types are tried before they count as unsteady.
const TRIES: usize = 4;

/// What a rule's query returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleColumns {
    /// All its columns.
    pub schema: SchemaRef,
    /// Those of its state, with the types that they come back in; none when it does not read `state`.
    pub state: SchemaRef,
    /// How far back it asks what was measured; `None` where that is not known.
    pub reach: Option<Duration>,
}

impl Store {
    /// Plans a rule's query without running it, and tells the columns that it has. `contract` names those that are no state.
    ///
    /// # Errors
    /// As [`Store::check`], and when a column of its state has no steady type.
    pub async fn check_rule(&self, sql: &str, contract: &[&str], now: TimeMs) -> Result<RuleColumns, QueryError> {
        let options = self.default_query_options(now);
        let deadline = Deadline::new(options.timeout, options.memory_bytes);
        let (store, sql) = (self.shared(), sql.to_owned());
        let contract: Vec<String> = contract.iter().map(|name| (*name).to_owned()).collect();
        let planning = async move {
            let text = Text { sql: &sql, store: &store };
            let tokens = text.tokens()?;
            parameter::check(&tokens, &[])?;
            let names = if mentions(&tokens, "state") { returned_names(&tokens) } else { Vec::new() };
            let names: Vec<&String> =
                names.iter().filter(|name| !contract.contains(name) && !STATE_KEY.contains(&name.as_str())).collect();
            let with = async |types: &[DataType]| -> Result<RuleColumns, QueryError> {
                let fields = names.iter().zip(types).map(|(name, of)| Field::new(name.as_str(), of.clone(), true));
                let state = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
                let session = session(&store, Present::At(now), Some(&state));
                let plan = text.fixed(tokens.clone(), &session).await?;
                Ok(RuleColumns { schema: Arc::clone(&plan.schema), state, reach: reach(&plan.operators) })
            };
            let mut types = vec![DataType::Null; names.len()];
            for _ in 0..TRIES {
                let columns = match with(&types).await {
                    // Not everything takes what has no type: most of what is kept is a number.
                    Err(_) if types.contains(&DataType::Null) => {
                        types.fill(DataType::Float64);
                        with(&types).await?
                    }
                    planned => planned?,
                };
                let returned = |name: &&String| {
                    columns
                        .schema
                        .field_with_name(name)
                        .map_or(DataType::Float64, |field| state_type(field.data_type()))
                };
                let found: Vec<DataType> = names.iter().map(returned).collect();
                if found == types {
                    return Ok(columns);
                }
                types = found;
            }
            let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
            let message = format!("the state ({}) has no steady type", names.join(", "));
            Err(QueryError::new(QueryErrorKind::Plan, message)
                .helped("say it, for example with CAST(s.x AS DOUBLE), for each column that comes from state"))
        };
        self.on_query_threads(QueryPool::Interactive, deadline, options.timeout, planning).await
    }
}

/// Whether a text has `word` in it as a name.
fn mentions(tokens: &[TokenWithSpan], word: &str) -> bool {
    tokens.iter().any(|token| token.token.to_string().trim_matches('"').eq_ignore_ascii_case(word))
}

/// The names of the columns that a query returns, as far as its text tells them: `SELECT *` tells none.
fn returned_names(tokens: &[TokenWithSpan]) -> Vec<String> {
    let parsed = DFParserBuilder::new(tokens.to_vec()).build().and_then(|mut parser| parser.parse_statements());
    match parsed.ok().and_then(|mut statements| statements.pop_front()) {
        Some(DFStatement::Statement(statement)) => match *statement {
            Statement::Query(query) => names_of(&query),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn names_of(query: &Query) -> Vec<String> {
    let mut body = &*query.body;
    loop {
        match body {
            SetExpr::Query(query) => return names_of(query),
            SetExpr::SetOperation { left, .. } => body = left,
            SetExpr::Select(select) => return select.projection.iter().filter_map(name_of).collect(),
            _ => return Vec::new(),
        }
    }
}

fn name_of(item: &SelectItem) -> Option<String> {
    let name = |ident: &Ident| match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    };
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(name(alias)),
        SelectItem::UnnamedExpr(Expr::Identifier(ident)) => Some(name(ident)),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(path)) => path.last().map(name),
        _ => None,
    }
}
