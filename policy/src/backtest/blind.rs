//! Rules that ask for what is not played.

use tidegate_model::TimeMs;

use crate::engine::Engine;
use crate::error::PolicyError;
use crate::parse::{self, Statement};
use crate::reads::Reads;

impl Engine {
    /// Carries out rule statements, all but those about rules that read pushed metrics other than `played`, whose names are
    /// returned: on a store without the metrics they would be no rules, or look as if they had nothing to propose.
    pub(crate) async fn execute_but_blind(
        &self,
        sql: &str,
        played: &[&str],
        now: TimeMs,
    ) -> Result<Vec<String>, PolicyError> {
        let mut blind: Vec<String> = Vec::new();
        let mut seeing = Vec::new();
        for statement in parse::parse(sql)? {
            let name = match &statement {
                Statement::Create { name, query, .. } => {
                    let reads = Reads::of(&query.value);
                    let sees = !reads.samples && reads.metrics.iter().all(|name| played.contains(&name.as_str()));
                    if !sees && !blind.contains(&name.value) {
                        blind.push(name.value.clone());
                    }
                    &name.value
                }
                Statement::Alter { name, .. } | Statement::Drop { name, .. } => &name.value,
                Statement::Show => continue,
            };
            if !blind.contains(name) {
                seeing.push(statement);
            }
        }
        self.execute_all(&seeing, "backtest", now).await?;
        Ok(blind)
    }
}
