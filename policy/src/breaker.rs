//! The circuit breaker: a rule whose decreases have to be taken back too often falls back to shadow mode by itself.

use std::collections::BTreeMap;

use tidegate_model::{Event, TimeMs};

use crate::engine::Engine;
use crate::tick::TickReport;
use crate::watch::{Regression, Tuning};

/// Name of the event that tells that a rule fell back.
const EVENT: &str = "circuit_breaker";

impl Engine {
    /// Demotes the rules whose decreases made things worse too often, and says so: in the log, as an event about the
    /// container that was the last straw, and in the rule's listing.
    pub(crate) async fn break_circuits(
        &self,
        worse: &[Regression],
        now: TimeMs,
        tuning: &Tuning,
        report: &mut TickReport,
    ) {
        let last_straws: BTreeMap<&str, &Regression> = worse.iter().map(|one| (one.rule.as_str(), one)).collect();
        for (rule, regression) in last_straws {
            let Some(why) = self.history.lock().watches.tripped(rule, now, tuning) else { continue };
            let note =
                format!("the circuit breaker put it into shadow mode: {why}; the last one: {}", regression.reason);
            match self.demote(rule, regression.version, &note, now).await {
                Ok(false) => continue,
                Ok(true) => tracing::error!(rule, why, "a rule fell back to shadow mode"),
                Err(error) => {
                    let problem = format!("rule {rule} could not be put into shadow mode: {error}");
                    tracing::error!(problem);
                    report.problems.push(problem);
                    continue;
                }
            }
            let (container, resource) = regression.key.clone();
            let (name, value) = (EVENT.to_owned(), 1.0);
            let event = Event { time: now, rule: rule.to_owned(), container, resource, name, value };
            if let Err(error) = self.record_events(std::slice::from_ref(&event)).await {
                report.problems.push(error);
            }
            report.events.push(event);
        }
    }
}
