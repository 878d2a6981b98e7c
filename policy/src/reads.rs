//! What a query reads, told from its words: enough to know when it has to run, and what it needs to be played again.

use sqlparser::dialect::GenericDialect;
use sqlparser::tokenizer::{Token, Tokenizer};

/// Tables and functions over what containers use, whoever measured it.
const USAGE: [&str; 6] = ["recent", "usage", "limits", "pressure", "history", "asof"];

/// See the module. A word that only looks like a table's name counts, too: then the rule runs a little more often, or later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    /// Its own state.
    pub state: bool,
    pub events: bool,
    pub params: bool,
    /// Usage, limits or pressure of containers.
    pub usage: bool,
    /// Pushed metrics by name.
    pub metrics: Vec<String>,
    /// All pushed metrics.
    pub samples: bool,
}

impl Reads {
    pub fn of(query: &str) -> Self {
        let Ok(tokens) = Tokenizer::new(&GenericDialect {}, query).tokenize() else { return Self::default() };
        let tokens: Vec<Token> = tokens.into_iter().filter(|token| !matches!(token, Token::Whitespace(_))).collect();
        let word = |at: usize| match tokens.get(at) {
            Some(Token::Word(word)) => Some(word.value.as_str()),
            _ => None,
        };
        let is = |at: usize, name: &str| word(at).is_some_and(|word| word.eq_ignore_ascii_case(name));
        let mut reads = Self::default();
        for at in 0..tokens.len() {
            let table = at > 0 && (is(at - 1, "from") || is(at - 1, "join"));
            reads.state |= is(at, "state");
            reads.events |= is(at, "events");
            reads.params |= is(at, "params");
            reads.usage |= USAGE.iter().any(|name| is(at, name));
            reads.samples |= table && is(at, "samples");
            if is(at, "metric") && tokens.get(at + 1) == Some(&Token::Period) {
                reads.metrics.extend(word(at + 2).map(str::to_owned));
            }
            if let (true, Some(Token::LParen), Some(Token::SingleQuotedString(name))) =
                (is(at, "last") || is(at, "rollup"), tokens.get(at + 1), tokens.get(at + 2))
            {
                reads.metrics.push(name.clone());
            }
        }
        reads.metrics.sort_unstable();
        reads.metrics.dedup();
        reads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads_pushed(query: &str) -> bool {
        let reads = Reads::of(query);
        reads.samples || !reads.metrics.is_empty()
    }

    #[test]
    fn pushed_metrics_are_told_from_words_and_columns() {
        let reads = [
            "SELECT 1 FROM metric.\"a.b\"",
            "SELECT 1 FROM x JOIN samples ON 1",
            "SELECT * FROM last('a', INTERVAL '1 s')",
            "SELECT * FROM rollup('a', INTERVAL '1 m')",
        ];
        assert_eq!(reads.map(reads_pushed), [true; 4]);
        let does_not = [
            "SELECT 'from samples, the last minute' FROM recent(INTERVAL '1 s') WHERE samples > 60",
            "SELECT last(value ORDER BY time) -- FROM metric.x\nFROM usage",
            "SELECT metric, samples, usage FROM events",
        ];
        assert_eq!(does_not.map(reads_pushed), [false; 3]);
        assert!(!reads_pushed(crate::DEFAULT_PACK));
    }

    #[test]
    fn what_a_rule_waits_for_is_found() {
        let reads =
            Reads::of("SELECT 1 FROM recent(INTERVAL '1 s') r JOIN State s USING (host) JOIN metric.\"q.d\" ON true");
        assert_eq!((reads.state, reads.usage, reads.events), (true, true, false));
        assert_eq!(reads.metrics, ["q.d"]);
        assert!(Reads::of("SELECT 1 FROM events").events && Reads::of("SELECT value FROM params").params);
    }
}
