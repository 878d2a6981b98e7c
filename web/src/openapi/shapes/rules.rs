//! Rules and the kill switch, as `tidegate_policy` and `tidegate_store` have them.

use std::collections::BTreeMap;

use utoipa::ToSchema;

use super::decisions::Mode;

/// Which rule has its way when several want the same limit; the first outranks the others.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum RuleClass {
    Safety,
    Cap,
    Protect,
    Optimise,
}

/// A rule and how its last run went.
#[derive(ToSchema)]
pub(crate) struct Rule {
    name: String,
    /// The whole `CREATE RULE` statement, in one form.
    sql: String,
    /// The SELECT in it.
    query: String,
    /// Counts the rule's changes from 1.
    version: u32,
    mode: Mode,
    class: RuleClass,
    /// How often it is evaluated, in ms; 0 for a rule that runs when samples that it reads arrive.
    every_ms: u64,
    /// All options as they were given.
    options: BTreeMap<String, String>,
    /// Who wrote this version.
    created_by: String,
    /// When this version was written, in ms UTC.
    updated_at: i64,
    /// What the engine did to the rule by itself, and why.
    note: Option<String>,
    /// The last tick it was evaluated for, in ms UTC; this and what follows is not kept across restarts.
    last_run: Option<i64>,
    /// How long that took.
    last_latency_ms: Option<f64>,
    /// How many rows it returned.
    last_rows: Option<u64>,
    /// Why it failed, if it did.
    last_error: Option<String>,
}

/// What the rows of a rule are.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum Emit {
    Limit,
    Event,
    Param,
}

/// A rule as it would be accepted.
#[derive(ToSchema)]
pub(crate) struct RuleDefinition {
    name: String,
    version: u32,
    mode: Mode,
    class: RuleClass,
    /// The period of its ticks, in ms; 0 for a rule that runs when samples that it reads arrive.
    every_ms: u64,
    emit: Emit,
    /// The SELECT, as it was written.
    query: String,
    /// The options that were given, in one form.
    options: BTreeMap<String, String>,
    /// The whole statement in one form; applying it again changes nothing.
    sql: String,
}

/// One change of a rule.
#[derive(ToSchema)]
pub(crate) struct RuleChange {
    /// When, in ms UTC.
    time: i64,
    /// The rule's name.
    rule: String,
    change: Change,
    /// The rule's version from then on.
    version: u32,
    mode: Mode,
    changed_by: String,
    /// Why, when the engine did it by itself.
    note: Option<String>,
    /// The whole statement from then on; of a rule that was dropped, the last one.
    sql: String,
}

/// What was changed; `mode` is nothing but the mode.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum Change {
    Created,
    Changed,
    Mode,
    Dropped,
}

/// What one statement did.
#[derive(ToSchema)]
pub(crate) struct StatementResult {
    /// `create rule`, `alter rule`, `drop rule` or `show rules`.
    statement: String,
    /// The rule's name; empty for `show rules`.
    name: String,
    /// What changed, for a person.
    message: String,
    /// Whether anything changed.
    changed: bool,
    /// The rules, for `show rules`.
    #[schema(nullable = false)]
    rules: Option<Vec<Rule>>,
}

/// A rule pack that ships with the program.
#[derive(ToSchema)]
pub(crate) struct Pack {
    name: String,
    /// Its first sentence.
    summary: String,
    /// The names of its rules.
    rules: Vec<String>,
    /// Its rule statements.
    sql: String,
}

/// The kill switch is on: no limit is changed.
#[derive(ToSchema)]
pub(crate) struct Freeze {
    /// Since when, in ms UTC.
    since: i64,
    /// Who turned it on.
    by: String,
    /// What for; may be empty.
    why: String,
    /// What was found before the first change was wanted back, too.
    restore: bool,
}

/// What the kill switch did.
#[derive(ToSchema)]
pub(crate) struct Frozen {
    freeze: Freeze,
    /// Baselines that were put back.
    restored: usize,
    /// Limits that stood at their baseline already.
    unchanged: usize,
    /// Baselines that could not be put back, one sentence each.
    failed: Vec<String>,
}
