//! What agents did without being asked, or said too late.

use tidegate_actuator::agent::wire::Report;
use tidegate_model::{Decision, Mode};

use crate::engine::Engine;
use crate::explain::AGENT;
use crate::history::Follow;

impl Engine {
    /// Records what no decision waits for: baselines that an agent put back by itself, and answers that came after their
    /// decision was recorded as failed. Each becomes a decision of the rule `(agent)`.
    pub async fn note_agent(&self, reports: Vec<Report>) {
        let decisions: Vec<Decision> = {
            let mut history = self.history.lock();
            let note = |report: Report| {
                let last = history.track(&(report.container.clone(), report.resource)).last().cloned();
                let decision = decision_of(report, last.as_ref().and_then(|last| last.to));
                // What waited at the agent while newer changes were made says nothing of what stands now.
                if last.is_none_or(|last| last.read_at < decision.outcome.at) {
                    history.finish(&decision, self.config.drift_hold(), Follow::default());
                }
                decision
            };
            reports.into_iter().map(note).collect()
        };
        for decision in &decisions {
            tracing::info!(
                container = %decision.container, resource = %decision.resource, reason = decision.reason,
                outcome = decision.outcome.status.as_str(), "an agent's own act or late answer"
            );
        }
        self.record(&decisions).await;
    }
}

fn decision_of(report: Report, limit_before: Option<f64>) -> Decision {
    let (id, reason) = match report.order {
        None => (report.decision, report.reason),
        Some(_) => {
            let reason = format!("it is the agent's late answer to decision {}", report.decision);
            (format!("{}-late", report.decision), reason)
        }
    };
    Decision {
        id,
        time: report.outcome.at,
        rule: AGENT.to_owned(),
        version: 0,
        container: report.container,
        resource: report.resource,
        limit_before,
        proposed: report.target.unwrap_or(0.0),
        decided: report.target,
        guards: Vec::new(),
        reason,
        mode: Mode::On,
        inputs: serde_json::json!({}),
        outcome: report.outcome,
    }
}
