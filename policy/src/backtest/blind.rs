//! Rules that ask for what is not played.

use sqlparser::dialect::GenericDialect;
use sqlparser::tokenizer::{Token, Tokenizer};
use tidegate_model::TimeMs;

use crate::engine::Engine;
use crate::error::PolicyError;
use crate::parse::{self, Statement};

impl Engine {
    /// Carries out rule statements, all but those about rules that read pushed metrics, whose names are returned: on a store
    /// without the metrics they would be no rules, or look as if they had nothing to propose.
    pub(crate) async fn execute_but_blind(&self, sql: &str, now: TimeMs) -> Result<Vec<String>, PolicyError> {
        let mut blind: Vec<String> = Vec::new();
        let mut seeing = Vec::new();
        for statement in parse::parse(sql)? {
            let name = match &statement {
                Statement::Create { name, query, .. } => {
                    if reads_pushed(&query.value) && !blind.contains(&name.value) {
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

/// Whether a query reads `metric.x`, `samples` or `last('x', ...)`.
fn reads_pushed(query: &str) -> bool {
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, query).tokenize() else { return false };
    let tokens: Vec<Token> = tokens.into_iter().filter(|token| !matches!(token, Token::Whitespace(_))).collect();
    let is = |at: usize, word: &str| matches!(tokens.get(at), Some(Token::Word(found)) if found.value.eq_ignore_ascii_case(word));
    (0..tokens.len()).any(|at| {
        let metric = is(at, "metric") && tokens.get(at + 1) == Some(&Token::Period);
        let samples = (is(at, "from") || is(at, "join")) && is(at + 1, "samples");
        let last = is(at, "last")
            && tokens.get(at + 1) == Some(&Token::LParen)
            && matches!(tokens.get(at + 2), Some(Token::SingleQuotedString(_)));
        metric || samples || last
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushed_metrics_are_told_from_words_and_columns() {
        let reads = [
            "SELECT 1 FROM metric.\"a.b\"",
            "SELECT 1 FROM x JOIN samples ON 1",
            "SELECT * FROM last('a', INTERVAL '1 s')",
        ];
        assert_eq!(reads.map(reads_pushed), [true; 3]);
        let does_not = [
            "SELECT 'from samples, the last minute' FROM recent(INTERVAL '1 s') WHERE samples > 60",
            "SELECT last(value ORDER BY time) -- FROM metric.x\nFROM usage",
            "SELECT metric FROM events",
        ];
        assert_eq!(does_not.map(reads_pushed), [false; 3]);
        assert!(!reads_pushed(crate::DEFAULT_PACK));
    }
}
