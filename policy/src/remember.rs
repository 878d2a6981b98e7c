//! What the answers of rules leave behind beside proposals: state for their own next run, events and parameters for other
//! rules, and which events were acted on.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::Array;
use arrow::record_batch::RecordBatch;
use tidegate_model::{Event, OutcomeStatus, TimeMs};
use tidegate_store::{Consumption, Param, RuleView};

use crate::arbiter::Judged;
use crate::engine::Engine;
use crate::proposal::{Further, Keys, LimitKey, Parsed, numbers, text_at, texts};
use crate::rule::{CONSUME_COUNT, CONSUME_EVENT, CONSUME_WITHIN, RuleDefinition, group_kind};
use crate::tick::TickReport;

/// What rules left for others at one instant.
#[derive(Default)]
pub(crate) struct Left {
    pub events: Vec<Event>,
    /// Of shadow rules, for shadow rules.
    pub shadow_events: Vec<Event>,
    pub params: Vec<Param>,
    pub consumptions: Vec<Consumption>,
}

/// A row that acts on events.
pub(crate) struct Acted {
    pub key: LimitKey,
    /// Whether it proposes a limit.
    pub proposes: bool,
    name: String,
    most: Option<u64>,
    within: Duration,
}

impl Acted {
    /// As what it does when `rule` acts, or would act.
    pub fn by(&self, rule: &RuleDefinition, shadow: bool) -> Consumption {
        Consumption {
            rule: rule.name.clone(),
            shadow,
            container: self.key.0.clone(),
            resource: self.key.1,
            name: self.name.clone(),
            most: self.most,
            within: self.within,
        }
    }
}

impl Engine {
    /// Keeps what a rule returned beyond the contract, also about limits for which it proposes nothing. What it returned about
    /// a group is kept under the group's name, on no host. Returns what was not kept.
    pub(crate) fn remember_state(&self, view: &RuleView, now: TimeMs, batches: &[RecordBatch]) -> Option<String> {
        let mut rows = Vec::new();
        for batch in batches {
            let keys =
                group_kind(batch.schema_ref()).map_or_else(|| Keys::of(batch), |kind| Keys::of_groups(kind, batch));
            let mut further = Further::all_of(batch);
            further.retain(|column| view.state.field_with_name(column.name).is_ok());
            for row in 0..batch.num_rows() {
                let Ok((container, resource)) = keys.at(row) else { continue };
                let columns = further.iter().map(|column| (column.name.to_owned(), column.json(row)));
                rows.push((container, resource, columns.collect()));
            }
        }
        let kept: Result<(), String> = self.store.put_state(&view.rule, now, rows);
        kept.err().map(|why| format!("state: {why}"))
    }

    /// Records events, parameters and consumptions. Rules of the same instant that read none of these do not see them, so
    /// that it does not depend on chance what a rule sees.
    pub(crate) async fn leave(&self, left: Left, now: TimeMs, report: &mut TickReport) {
        let Left { events, shadow_events, params, consumptions } = left;
        if let Err(error) = self.record_events(&events).await {
            tracing::error!(error, "events are lost");
            report.problems.push(error);
        }
        report.events.extend(events);
        if !shadow_events.is_empty() {
            self.store.put_shadow_events(now, shadow_events);
        }
        if !params.is_empty()
            && let Err(error) = self.store.put_params(now, params)
        {
            report.problems.push(error);
        }
        if consumptions.is_empty() {
            return;
        }
        // It reads the journal as far back as they look.
        let store = Arc::clone(&self.store);
        let consumed = tokio::task::spawn_blocking(move || store.consume_events(now, &consumptions)).await;
        let failed = match consumed {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        report.problems.push(format!("events that were acted on stay open: {failed}"));
    }
}

/// The rows of a limit rule that act on events.
pub(crate) fn consumptions(batches: &[RecordBatch]) -> Vec<Acted> {
    let mut acted = Vec::new();
    for batch in batches {
        let Some(names) = texts(batch, CONSUME_EVENT) else { continue };
        let (keys, counts, targets) = (Keys::of(batch), numbers(batch, CONSUME_COUNT), numbers(batch, "target"));
        let withins = numbers(batch, CONSUME_WITHIN);
        for row in 0..batch.num_rows() {
            let (Some(name), Ok(key)) = (text_at(&names, row), keys.at(row)) else { continue };
            // Nobody acts on a negative number of events; a fraction is none.
            let count =
                counts.as_ref().filter(|counts| counts.is_valid(row)).map(|counts| counts.value(row).max(0.0) as u64);
            let within = withins.as_ref().filter(|withins| withins.is_valid(row)).map(|withins| withins.value(row));
            let within = within.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok());
            let within = within.map_or(Consumption::REACH, |within| within.min(Consumption::REACH));
            let proposes = targets.as_ref().is_some_and(|targets| targets.is_valid(row));
            acted.push(Acted { key, proposes, name: name.to_owned(), most: count, within });
        }
    }
    acted
}

/// Those whose proposals pass the guards: the others may act on the same events at the next tick.
pub(crate) fn acted_on(consumptions: Vec<(LimitKey, Consumption)>, judged: &Judged) -> Vec<Consumption> {
    if consumptions.is_empty() {
        return Vec::new();
    }
    let shown = judged.settled.iter().filter(|decision| decision.outcome.status == OutcomeStatus::Shadow);
    let acted = judged.approved.iter().map(|approved| &approved.decision).chain(shown);
    let acted: HashSet<_> = acted.map(|decision| (&*decision.rule, &decision.container, decision.resource)).collect();
    let passed = |(key, one): &(LimitKey, Consumption)| acted.contains(&(&*one.rule, &key.0, key.1));
    consumptions.into_iter().filter(passed).map(|(_, one)| one).collect()
}

/// Events with those of one name about one limit made one, with the sum of their values.
pub(crate) fn merged(events: Vec<Event>) -> Vec<Event> {
    let mut places: HashMap<_, usize> = HashMap::new();
    let mut merged: Vec<Event> = Vec::new();
    for event in events {
        let place = places.entry((event.container.clone(), event.resource, event.name.clone()));
        match place {
            Entry::Occupied(known) => merged[*known.get()].value += event.value,
            Entry::Vacant(new) => {
                new.insert(merged.len());
                merged.push(event);
            }
        }
    }
    merged
}

/// Reads the rows of a rule that sets parameters.
pub(crate) fn params(rule: &RuleDefinition, now: TimeMs, batches: &[RecordBatch]) -> Parsed<Param> {
    let mut parsed = Parsed { items: Vec::new(), problem: None };
    for batch in batches {
        let (Some(names), Some(values)) = (texts(batch, "name"), numbers(batch, "value")) else {
            parsed.problem = Some("the rule's result has lost its column 'name' or 'value'".to_owned());
            continue;
        };
        let keys = Keys::of(batch);
        for row in 0..batch.num_rows() {
            let value = values.is_valid(row).then(|| values.value(row)).filter(|value| value.is_finite());
            match (keys.at(row), text_at(&names, row), value) {
                (_, None, _) => {}
                (Err(why), ..) => parsed.problem = Some(why),
                (_, Some(name), None) => {
                    parsed.problem = Some(format!("row {}: the value of '{name}' is no finite number", row + 1));
                }
                (Ok((container, resource)), Some(name), Some(value)) => parsed.items.push(Param {
                    rule: rule.name.clone(),
                    container,
                    resource,
                    name: name.to_owned(),
                    value,
                    time: now,
                    until: rule.resolved.ttl.map(|ttl| now.plus(ttl)),
                    shadow: false,
                }),
            }
        }
    }
    parsed
}
