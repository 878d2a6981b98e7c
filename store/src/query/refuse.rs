//! What a query may not do: change anything, or grow beyond what its limits can hold.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{Expr, LogicalPlan, WindowFunctionDefinition};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, Visit, Visitor, visit_relations};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::functions::HISTOGRAM_QUANTILE;
use crate::query::error::QueryError;

/// Longest text of a query, in bytes. Parsing and planning have no place to look at a deadline.
pub const MAX_SQL_BYTES: usize = 256 * 1024;
/// Operators and tables that a query may unfold to. Every use of a common table expression repeats it, so a short text
/// that doubles twenty times would otherwise plan for hours.
const MAX_OPERATORS: usize = 2_000;

/// Columns that a SELECT may write out. Planning compares the name of each with those of all others.
const MAX_COLUMNS: usize = 1_000;
/// What operators may cost together, where the n-th in a row costs n: a thousand in one row, or a hundred rows of a hundred.
/// `1 + 1 + ...` nests without any bracket; the tree that it becomes is walked, and dropped, by functions that call
/// themselves, and each level writes out the names of all levels below it.
const MAX_CHAIN_COST: usize = 500_000;

/// Arguments that one call may have. A function's result may be the sum of them, and calls nest.
const MAX_ARGUMENTS: usize = 100;

/// Functions that make values of any size out of small ones, which no limit sees in time, or take the time of one long
/// text multiplied by another.
pub(crate) const UNBOUNDED: [&str; 10] = [
    "repeat",
    "lpad",
    "rpad",
    "range",
    "generate_series",
    "array_repeat",
    "list_repeat",
    "array_resize",
    "list_resize",
    LEVENSHTEIN,
];
const LEVENSHTEIN: &str = "levenshtein";

/// Aggregates whose cost for each row of a moving frame is that of the frame.
const COSTLY_OVER_FRAMES: [&str; 10] = [
    "array_agg",
    "string_agg",
    "median",
    "percentile_cont",
    "quantile_cont",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "approx_median",
    "approx_distinct",
    HISTOGRAM_QUANTILE,
];

const READS_ONLY: &str = "queries only read: SELECT, WITH, VALUES, EXPLAIN, SHOW and DESCRIBE are possible";

/// Refuses texts whose syntax tree would be too deep for a thread's stack.
pub(crate) fn nesting(tokens: &[TokenWithSpan]) -> std::result::Result<(), QueryError> {
    // Operators since the last comma, one count a level of brackets; all open levels lie above one another in the tree.
    let mut levels = vec![0_usize];
    let (mut depth, mut cost) = (0, 0);
    for token in tokens {
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                levels.push(1);
                depth += 1;
            }
            Token::RParen | Token::RBracket | Token::RBrace if levels.len() > 1 => depth -= levels.pop().unwrap_or(0),
            Token::Comma | Token::SemiColon => {
                if let Some(level) = levels.last_mut() {
                    depth -= std::mem::take(level);
                }
            }
            token if is_operator(token) => {
                if let Some(level) = levels.last_mut() {
                    *level += 1;
                }
                depth += 1;
                cost += depth;
            }
            _ => {}
        }
        if cost > MAX_CHAIN_COST {
            let refused = QueryError::refused("too many operators in a row");
            let refused = refused.helped("write long lists of values with IN");
            return Err(refused.at(token.span.start, Some(token.span.end)));
        }
    }
    Ok(())
}

fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::NOT
                | Keyword::IS
                | Keyword::LIKE
                | Keyword::BETWEEN
                | Keyword::COLLATE
                | Keyword::AT
                | Keyword::CASE
                | Keyword::WHEN
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT
                | Keyword::JOIN
                | Keyword::SELECT
                | Keyword::INTERVAL
        ),
        Token::Whitespace(_) | Token::Number(..) | Token::EOF => false,
        // Whatever else is no text and no bracket: signs.
        other => !other.to_string().chars().any(|c| c.is_alphanumeric() || c == '\'' || c == '"'),
    }
}

/// Refuses statements that are no question.
pub(crate) fn statement(statement: &Statement) -> std::result::Result<(), QueryError> {
    let refused = |what: &str| Err(QueryError::refused(format!("{what} is not possible here")).helped(READS_ONLY));
    match statement {
        Statement::Statement(statement) => match statement.as_ref() {
            ast::Statement::Query(query) => match query.body.as_ref() {
                ast::SetExpr::Insert(_) => refused("INSERT"),
                ast::SetExpr::Update(_) => refused("UPDATE"),
                ast::SetExpr::Delete(_) => refused("DELETE"),
                ast::SetExpr::Merge(_) => refused("MERGE"),
                _ => Ok(()),
            },
            ast::Statement::Explain { .. }
            | ast::Statement::ExplainTable { .. }
            | ast::Statement::ShowTables { .. }
            | ast::Statement::ShowColumns { .. }
            | ast::Statement::ShowFunctions { .. }
            | ast::Statement::ShowSchemas { .. }
            | ast::Statement::ShowDatabases { .. }
            | ast::Statement::ShowVariable { .. } => Ok(()),
            other => refused(&first_words(&other.to_string())),
        },
        Statement::Explain(explain) => self::statement(&explain.statement),
        Statement::CreateExternalTable(_) => refused("CREATE EXTERNAL TABLE"),
        Statement::CopyTo(_) => refused("COPY"),
        Statement::Reset(_) => refused("RESET"),
    }
}

/// Refuses statements whose common table expressions unfold to more than can be planned. Planning itself walks through all
/// of it, so this has to be told from the text.
pub(crate) fn unfolding(statement: &Statement) -> std::result::Result<(), QueryError> {
    let statement = match statement {
        Statement::Statement(statement) => statement.as_ref(),
        Statement::Explain(explain) => return unfolding(&explain.statement),
        _ => return Ok(()),
    };
    let mut uses = Uses::default();
    let _ = statement.visit(&mut uses);
    if uses.columns > MAX_COLUMNS {
        let refused = QueryError::refused(format!("a SELECT lists more than {MAX_COLUMNS} columns"));
        return Err(refused.helped("make rows of them: UNION ALL, VALUES or unnest()"));
    }
    if uses.arguments > MAX_ARGUMENTS {
        let refused = QueryError::refused(format!("a function is called with more than {MAX_ARGUMENTS} arguments"));
        return Err(refused.helped("write long lists of values with IN or VALUES"));
    }
    let mut weights = HashMap::new();
    let total = uses.all.iter().fold(0, |sum: usize, name| sum.saturating_add(uses.weight(name, &mut weights)));
    if total > MAX_OPERATORS { Err(too_unfolded()) } else { Ok(()) }
}

fn too_unfolded() -> QueryError {
    QueryError::refused(format!("the query unfolds to more than {MAX_OPERATORS} operators"))
        .helped("a WITH query counts again wherever it is used")
}

/// Which tables a statement and its common table expressions name. Scopes are not told apart: of expressions with the
/// same name each use counts as all of them.
#[derive(Default)]
struct Uses {
    all: Vec<String>,
    by_cte: HashMap<String, Vec<String>>,
    /// Of the widest SELECT.
    columns: usize,
    /// Of the call that has the most.
    arguments: usize,
}

impl Visitor for Uses {
    type Break = ();

    fn pre_visit_query(&mut self, query: &ast::Query) -> ControlFlow<()> {
        self.columns = self.columns.max(widest(&query.body));
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            let tables = self.by_cte.entry(cte.alias.name.value.to_lowercase()).or_default();
            let _: ControlFlow<()> = visit_relations(&cte.query, |table| {
                tables.push(table.to_string().to_lowercase());
                ControlFlow::Continue(())
            });
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<()> {
        if let ast::Expr::Function(ast::Function { args: ast::FunctionArguments::List(list), .. }) = expr {
            self.arguments = self.arguments.max(list.args.len());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, table: &ast::ObjectName) -> ControlFlow<()> {
        self.all.push(table.to_string().to_lowercase());
        ControlFlow::Continue(())
    }
}

/// Columns of the widest SELECT of a set operation. Queries in brackets are visited by themselves.
fn widest(body: &ast::SetExpr) -> usize {
    match body {
        ast::SetExpr::Select(select) => select.projection.len(),
        ast::SetExpr::SetOperation { left, right, .. } => widest(left).max(widest(right)),
        _ => 0,
    }
}

impl Uses {
    /// How many tables `name` stands for.
    fn weight(&self, name: &str, known: &mut HashMap<String, usize>) -> usize {
        let Some(tables) = self.by_cte.get(name) else { return 1 };
        if let Some(weight) = known.get(name) {
            return *weight;
        }
        // A recursive expression names itself, which is read from a work table and does not unfold.
        known.insert(name.to_owned(), 1);
        let weight = tables.iter().fold(1, |sum: usize, table| sum.saturating_add(self.weight(table, known)));
        known.insert(name.to_owned(), weight);
        weight
    }
}

/// The statement's verb with its object: `DROP TABLE`.
fn first_words(statement: &str) -> String {
    let keyword = |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase());
    let words: Vec<&str> = statement.split([' ', '(', '\n']).take(2).take_while(keyword).collect();
    if words.is_empty() { "this statement".to_owned() } else { words.join(" ") }
}

/// Refuses plans that change something or could run away where no deadline is looked at.
pub(crate) fn plan(plan: &LogicalPlan) -> std::result::Result<(), QueryError> {
    let mut operators = 0;
    let mut refused = None;
    let visited = plan.apply_with_subqueries(|node| {
        operators += 1;
        refused = refusal(node, operators)?;
        Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    match (refused, visited) {
        (Some(refused), _) => Err(refused),
        (None, Ok(_)) => Ok(()),
        (None, Err(error)) => Err(QueryError::executed(&error)),
    }
}

fn refusal(node: &LogicalPlan, operators: usize) -> Result<Option<QueryError>> {
    if operators > MAX_OPERATORS {
        return Ok(Some(too_unfolded()));
    }
    let changes = match node {
        LogicalPlan::Ddl(ddl) => Some(ddl.name().to_owned()),
        LogicalPlan::Dml(dml) => Some(dml.op.to_string()),
        LogicalPlan::Copy(_) => Some("COPY".to_owned()),
        LogicalPlan::Statement(statement) => Some(statement.name().to_owned()),
        _ => None,
    };
    if let Some(what) = changes {
        return Ok(Some(QueryError::refused(format!("{what} is not possible here")).helped(READS_ONLY)));
    }
    let mut costly = None;
    node.apply_expressions(|expr| {
        expr.apply(|expr| {
            if let Expr::WindowFunction(window) = expr {
                costly = costly.take().or_else(|| costly_window(window));
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(costly)
}

fn costly_window(window: &WindowFunction) -> Option<QueryError> {
    let WindowFunctionDefinition::AggregateUDF(aggregate) = &window.fun else { return None };
    let name = COSTLY_OVER_FRAMES.into_iter().find(|name| *name == aggregate.name())?;
    let message = format!("{name}() with OVER is not possible here");
    Some(QueryError::refused(message).helped("its cost is the square of the rows; aggregate with GROUP BY and join"))
}

/// An error for a function that was left out on purpose.
pub(crate) fn unbounded_function(error: &DataFusionError) -> Option<QueryError> {
    let text = error.to_string();
    let (_, rest) = text.split_once("Invalid function '")?;
    let (name, _) = rest.split_once('\'')?;
    let message = format!("function '{name}' is not possible here");
    let help = match name {
        LEVENSHTEIN => "its cost is the lengths of both texts multiplied; compare with LIKE or a regular expression",
        _ => "it makes values of any size; generate_series() as a table is possible",
    };
    UNBOUNDED.contains(&name).then(|| QueryError::refused(message).helped(help))
}
