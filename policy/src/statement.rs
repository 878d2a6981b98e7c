//! Carrying out rule statements: check everything first, then store everything, then put it in force.

use std::sync::Arc;

use serde::Serialize;
use tidegate_model::{Decision, Mode, TimeMs};
use tidegate_store::{RuleChange, RuleRow};

use crate::engine::{Engine, stored_rows};
use crate::error::{PolicyError, PolicyErrorKind};
use crate::explain::BREAKER;
use crate::options;
use crate::parse::{self, RawOption, Spanned, Statement};
use crate::rule::{RuleDefinition, check_columns, contract};

/// What one statement did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatementOutcome {
    /// Which statement: `create rule`, `alter rule`, `drop rule` or `show rules`.
    pub statement: String,
    /// The rule's name; empty for `show rules`.
    pub name: String,
    /// For a person: what changed.
    pub message: String,
    /// Whether anything changed.
    pub changed: bool,
    /// The rules, for `show rules`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<RuleRow>>,
}

/// The rules while the statements of one text are applied to them.
type Working = Vec<Arc<RuleDefinition>>;

/// What the statements of one text come to.
struct Applied {
    rules: Working,
    outcomes: Vec<StatementOutcome>,
    /// What the last `CREATE RULE` defines.
    created: Option<Arc<RuleDefinition>>,
}

impl Engine {
    /// Carries out one or more rule statements, separated by `;`: all of them or, after a mistake in any, none. `who` is
    /// kept with the rules that change. Positions in errors are relative to the whole text.
    ///
    /// `CREATE OR REPLACE` without a `mode` keeps the mode of the rule that it replaces.
    pub async fn execute(&self, sql: &str, who: &str, now: TimeMs) -> Result<Vec<StatementOutcome>, PolicyError> {
        self.check_length(sql)?;
        self.execute_all(&parse::parse(sql)?, who, now).await
    }

    /// Carries out statements: all of them or, after a mistake in any, none.
    pub(crate) async fn execute_all(
        &self,
        statements: &[Statement],
        who: &str,
        now: TimeMs,
    ) -> Result<Vec<StatementOutcome>, PolicyError> {
        let _editing = self.editing.lock().await;
        let before = self.working();
        let Applied { rules, outcomes, .. } = self.apply(statements, &before, who, now).await?;
        self.put_in_force(&before, rules, who, None, now)?;
        Ok(outcomes)
    }

    /// Stores `rules` and lets them act, if they differ from those `before`. A rule that changed begins anew: its back-offs
    /// and what the circuit breaker counted are forgotten. `note` tells what the engine did to the changed ones by itself.
    fn put_in_force(
        &self,
        before: &Working,
        rules: Working,
        who: &str,
        note: Option<&str>,
        now: TimeMs,
    ) -> Result<(), PolicyError> {
        if rules == *before {
            return Ok(());
        }
        let touched = touched(before, &rules);
        let former = self.store.rules();
        let mut rows = stored_rows(&rules, &former, &touched, who, now);
        for row in rows.iter_mut().filter(|row| touched.contains(&row.name)) {
            row.note = note.map(str::to_owned);
        }
        let changes = changes(&former, &rows, &self.store.rule_changes(), who, now);
        self.store.put_changed_rules(rows, changes, self.config.max_rule_changes)?;
        let mut history = self.history.lock();
        let dropped = before.iter().map(|rule| &rule.name).filter(|name| rules.iter().all(|rule| rule.name != **name));
        for name in touched.iter().chain(dropped.clone()) {
            history.watches.forget_rule(name);
            // Of a rule that is gone, or whose changes have no end any more, limits stay as they are.
            if !rules.iter().any(|rule| rule.name == *name && rule.resolved.ttl.is_some()) {
                history.end_leases(name);
            }
        }
        drop(history);
        for name in dropped {
            self.store.forget_rule(name, now);
        }
        self.activate(rules);
        Ok(())
    }

    /// Takes a rule out of action: from now on it only shows what it would do. False when it does not act any more, or
    /// has changed since the version that is meant.
    pub(crate) async fn demote(&self, name: &str, version: u32, why: &str, now: TimeMs) -> Result<bool, PolicyError> {
        let _editing = self.editing.lock().await;
        let before = self.working();
        let mut rules = before.clone();
        let found = rules.iter_mut().find(|rule| rule.name == name && rule.version == version);
        let Some(rule) = found.filter(|rule| matches!(rule.mode, Mode::On | Mode::Canary(_))) else { return Ok(false) };
        let mut options = rule.options.clone();
        options.insert("mode".to_owned(), Mode::Shadow.to_string());
        let demoted = RuleDefinition::new(name, version, Mode::Shadow, options, &rule.query, &self.config);
        *rule = Arc::new(demoted.map_err(|why| PolicyError::new(PolicyErrorKind::Option, why))?);
        self.put_in_force(&before, rules, BREAKER, Some(why), now)?;
        Ok(true)
    }

    /// Checks a text as [`Engine::execute`] would, and stores nothing. Returns what its last `CREATE RULE` defines; a text
    /// without one is an error.
    pub async fn validate(&self, sql: &str, now: TimeMs) -> Result<RuleDefinition, PolicyError> {
        self.check_length(sql)?;
        let applied = self.apply(&parse::parse(sql)?, &self.working(), "", now).await?;
        let without = || PolicyError::new(PolicyErrorKind::Syntax, "expected at least one CREATE RULE statement");
        applied.created.map(Arc::unwrap_or_clone).ok_or_else(without)
    }

    /// Checks rule statements of any kind as [`Engine::execute`] would: on top of the rules in force or, when `alone`, on an
    /// engine without rules. Stores nothing.
    pub async fn check(&self, sql: &str, alone: bool, now: TimeMs) -> Result<(), PolicyError> {
        self.check_length(sql)?;
        let before = if alone { Working::new() } else { self.working() };
        self.apply(&parse::parse(sql)?, &before, "", now).await.map(drop)
    }

    /// The rules in force, to try statements on.
    fn working(&self) -> Working {
        self.active().iter().map(|rule| Arc::clone(&rule.definition)).collect()
    }

    /// What the rules would be after `statements`.
    async fn apply(
        &self,
        statements: &[Statement],
        before: &Working,
        who: &str,
        now: TimeMs,
    ) -> Result<Applied, PolicyError> {
        let mut rules = before.clone();
        let mut outcomes = Vec::new();
        let mut created = None;
        for statement in statements {
            outcomes.push(match statement {
                Statement::Create { replace, name, options, query } => {
                    let outcome = self.create(&mut rules, *replace, name, options, query, now).await?;
                    created = Some(Arc::clone(&rules[find(&rules, name)?]));
                    outcome
                }
                Statement::Alter { name, set } => self.alter(&mut rules, name, set)?,
                Statement::Drop { name, if_exists } => drop_rule(&mut rules, name, *if_exists)?,
                Statement::Show => StatementOutcome {
                    statement: "show rules".to_owned(),
                    name: String::new(),
                    message: format!("{} rules", rules.len()),
                    changed: false,
                    rules: Some(stored_rows(&rules, &self.store.rules(), &touched(before, &rules), who, now)),
                },
            });
        }
        if rules.len() > self.config.max_rules {
            let message =
                format!("there would be {} rules, more than the {} allowed", rules.len(), self.config.max_rules);
            return Err(PolicyError::new(PolicyErrorKind::Limit, message).help("drop rules or raise policy.max_rules"));
        }
        Ok(Applied { rules, outcomes, created })
    }

    /// The rule of a text that is one `CREATE RULE`, whether or not there is a rule of that name.
    async fn single(&self, sql: &str, now: TimeMs) -> Result<RuleDefinition, PolicyError> {
        self.check_length(sql)?;
        let (name, options, query) = match parse::parse(sql)?.as_slice() {
            [Statement::Create { name, options, query, .. }] => (name.clone(), options.clone(), query.clone()),
            _ => {
                let message = "expected one CREATE RULE statement and nothing else";
                return Err(PolicyError::new(PolicyErrorKind::Syntax, message));
            }
        };
        let rules = self.active();
        let existing = rules.iter().map(|rule| &rule.definition).find(|rule| rule.name == name.value);
        self.define(existing, &name, &options, &query, now).await
    }

    /// What the rule would do if it were evaluated at `now`: the decisions that the guards leave of its proposals. Writes
    /// and stores nothing. Decisions that would be written have the outcome `shadow`.
    pub async fn preview(&self, sql: &str, now: TimeMs) -> Result<Vec<Decision>, PolicyError> {
        let definition = self.single(sql, now).await?;
        self.preview_rule(Arc::new(definition), now).await
    }

    fn check_length(&self, sql: &str) -> Result<(), PolicyError> {
        let most = self.config.max_text_bytes;
        if sql.len() <= most {
            return Ok(());
        }
        let message = format!("the text has {} bytes, more than the {most} allowed", sql.len());
        Err(PolicyError::new(PolicyErrorKind::Limit, message).help("apply it in parts or raise policy.max_text_bytes"))
    }

    async fn create(
        &self,
        rules: &mut Working,
        replace: bool,
        name: &Spanned<String>,
        options: &[RawOption],
        query: &Spanned<String>,
        now: TimeMs,
    ) -> Result<StatementOutcome, PolicyError> {
        let at = rules.binary_search_by(|rule| rule.name.as_str().cmp(&name.value));
        if at.is_ok() && !replace {
            let message = format!("rule '{}' exists already", name.value);
            let error = PolicyError::new(PolicyErrorKind::Exists, message).at(name.span);
            return Err(error.help("use CREATE OR REPLACE RULE to change it"));
        }
        let existing = at.ok().map(|at| Arc::clone(&rules[at]));
        let definition = Arc::new(self.define(existing.as_ref(), name, options, query, now).await?);
        let what = match &existing {
            None => "created",
            Some(existing) if *existing == definition => "left as it is",
            Some(_) => "replaced",
        };
        let message = format!("rule {} {what}: version {}, mode {}", name.value, definition.version, definition.mode);
        let changed = existing.as_ref() != Some(&definition);
        match at {
            Ok(at) => rules[at] = definition,
            Err(at) => rules.insert(at, definition),
        }
        Ok(outcome("create rule", name, message, changed))
    }

    async fn define(
        &self,
        existing: Option<&Arc<RuleDefinition>>,
        name: &Spanned<String>,
        given: &[RawOption],
        query: &Spanned<String>,
        now: TimeMs,
    ) -> Result<RuleDefinition, PolicyError> {
        let options = options::check(given)?;
        let mode = existing.map_or(self.config.default_mode, |existing| existing.mode);
        let define =
            |version| RuleDefinition::new(&name.value, version, mode, options.clone(), &query.value, &self.config);
        let in_options = |why| PolicyError::new(PolicyErrorKind::Option, why).at(name.span);
        let mut definition = define(existing.map_or(1, |existing| existing.version)).map_err(in_options)?;
        if let Some(existing) = existing.filter(|existing| !existing.decides_as(&definition)) {
            definition = define(existing.version.saturating_add(1)).map_err(in_options)?;
        }
        let columns = self.store.check_rule(&query.value, &contract(definition.emit), now).await;
        let columns = columns.map_err(|error| PolicyError::from_query(error, query.span))?;
        check_columns(&columns.schema, definition.emit).map_err(|error| error.at(query.span))?;
        Ok(definition)
    }

    fn alter(
        &self,
        rules: &mut Working,
        name: &Spanned<String>,
        set: &[RawOption],
    ) -> Result<StatementOutcome, PolicyError> {
        let at = find(rules, name)?;
        let existing = Arc::clone(&rules[at]);
        let set_options = options::check(set)?;
        if let Some(emit) = set.iter().find(|option| option.name.value == "emit") {
            let message = "emit cannot be altered, since the query must return other columns";
            let error = PolicyError::new(PolicyErrorKind::Option, message).at(emit.name.span);
            return Err(error.help("use CREATE OR REPLACE RULE"));
        }
        let mut options = existing.options.clone();
        options.extend(set_options);
        let define = |version| {
            RuleDefinition::new(&existing.name, version, existing.mode, options.clone(), &existing.query, &self.config)
                .map_err(|why| PolicyError::new(PolicyErrorKind::Option, why).at(name.span))
        };
        let mut definition = define(existing.version)?;
        if !definition.decides_as(&existing) {
            definition = define(existing.version.saturating_add(1))?;
        }
        let changed = definition != *existing;
        let what = if changed { "altered" } else { "left as it is" };
        let message = format!("rule {} {what}: version {}, mode {}", name.value, definition.version, definition.mode);
        rules[at] = Arc::new(definition);
        Ok(outcome("alter rule", name, message, changed))
    }
}

fn drop_rule(rules: &mut Working, name: &Spanned<String>, if_exists: bool) -> Result<StatementOutcome, PolicyError> {
    match find(rules, name) {
        Ok(at) => {
            rules.remove(at);
            Ok(outcome("drop rule", name, format!("rule {} dropped; limits stay as they are", name.value), true))
        }
        Err(_) if if_exists => {
            Ok(outcome("drop rule", name, format!("there is no rule {}, nothing dropped", name.value), false))
        }
        Err(error) => Err(error),
    }
}

fn find(rules: &Working, name: &Spanned<String>) -> Result<usize, PolicyError> {
    rules.binary_search_by(|rule| rule.name.as_str().cmp(&name.value)).map_err(|_| {
        let message = format!("there is no rule '{}'", name.value);
        let error = PolicyError::new(PolicyErrorKind::NotFound, message).at(name.span);
        let similar = |rule: &Arc<RuleDefinition>| strsim::jaro_winkler(&rule.name, &name.value);
        let nearest = rules.iter().max_by(|a, b| similar(a).total_cmp(&similar(b)));
        match nearest.filter(|rule| similar(rule) > 0.7) {
            Some(rule) => error.help(format!("did you mean '{}'?", rule.name)),
            None => error,
        }
    })
}

fn outcome(statement: &str, name: &Spanned<String>, message: String, changed: bool) -> StatementOutcome {
    StatementOutcome { statement: statement.to_owned(), name: name.value.clone(), message, changed, rules: None }
}

/// Names of the rules that are new or differ.
fn touched(before: &Working, after: &Working) -> Vec<String> {
    after.iter().filter(|rule| !before.contains(rule)).map(|rule| rule.name.clone()).collect()
}

/// What is different in `rows`, and before it the `former` text of a rule of which nothing is `known` yet.
fn changes(former: &[RuleRow], rows: &[RuleRow], known: &[RuleChange], who: &str, now: TimeMs) -> Vec<RuleChange> {
    let find = |rows: &[RuleRow], name: &str| rows.iter().find(|row| row.name == name).cloned();
    let entry = |row: &RuleRow, change: &str, time: TimeMs, changed_by: &str| RuleChange {
        time,
        rule: row.name.clone(),
        change: change.to_owned(),
        version: row.version,
        mode: row.mode,
        changed_by: changed_by.to_owned(),
        note: row.note.clone(),
        sql: row.sql.clone(),
    };
    let mut changes = Vec::new();
    for before in former {
        let after = find(rows, &before.name);
        if after.as_ref().is_some_and(|after| after.sql == before.sql) {
            continue;
        }
        if known.iter().all(|change| change.rule != before.name) {
            changes.push(entry(before, "created", before.updated_at, &before.created_by));
        }
        changes.push(match after {
            None => entry(before, "dropped", now, who),
            Some(after) if after.version == before.version => entry(&after, "mode", now, who),
            Some(after) => entry(&after, "changed", now, who),
        });
    }
    let created = rows.iter().filter(|row| former.iter().all(|before| before.name != row.name));
    changes.extend(created.map(|row| entry(row, "created", now, who)));
    changes
}

/// A rule whose decisions only show what it would do.
pub(crate) fn as_shadow(definition: &RuleDefinition) -> Arc<RuleDefinition> {
    Arc::new(RuleDefinition { mode: Mode::Shadow, ..definition.clone() })
}
