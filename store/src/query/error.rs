//! Why a query was not answered, and where in its text.

use std::fmt;

use datafusion::common::{Column, Diagnostic, SchemaError, TableReference};
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use crate::functions::own_names;
use crate::query::guard::{Stop, stop_of};
use crate::store::Store;
use crate::tables::{METRIC, PUBLIC, TableInfo, all};

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryErrorKind {
    /// The text is no SQL.
    Syntax,
    /// It names something that does not exist, or cannot be done.
    Plan,
    /// It would change something, or could run away.
    Refused,
    /// It took longer than it may, or nobody waited for it any more.
    Timeout,
    /// It needed more memory than it may have.
    Memory,
    /// It returned more rows than it may.
    Rows,
    /// It failed while it ran.
    Execution,
}

/// Why a query was not answered. Positions are 1-based, count characters, and the end is the place after the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryError {
    /// What kind of failure it was.
    pub kind: QueryErrorKind,
    /// What is wrong.
    pub message: String,
    /// Line of the text that it is about.
    pub line: Option<u64>,
    /// Column in that line.
    pub column: Option<u64>,
    /// Line where that text ends.
    pub end_line: Option<u64>,
    /// Column after its last character.
    pub end_column: Option<u64>,
    /// What may help: `did you mean 'usage'?`
    pub help: Option<String>,
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, " at line {line}, column {column}")?;
        }
        match &self.help {
            Some(help) => write!(f, ": {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for QueryError {}

impl QueryError {
    pub(crate) fn new(kind: QueryErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message, line: None, column: None, end_line: None, end_column: None, help: None }
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(QueryErrorKind::Refused, message)
    }

    pub(crate) fn helped(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn at(mut self, start: Location, end: Option<Location>) -> Self {
        // Location 0 stands for a text that has no place.
        if start.line > 0 && start.column > 0 {
            (self.line, self.column) = (Some(start.line), Some(start.column));
            if let Some(end) = end.filter(|end| *end >= start) {
                (self.end_line, self.end_column) = (Some(end.line), Some(end.column));
            }
        }
        self
    }

    /// An error while `sql` was parsed or planned.
    pub(crate) fn planned(error: &DataFusionError, sql: &str, store: &Store) -> Self {
        let error = error.iter().next().unwrap_or(error);
        if let Some(stop) = stop_of(error) {
            return Self::stopped(stop);
        }
        let root = root_of(error);
        if let DataFusionError::SQL(parser, _) = root {
            return syntax(parser, sql);
        }
        let kind = match root {
            DataFusionError::ResourcesExhausted(_) => QueryErrorKind::Memory,
            _ => QueryErrorKind::Plan,
        };
        let Some(diagnostic) = error.diagnostic() else {
            return named(unplaced(kind, &root.message(), sql), root, store);
        };
        let mut found = Self::new(kind, plain(&diagnostic.message));
        if let Some(span) = diagnostic.span {
            let location = |at: datafusion::common::Location| Location::new(at.line, at.column);
            found = found.at(location(span.start), Some(location(span.end)));
        }
        found.help = hint(diagnostic);
        named(found, root, store)
    }

    /// An error while a query ran.
    pub(crate) fn executed(error: &DataFusionError) -> Self {
        if let Some(stop) = stop_of(error) {
            return Self::stopped(stop);
        }
        let root = root_of(error);
        match root {
            DataFusionError::ResourcesExhausted(_) => {
                let message = "the query needs more memory than it may use";
                Self::new(QueryErrorKind::Memory, message).helped("ask for a shorter time range or fewer columns")
            }
            _ => Self::new(QueryErrorKind::Execution, plain(&root.message())),
        }
    }

    pub(crate) fn stopped(stop: &Stop) -> Self {
        let (kind, help) = match stop {
            Stop::Timeout(_) => (QueryErrorKind::Timeout, Some("ask for a shorter time range")),
            Stop::Cancelled => (QueryErrorKind::Timeout, None),
            Stop::Memory(_) => (QueryErrorKind::Memory, Some("ask for a shorter time range or fewer columns")),
            Stop::Rows(_) => (QueryErrorKind::Rows, Some("add a LIMIT or aggregate")),
        };
        let error = Self::new(kind, stop.to_string());
        match help {
            Some(help) => error.helped(help),
            None => error,
        }
    }
}

/// An error without a place of its own, with the place of what its text names.
fn unplaced(kind: QueryErrorKind, text: &str, sql: &str) -> QueryError {
    let message = plain(text);
    if let Some(name) = quoted_in(text, "Unsupported compound identifier '") {
        let short = name.strip_prefix("metric.").unwrap_or(name);
        let found = QueryError::new(kind, format!("the table name '{name}' has too many parts"));
        return placed(found, sql, name).helped(format!("write {METRIC}.{}", quoted(short)));
    }
    // Errors of this project's own functions name them: `recent() takes one constant window`.
    if let Some(name) = own_names().find(|name| names_call(&message, name)) {
        return placed(QueryError::new(kind, message), sql, name);
    }
    if message.contains("last()") {
        return placed(QueryError::new(kind, message), sql, "last");
    }
    QueryError::new(kind, message)
}

/// Whether `message` has the word `name` with brackets after it.
fn names_call(message: &str, name: &str) -> bool {
    let mut found = message.match_indices(name);
    found.any(|(at, _)| {
        let before = message[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_') && message[at + name.len()..].starts_with("()")
    })
}

/// Adds the place where `name` first stands in `sql`, quoted or not.
fn placed(found: QueryError, sql: &str, name: &str) -> QueryError {
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location() else { return found };
    let mut at = 0;
    while at < tokens.len() {
        let mut text = String::new();
        let start = at;
        while let Some(token) = tokens.get(at) {
            match &token.token {
                Token::Word(word) => text.push_str(&word.value),
                Token::Period => text.push('.'),
                _ => break,
            }
            at += 1;
        }
        if text.eq_ignore_ascii_case(name) {
            return found.at(tokens[start].span.start, Some(tokens[at - 1].span.end));
        }
        at = at.max(start + 1);
    }
    found
}

/// The error below the layers that only say where it came through.
fn root_of(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => root_of(inner),
        DataFusionError::Shared(inner) => root_of(inner),
        DataFusionError::Collection(errors) => errors.first().map_or(error, root_of),
        _ => error,
    }
}

/// The first sentence as this project writes errors: lower case, no full stop, no advice on DataFusion's own settings.
fn plain(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    // What a function says of its arguments comes wrapped twice.
    let own = first.split_once("coercion failed with: Error during planning: ").map(|(_, own)| own);
    let first = own.map_or(first, |own| own.split(". No function matches").next().unwrap_or_default());
    // Some texts end with the printed syntax tree.
    let first = if first.contains("Span(") { first.split(" {").next().unwrap_or_default() } else { first };
    let first = first.trim().trim_end_matches('.');
    let mut chars = first.chars();
    match (chars.next(), chars.next()) {
        // Not names and abbreviations, such as `UNION`.
        (Some(a), Some(b)) if a.is_uppercase() && (b.is_lowercase() || b == ' ') => {
            a.to_lowercase().chain(first.chars().skip(1)).collect()
        }
        _ => first.to_owned(),
    }
}

fn hint(diagnostic: &Diagnostic) -> Option<String> {
    diagnostic.helps.first().map(|help| plain(&help.message))
}

fn syntax(error: &ParserError, sql: &str) -> QueryError {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.as_str(),
        ParserError::RecursionLimitExceeded => {
            return QueryError::new(QueryErrorKind::Syntax, "the query is nested too deeply");
        }
    };
    let (message, place) = split_place(text);
    let found = QueryError::new(QueryErrorKind::Syntax, plain(message));
    match place {
        Some(start) => found.at(start, token_end(sql, start)),
        // The parser has no place for what is missing at the end.
        None if message.ends_with("EOF") => found.at(end_of(sql), Some(end_of(sql))),
        None => found,
    }
}

/// Splits `... at Line: 1, Column: 8`.
fn split_place(text: &str) -> (&str, Option<Location>) {
    let Some(at) = text.rfind(" at Line: ") else { return (text, None) };
    let (message, place) = text.split_at(at);
    let mut numbers = place.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(line), Some(column)) => (message, Some(Location::new(line, column))),
        _ => (text, None),
    }
}

/// Where the token that begins at `start` ends.
fn token_end(sql: &str, start: Location) -> Option<Location> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().ok()?;
    tokens.into_iter().find(|token| token.span.start == start).map(|token| token.span.end)
}

/// The place after the last character that is no white space.
fn end_of(sql: &str) -> Location {
    let text = sql.trim_end();
    let line = text.matches('\n').count() + 1;
    let column = text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Location::new(line as u64, column as u64)
}

/// The place of the first word, for what concerns the whole statement.
pub(crate) fn first_word(tokens: &[TokenWithSpan]) -> Option<(Location, Location)> {
    let first = tokens.iter().find(|token| !matches!(token.token, Token::Whitespace(_) | Token::SemiColon))?;
    Some((first.span.start, first.span.end))
}

/// The place of the second statement, for those who send several.
pub(crate) fn second_statement(sql: &str) -> Option<(Location, Location)> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().ok()?;
    let mut tokens = tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    tokens.find(|token| token.token == Token::SemiColon)?;
    let next = tokens.find(|token| token.token != Token::SemiColon)?;
    Some((next.span.start, next.span.end))
}

/// Adds what was meant, where a name is close to one that exists.
fn named(mut found: QueryError, root: &DataFusionError, store: &Store) -> QueryError {
    match root {
        DataFusionError::SchemaError(schema, _) => {
            if let SchemaError::FieldNotFound { field, valid_fields } = schema.as_ref() {
                found.message = format!("column '{}' not found", field.flat_name());
                found.help = near_column(field, valid_fields);
            }
        }
        DataFusionError::Plan(text) => {
            if let Some(name) = quoted_in(text, "Invalid function '") {
                found.message = format!("function '{name}' not found");
                found.help = quoted_in(text, "Did you mean '").filter(|near| is_near(name, near)).map(meant);
            } else if let Some(name) = quoted_in(&found.message, "table '") {
                let reference = TableReference::parse_str(name);
                let metric = name.strip_prefix("tidegate.").unwrap_or(name).strip_prefix("metric.").map(not_pushed);
                found.help = near_table(name, &reference, &all(store)).or(metric).or(found.help);
            } else if let Some(name) = quoted_in(&found.message, "metric '") {
                found.help = Some(not_pushed(name));
            }
        }
        _ => {}
    }
    found
}

fn meant(name: &str) -> String {
    format!("did you mean {name}?")
}

/// For whoever names a metric of which nothing has come yet: a rule may be there before it.
fn not_pushed(metric: &str) -> String {
    let name = metric.replace('\'', "''");
    format!(
        "a metric is a table once it was pushed; until then, and after, there is FROM samples WHERE metric = '{name}'"
    )
}

fn quoted_in<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once('\'').map(|(name, _)| name)
}

fn near_column(field: &Column, valid: &[Column]) -> Option<String> {
    let best = valid
        .iter()
        .map(|column| (strsim::osa_distance(&column.name.to_lowercase(), &field.name.to_lowercase()), column))
        .min_by_key(|(distance, _)| *distance);
    match best {
        Some((_, column)) if is_near(&field.name, &column.name) => Some(meant(&quoted(&column.name))),
        _ => {
            let mut names: Vec<String> = valid.iter().map(|column| quoted(&column.name)).collect();
            names.dedup();
            (!names.is_empty()).then(|| format!("there are {}", names.join(", ")))
        }
    }
}

fn near_table(text: &str, reference: &TableReference, tables: &[TableInfo]) -> Option<String> {
    // A metric's dots look like schemas when they are not quoted, so the whole text counts as well as the last part.
    let whole = text.strip_prefix("tidegate.").unwrap_or(text);
    let bare = whole.strip_prefix("metric.").or_else(|| whole.strip_prefix("public.")).unwrap_or(whole);
    let distance = |table: &TableInfo| {
        let of = |name: &str| strsim::osa_distance(&table.name.to_lowercase(), &name.to_lowercase());
        of(bare).min(of(reference.table()))
    };
    let best = tables.iter().min_by_key(|table| distance(table))?;
    let name = if best.schema == PUBLIC { quoted(&best.name) } else { format!("{METRIC}.{}", quoted(&best.name)) };
    (distance(best) <= slips(best.name.chars().count())).then(|| meant(&name))
}

fn is_near(a: &str, b: &str) -> bool {
    let longer = a.chars().count().max(b.chars().count());
    strsim::osa_distance(&a.to_lowercase(), &b.to_lowercase()) <= slips(longer)
}

/// How many slips a name of that length may have to be taken for another.
fn slips(length: usize) -> usize {
    (length.max(3) + 1) / 3
}

/// A name as it has to be written in SQL.
fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_split_from_the_text() {
        let (message, place) = split_place("Expected: x, found: y at Line: 3, Column: 14");
        assert_eq!((message, place), ("Expected: x, found: y", Some(Location::new(3, 14))));
        assert_eq!(split_place("found: EOF"), ("found: EOF", None));
    }

    #[test]
    fn the_end_of_a_text_counts_characters() {
        assert_eq!(end_of("select\n  'größe',  \n"), Location::new(2, 11));
        assert_eq!(end_of(""), Location::new(1, 1));
    }

    #[test]
    fn the_second_statement_is_found() {
        assert_eq!(second_statement("select 1;"), None);
        let (start, end) = second_statement("select 1;\n drop x").unwrap();
        assert_eq!((start, end), (Location::new(2, 2), Location::new(2, 6)));
    }

    #[test]
    fn messages_are_plain() {
        assert_eq!(plain("No field named x. Did you mean y?\nValid fields are"), "no field named x. Did you mean y?");
        assert_eq!(plain("UNION needs columns."), "UNION needs columns");
    }

    #[test]
    fn names_are_quoted_where_they_have_to_be() {
        assert_eq!(quoted("usage"), "usage");
        assert_eq!(quoted("proc.cpu\"x"), "\"proc.cpu\"\"x\"");
    }
}
