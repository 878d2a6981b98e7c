//! Rule statements from text. The head is read by SQL's tokenizer, which knows strings, comments and positions; the SELECT
//! is kept as it was written.

use sqlparser::dialect::GenericDialect;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Whitespace};

use crate::error::{PolicyError, PolicyErrorKind};

/// A stretch of the submitted text; lines and columns from 1, in characters, the end exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub line: u64,
    pub column: u64,
    pub end_line: u64,
    pub end_column: u64,
}

impl Span {
    fn between(start: Location, end: Location) -> Self {
        Self { line: start.line, column: start.column, end_line: end.line, end_column: end.column }
    }
}

/// A word or a text of the statement, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

/// One option as it was written: name and value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RawOption {
    pub name: Spanned<String>,
    pub value: Spanned<String>,
}

/// One statement of a submitted text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Statement {
    Create { replace: bool, name: Spanned<String>, options: Vec<RawOption>, query: Spanned<String> },
    Alter { name: Spanned<String>, set: Vec<RawOption> },
    Drop { name: Spanned<String>, if_exists: bool },
    Show,
}

/// Whether `sql` begins, after comments, as a rule statement does. Says nothing about the rest of the text.
pub(crate) fn is_rule_statement(sql: &str) -> bool {
    // Most questions are none, and need not be read for that.
    if !sql.as_bytes().windows(4).any(|word| word.eq_ignore_ascii_case(b"rule")) {
        return false;
    }
    let mut tokens = Vec::new();
    // A text that is still being typed may end within a string; the tokens before that are enough here.
    let _ = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location_into_buf(&mut tokens);
    let words: Vec<String> = tokens
        .iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::SemiColon))
        .map_while(|token| match &token.token {
            Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_ascii_lowercase()),
            _ => None,
        })
        .take(4)
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    matches!(
        words.as_slice(),
        ["create", "rule", ..]
            | ["create", "or", "replace", "rule"]
            | ["alter" | "drop", "rule", ..]
            | ["show", "rules", ..]
    )
}

/// The statements of a text, in order. A text of comments alone has none.
pub(crate) fn parse(sql: &str) -> Result<Vec<Statement>, PolicyError> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().map_err(|error| {
        let at = error.location;
        PolicyError::new(PolicyErrorKind::Syntax, lower_first(&error.message)).at(Span::between(at, at))
    })?;
    let mut parser = Parser { sql, tokens: &tokens, at: 0 };
    let mut statements = Vec::new();
    loop {
        while parser.accept_semicolon() {}
        if parser.peek().is_none() {
            return Ok(statements);
        }
        statements.push(parser.statement()?);
        match parser.peek() {
            None | Some(TokenWithSpan { token: Token::SemiColon, .. }) => {}
            Some(_) => return Err(parser.unexpected("';' or the end of the text")),
        }
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

struct Parser<'a> {
    sql: &'a str,
    tokens: &'a [TokenWithSpan],
    at: usize,
}

impl Parser<'_> {
    fn statement(&mut self) -> Result<Statement, PolicyError> {
        match self.word().as_deref() {
            Some("create") => self.create(),
            Some("alter") => self.alter(),
            Some("drop") => self.drop_rule(),
            Some("show") => {
                self.at += 1;
                self.expect("rules")?;
                Ok(Statement::Show)
            }
            _ => Err(self.unexpected("CREATE RULE, ALTER RULE, DROP RULE or SHOW RULES")),
        }
    }

    fn create(&mut self) -> Result<Statement, PolicyError> {
        self.expect("create")?;
        let replace = self.accept("or");
        if replace {
            self.expect("replace")?;
        }
        self.expect("rule")?;
        let name = self.name()?;
        let options = if self.accept("with") { self.options()? } else { Vec::new() };
        self.expect("as")?;
        Ok(Statement::Create { replace, name, options, query: self.query()? })
    }

    fn alter(&mut self) -> Result<Statement, PolicyError> {
        self.expect("alter")?;
        self.expect("rule")?;
        let name = self.name()?;
        self.expect("set")?;
        Ok(Statement::Alter { name, set: self.options()? })
    }

    fn drop_rule(&mut self) -> Result<Statement, PolicyError> {
        self.expect("drop")?;
        self.expect("rule")?;
        let if_exists = self.accept("if");
        if if_exists {
            self.expect("exists")?;
        }
        Ok(Statement::Drop { name: self.name()?, if_exists })
    }

    /// `(name = value, ...)`; empty parentheses and a trailing comma are mistakes.
    fn options(&mut self) -> Result<Vec<RawOption>, PolicyError> {
        self.expect_token(&Token::LParen, "'('")?;
        let mut options = Vec::new();
        loop {
            let name = self.option_name()?;
            self.expect_token(&Token::Eq, "'='")?;
            options.push(RawOption { name, value: self.value()? });
            match self.peek().map(|token| &token.token) {
                Some(Token::Comma) => self.step(),
                Some(Token::RParen) => {
                    self.step();
                    return Ok(options);
                }
                _ => return Err(self.unexpected("',' or ')'")),
            }
        }
    }

    fn option_name(&mut self) -> Result<Spanned<String>, PolicyError> {
        let Some(name) = self.word() else { return Err(self.unexpected("the name of an option")) };
        let span = self.span();
        self.step();
        Ok(Spanned { value: name, span })
    }

    /// A text, a number or a bare word such as `on`.
    fn value(&mut self) -> Result<Spanned<String>, PolicyError> {
        let start = self.span();
        let negative = matches!(self.peek().map(|token| &token.token), Some(Token::Minus));
        if negative {
            self.step();
        }
        let value = match self.peek().map(|token| &token.token) {
            Some(Token::SingleQuotedString(text)) if !negative => text.clone(),
            Some(Token::Word(word)) if !negative => word.value.clone(),
            Some(Token::Number(digits, _)) if negative => format!("-{digits}"),
            Some(Token::Number(digits, _)) => digits.clone(),
            _ => return Err(self.unexpected("a value such as '1s', 'on' or 0.05")),
        };
        let end = self.span();
        self.step();
        Ok(Spanned { value, span: Span { end_line: end.end_line, end_column: end.end_column, ..start } })
    }

    fn name(&mut self) -> Result<Spanned<String>, PolicyError> {
        let Some(Token::Word(word)) = self.peek().map(|token| &token.token) else {
            return Err(self.unexpected("the rule's name"));
        };
        let value = word.value.clone();
        let span = self.span();
        let mut chars = value.chars();
        let begins_well = chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_');
        if !begins_well || !chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') || value.len() > 64
        {
            let message = format!("'{value}' cannot name a rule");
            let help = "a name has up to 64 lower case letters, digits and underscores, and no digit at its begin";
            return Err(PolicyError::new(PolicyErrorKind::Syntax, message).at(span).help(help));
        }
        self.step();
        Ok(Spanned { value, span })
    }

    /// Everything up to the next semicolon outside of strings and comments, comments included.
    fn query(&mut self) -> Result<Spanned<String>, PolicyError> {
        if !matches!(self.word().as_deref(), Some("select" | "with" | "values")) {
            return Err(self.unexpected("a SELECT"));
        }
        // Comments between AS and SELECT stay with the query: they are where a rule says what it does.
        let mut first = self.index();
        while first > 0 && is_space(&self.tokens[first - 1].token) {
            first -= 1;
        }
        while is_blank(&self.tokens[first].token) {
            first += 1;
        }
        let mut last = first;
        while let Some(token) = self.peek() {
            if token.token == Token::SemiColon {
                break;
            }
            last = self.index();
            self.step();
        }
        let (start, end) = (self.tokens[first].span.start, self.tokens[last].span.end);
        let text = self.sql[offset(self.sql, start)..offset(self.sql, end)].trim_end().to_owned();
        Ok(Spanned { value: text, span: Span::between(start, end) })
    }

    fn accept_semicolon(&mut self) -> bool {
        let found = matches!(self.peek(), Some(TokenWithSpan { token: Token::SemiColon, .. }));
        if found {
            self.step();
        }
        found
    }

    fn accept(&mut self, word: &str) -> bool {
        let found = self.word().as_deref() == Some(word);
        if found {
            self.step();
        }
        found
    }

    fn expect(&mut self, word: &str) -> Result<(), PolicyError> {
        if self.accept(word) { Ok(()) } else { Err(self.unexpected(&word.to_ascii_uppercase())) }
    }

    fn expect_token(&mut self, wanted: &Token, name: &str) -> Result<(), PolicyError> {
        if self.peek().map(|token| &token.token) != Some(wanted) {
            return Err(self.unexpected(name));
        }
        self.step();
        Ok(())
    }

    /// The next token's word in lower case, if it is an unquoted one.
    fn word(&self) -> Option<String> {
        match &self.peek()?.token {
            Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_ascii_lowercase()),
            _ => None,
        }
    }

    fn index(&self) -> usize {
        (self.at..self.tokens.len()).find(|at| !is_space(&self.tokens[*at].token)).unwrap_or(self.tokens.len())
    }

    fn peek(&self) -> Option<&TokenWithSpan> {
        self.tokens.get(self.index()).filter(|token| token.token != Token::EOF)
    }

    fn step(&mut self) {
        self.at = self.index() + 1;
    }

    /// Where the next token stands; behind the last one at the end of the text.
    fn span(&self) -> Span {
        match (self.peek(), self.tokens.last()) {
            (Some(token), _) => Span::between(token.span.start, token.span.end),
            (None, Some(last)) => Span::between(last.span.end, last.span.end),
            (None, None) => Span { line: 1, column: 1, end_line: 1, end_column: 1 },
        }
    }

    fn unexpected(&self, wanted: &str) -> PolicyError {
        let found = self.peek().map_or_else(|| "the end of the text".to_owned(), |token| format!("'{}'", token.token));
        PolicyError::new(PolicyErrorKind::Syntax, format!("expected {wanted}, found {found}")).at(self.span())
    }
}

fn is_space(token: &Token) -> bool {
    matches!(token, Token::Whitespace(_))
}

fn is_blank(token: &Token) -> bool {
    matches!(token, Token::Whitespace(Whitespace::Space | Whitespace::Newline | Whitespace::Tab))
}

/// The byte at which the tokenizer's `location` lies; the tokenizer counts characters, and lines at `\n`.
fn offset(sql: &str, location: Location) -> usize {
    let (mut line, mut column) = (1, 1);
    for (at, c) in sql.char_indices() {
        if (line, column) >= (location.line, location.column) {
            return at;
        }
        if c == '\n' {
            (line, column) = (line + 1, 1);
        } else {
            column += 1;
        }
    }
    sql.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn only(sql: &str) -> Statement {
        let mut statements = parse(sql).unwrap();
        assert_eq!(statements.len(), 1);
        statements.remove(0)
    }

    fn error(sql: &str) -> (String, u64, u64) {
        let error = parse(sql).unwrap_err();
        (error.message, error.line.unwrap(), error.column.unwrap())
    }

    #[test]
    fn a_rule_is_read_with_its_options_and_its_query_as_written() {
        let sql = "-- a pack\ncreate or replace RULE up WITH (every='1s', mode = on, step_up=0.5) AS  SELECT 'ä;' -- x;y\n  FROM t ; ";
        let Statement::Create { replace, name, options, query } = only(sql) else { panic!() };
        assert!(replace);
        assert_eq!(name.value, "up");
        let pairs: Vec<_> = options.iter().map(|o| (o.name.value.as_str(), o.value.value.as_str())).collect();
        assert_eq!(pairs, [("every", "1s"), ("mode", "on"), ("step_up", "0.5")]);
        assert_eq!(query.value, "SELECT 'ä;' -- x;y\n  FROM t");
        assert_eq!((query.span.line, query.span.column), (2, 73));
    }

    #[test]
    fn comments_before_the_select_stay_with_the_query() {
        let Statement::Create { query, .. } = only("CREATE RULE r AS -- why\n/* how */ SELECT 1") else { panic!() };
        assert_eq!(query.value, "-- why\n/* how */ SELECT 1");
        assert_eq!((query.span.line, query.span.column), (1, 18));
    }

    #[test]
    fn several_statements_stand_in_one_text() {
        let all = parse("ALTER RULE a SET (mode='on');;\nDROP RULE IF EXISTS b;SHOW RULES; -- end").unwrap();
        assert_eq!(all.len(), 3);
        assert!(matches!(&all[1], Statement::Drop { if_exists: true, name } if name.value == "b"));
        assert_eq!(all[2], Statement::Show);
        assert_eq!(parse(" -- nothing\n").unwrap(), []);
    }

    #[test]
    fn mistakes_are_placed() {
        assert_eq!(error("CREATE RULE a\nWITH (every '1s') AS SELECT 1"), ("expected '=', found ''1s''".into(), 2, 13));
        assert_eq!(error("CREATE RULE Up AS SELECT 1"), ("'Up' cannot name a rule".into(), 1, 13));
        assert_eq!(error("CREATE RULE a AS DELETE"), ("expected a SELECT, found 'DELETE'".into(), 1, 18));
        assert_eq!(error("SHOW RULES\nSELECT"), ("expected ';' or the end of the text, found 'SELECT'".into(), 2, 1));
        assert_eq!(error("CREATE RULE a").0, "expected AS, found the end of the text");
    }

    #[test]
    fn only_rule_statements_are_taken_for_rule_statements() {
        for sql in [
            "/* x */ create rule a as",
            "CREATE OR REPLACE RULE",
            "show rules",
            "drop rule 'unfinished",
            "; ALTER RULE x",
        ] {
            assert!(is_rule_statement(sql), "{sql}");
        }
        for sql in
            ["SELECT 1", "SHOW TABLES", "CREATE TABLE rule", "create or replace view", "", "'create' rule", "rules"]
        {
            assert!(!is_rule_statement(sql), "{sql}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(sql in "(CREATE|RULE|AS|WITH|\\(|\\)|=|;|'|\"|--|/\\*|SELECT| |\n|é|[a-z0-9]|,){0,40}") {
            let _ = parse(&sql);
            let _ = is_rule_statement(&sql);
        }
    }
}
