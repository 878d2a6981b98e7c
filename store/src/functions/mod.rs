//! Functions that SQL has beyond DataFusion's.

mod bounded;
mod gather;
mod last;
mod now;
mod recent;
mod roster;
mod statistics;
mod tag;

use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::Documentation;

pub(crate) use self::bounded::{MULTIPLYING, bounded};
pub(crate) use self::last::Last;
pub(crate) use self::now::now;
pub(crate) use self::recent::Recent;
pub(crate) use self::roster::Recents;
pub(crate) use self::tag::tag;

use self::last::last_columns;
use self::recent::recent_columns;
use crate::tables::{ColumnInfo, column_infos};

/// A function, for completion and documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Its name.
    pub name: String,
    /// How it is called.
    pub signature: String,
    /// What it gives.
    pub doc: String,
    /// The columns of a table function; empty for others.
    pub columns: Vec<ColumnInfo>,
}

impl FunctionInfo {
    fn new(name: &str, signature: &str, doc: &str) -> Self {
        Self { name: name.to_owned(), signature: signature.to_owned(), doc: doc.to_owned(), columns: Vec::new() }
    }
}

/// Every function that `state` knows: the store's own first, then DataFusion's by name.
pub(crate) fn all(state: &SessionState) -> Vec<FunctionInfo> {
    let mut own = vec![
        FunctionInfo::new(
            "recent",
            "recent(window)",
            "one row per host, container and resource with a usage sample in the window before now(); window is an \
             INTERVAL or a number of seconds",
        ),
        FunctionInfo::new(
            "last",
            "last(metric, age)",
            "the newest sample at or before now() of every series of a metric, at most age old: an INTERVAL or a number of \
             seconds, 1 hour when it is not given",
        ),
        FunctionInfo::new("now", "now()", "the instant that the query is asked for; the tick in a rule"),
        FunctionInfo::new("tag", "tag(tags, key)", "one tag of the JSON object in samples.tags or containers.labels"),
    ];
    own[0].columns = column_infos(recent_columns());
    own[1].columns = column_infos(last_columns());
    let named = |name: &String, doc: Option<&Documentation>| {
        let signature = doc.map_or_else(|| format!("{name}(...)"), |doc| doc.syntax_example.clone());
        let text = doc.map_or_else(String::new, |doc| doc.description.trim().to_owned());
        FunctionInfo::new(name, &signature, &text)
    };
    let scalar = state.scalar_functions().iter().map(|(name, f)| named(name, f.documentation()));
    let aggregate = state.aggregate_functions().iter().map(|(name, f)| named(name, f.documentation()));
    let window = state.window_functions().iter().map(|(name, f)| named(name, f.documentation()));
    let table = state.table_functions().keys().map(|name| named(name, None));
    let mut built_in: Vec<FunctionInfo> = scalar.chain(aggregate).chain(window).chain(table).collect();
    built_in.retain(|function| !own.iter().any(|mine| mine.name == function.name));
    built_in.sort_by(|a, b| a.name.cmp(&b.name));
    built_in.dedup_by(|a, b| a.name == b.name);
    own.extend(built_in);
    own
}
