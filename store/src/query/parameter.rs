//! Values that stand outside of a query's text: parameters that the client names, and texts that columns are compared
//! with, which are taken out here so that questions about different containers share a plan.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use crate::query::error::QueryError;

/// Values of one IN list that are taken out of the text; longer lists stay in it.
const MAX_LISTED: usize = 16;

/// The value of a query's parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// `NULL`.
    Null,
    /// `TRUE` or `FALSE`.
    Boolean(bool),
    /// A number as it stands in SQL, such as `-1.5e3`.
    Number(String),
    /// A text.
    Text(String),
}

impl Parameter {
    /// The value, with the type that its literal would have.
    fn value(&self) -> Option<ScalarValue> {
        Some(match self {
            // Has no type of its own, which plans depend on.
            Parameter::Null => return None,
            Parameter::Boolean(value) => ScalarValue::Boolean(Some(*value)),
            Parameter::Number(number) => match (number.parse(), number.parse(), number.parse()) {
                (Ok(value), _, _) => ScalarValue::Int64(Some(value)),
                (_, Ok(value), _) => ScalarValue::UInt64(Some(value)),
                (_, _, Ok(value)) => ScalarValue::Float64(Some(value)),
                _ => return None,
            },
            Parameter::Text(text) => ScalarValue::Utf8(Some(text.clone())),
        })
    }

    /// The value as it stands in a text.
    fn spelled(&self) -> Vec<Token> {
        match self {
            Parameter::Null => vec![Token::make_keyword("NULL")],
            Parameter::Boolean(value) => vec![Token::make_keyword(if *value { "TRUE" } else { "FALSE" })],
            Parameter::Number(number) => match number.strip_prefix('-') {
                Some(rest) => {
                    vec![Token::LParen, Token::Minus, Token::Number(rest.to_owned(), false), Token::RParen]
                }
                None => vec![Token::Number(number.clone(), false)],
            },
            Parameter::Text(text) => vec![Token::SingleQuotedString(text.clone())],
        }
    }
}

/// Refuses parameters without a value and values without a parameter.
pub(crate) fn check(tokens: &[TokenWithSpan], parameters: &[(String, Parameter)]) -> Result<(), QueryError> {
    let name_of = |token: &Token| match token {
        Token::Placeholder(name) => Some(name.strip_prefix('$').unwrap_or(name).to_owned()),
        _ => None,
    };
    for token in tokens {
        if let Some(name) = name_of(&token.token)
            && !parameters.iter().any(|(known, _)| *known == name)
        {
            let refused = QueryError::refused(format!("no value is given for the parameter ${name}"));
            let refused = refused.helped("name it among the params of the question");
            return Err(refused.at(token.span.start, Some(token.span.end)));
        }
    }
    for (name, value) in parameters {
        if !tokens.iter().any(|token| name_of(&token.token).as_ref() == Some(name)) {
            let refused = QueryError::refused(format!("the query has no parameter ${name}"));
            return Err(refused.helped("every value belongs to a parameter, such as $name or $1"));
        }
        if let Parameter::Number(number) = value
            && !number.parse::<f64>().is_ok_and(f64::is_finite)
        {
            return Err(QueryError::refused(format!("the value of the parameter ${name} is no number")));
        }
    }
    Ok(())
}

/// The tokens with all parameters spelled out.
pub(crate) fn spelled_out(tokens: &[TokenWithSpan], parameters: &[(String, Parameter)]) -> Vec<TokenWithSpan> {
    let mut all = Vec::with_capacity(tokens.len());
    for token in tokens {
        let value = match &token.token {
            Token::Placeholder(id) => parameters.iter().find(|(name, _)| id.strip_prefix('$') == Some(name)),
            _ => None,
        };
        match value {
            Some((_, value)) => {
                all.extend(value.spelled().into_iter().map(|one| TokenWithSpan { token: one, span: token.span }));
            }
            None => all.push(token.clone()),
        }
    }
    all
}

/// A text whose values are taken out.
pub(crate) struct Template {
    /// Names the plan: equal keys, equal plans.
    pub(crate) key: String,
    pub(crate) tokens: Vec<TokenWithSpan>,
    /// The placeholders and the types of their values.
    pub(crate) parameters: Vec<(String, DataType)>,
    pub(crate) values: Vec<ScalarValue>,
}

impl Template {
    /// `None` when a value has no type of its own. With `all`, compared texts are values, too: worth it where many ask the same
    /// about different containers. A rule is always the same text, and its plan the better for each constant in it.
    pub(crate) fn new(
        sql: &str,
        tokens: &[TokenWithSpan],
        parameters: &[(String, Parameter)],
        all: bool,
    ) -> Option<Self> {
        let mut template = Self {
            key: String::with_capacity(sql.len()),
            tokens: tokens.to_vec(),
            parameters: Vec::new(),
            values: Vec::new(),
        };
        for (name, value) in parameters {
            template.add(format!("${name}"), value.value()?);
        }
        let found = if all { compared_texts(tokens) } else { Vec::new() };
        let mut places = Places::new(sql);
        let mut done = 0;
        for at in found {
            let token = &mut template.tokens[at];
            let (start, end) = (places.offset(token.span.start)?, places.offset(token.span.end)?);
            template.key.push_str(sql.get(done..start)?);
            // No text has this in it, so no other text has this key.
            template.key.push('\0');
            done = end;
            // No client can name it: names have no spaces.
            let id = format!("$ {at}");
            let taken = std::mem::replace(&mut token.token, Token::Placeholder(id.clone()));
            let Token::SingleQuotedString(text) = taken else { return None };
            template.add(id, ScalarValue::Utf8(Some(text)));
        }
        template.key.push_str(sql.get(done..)?);
        for (name, of) in &template.parameters[..parameters.len()] {
            template.key.push_str(&format!("\0{name} {of}"));
        }
        Some(template)
    }

    fn add(&mut self, id: String, value: ScalarValue) {
        self.parameters.push((id, value.data_type()));
        self.values.push(value);
    }
}

/// Finds byte offsets of places that are asked for in order.
struct Places<'a> {
    chars: std::iter::Peekable<std::str::CharIndices<'a>>,
    end: usize,
    line: u64,
    column: u64,
}

impl<'a> Places<'a> {
    fn new(sql: &'a str) -> Self {
        Self { chars: sql.char_indices().peekable(), end: sql.len(), line: 1, column: 1 }
    }

    fn offset(&mut self, place: Location) -> Option<usize> {
        while (self.line, self.column) < (place.line, place.column) {
            if self.chars.next()?.1 == '\n' {
                (self.line, self.column) = (self.line + 1, 1);
            } else {
                self.column += 1;
            }
        }
        let here = self.chars.peek().map_or(self.end, |(at, _)| *at);
        ((self.line, self.column) == (place.line, place.column)).then_some(here)
    }
}

/// Where in a SELECT a token stands, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clause {
    /// Before SELECT.
    Start,
    From,
    Where,
    /// Where an expression may name a column of the answer, or has to be the same as another one.
    Other,
}

/// The texts in `tokens` that a column is compared with in a WHERE clause, which shows in no column's name.
fn compared_texts(tokens: &[TokenWithSpan]) -> Vec<usize> {
    let seen: Vec<usize> = (0..tokens.len()).filter(|at| !matches!(tokens[*at].token, Token::Whitespace(_))).collect();
    let token = |nth: usize| seen.get(nth).map(|at| &tokens[*at].token);
    let is_text = |nth: usize| matches!(token(nth), Some(Token::SingleQuotedString(_)));
    let mut found = Vec::new();
    // One a level of brackets, with whether all levels around it may have texts taken out.
    let mut levels = vec![(Clause::Start, true)];
    let mut nth = 0;
    while let Some(here) = token(nth) {
        let Some(&(clause, open)) = levels.last() else { break };
        match here {
            Token::LParen => {
                let inside = if clause == Clause::Where { Clause::Where } else { Clause::Start };
                levels.push((inside, open && clause != Clause::Other));
            }
            Token::RParen if levels.len() > 1 => {
                levels.pop();
            }
            Token::Word(word) if word.quote_style.is_none() => {
                let next = match word.keyword {
                    Keyword::SELECT => Clause::Other,
                    Keyword::FROM => Clause::From,
                    Keyword::WHERE => Clause::Where,
                    Keyword::ON | Keyword::GROUP | Keyword::HAVING | Keyword::ORDER | Keyword::QUALIFY => Clause::Other,
                    _ => clause,
                };
                if let Some(level) = levels.last_mut() {
                    level.0 = next;
                }
                if open && clause == Clause::Where && word.keyword == Keyword::IN && nth > 0 {
                    found.extend(listed(nth + 1, &token).into_iter().map(|nth| seen[nth]));
                }
            }
            Token::Eq | Token::Neq if open && clause == Clause::Where && nth > 0 => {
                let column = matches!(token(nth - 1), Some(Token::Word(_))) || is_tag(nth - 1, &token);
                if column && is_text(nth + 1) && ends_comparison(token(nth + 2)) {
                    found.push(seen[nth + 1]);
                }
            }
            _ => {}
        }
        nth += 1;
    }
    found
}

/// Whether a call such as `tag(tags, 'container')` ends at `close`: a column by another name.
fn is_tag<'a>(close: usize, token: &impl Fn(usize) -> Option<&'a Token>) -> bool {
    let Some(start) = close.checked_sub(5) else { return false };
    let call = [0, 1, 2, 3, 4, 5].map(|at| token(start + at));
    matches!(
        call,
        [
            Some(Token::Word(function)),
            Some(Token::LParen),
            Some(Token::Word(_)),
            Some(Token::Comma),
            Some(Token::SingleQuotedString(_)),
            Some(Token::RParen),
        ] if function.quote_style.is_none() && function.value.eq_ignore_ascii_case("tag")
    )
}

/// The texts of a list in brackets that has nothing else in it.
fn listed<'a>(open: usize, token: &impl Fn(usize) -> Option<&'a Token>) -> Vec<usize> {
    let mut texts = Vec::new();
    let mut at = open;
    if !matches!(token(at), Some(Token::LParen)) {
        return Vec::new();
    }
    loop {
        match (token(at + 1), token(at + 2)) {
            (Some(Token::SingleQuotedString(_)), Some(Token::Comma)) => texts.push(at + 1),
            (Some(Token::SingleQuotedString(_)), Some(Token::RParen)) => {
                texts.push(at + 1);
                return if texts.len() <= MAX_LISTED { texts } else { Vec::new() };
            }
            _ => return Vec::new(),
        }
        at += 2;
    }
}

/// Whether what comes next leaves the text before it alone.
fn ends_comparison(next: Option<&Token>) -> bool {
    match next {
        None | Some(Token::EOF | Token::SemiColon | Token::RParen) => true,
        Some(Token::Word(word)) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::GROUP
                | Keyword::ORDER
                | Keyword::HAVING
                | Keyword::LIMIT
                | Keyword::OFFSET
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    use super::*;

    fn template(sql: &str) -> (String, Vec<String>) {
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap();
        let template = Template::new(sql, &tokens, &[], true).unwrap();
        let texts = template.values.iter().map(|value| match value {
            ScalarValue::Utf8(Some(text)) => text.clone(),
            other => panic!("{other}"),
        });
        (template.key, texts.collect())
    }

    fn texts(sql: &str) -> Vec<String> {
        template(sql).1
    }

    #[test]
    fn texts_that_a_column_is_compared_with_are_taken_out() {
        let sql = "SELECT 'a', max(value)\nFROM metric.\"ö\" -- 'x'\nWHERE host = 'it''s' AND (b <> 'c' OR d.e IN ('f', 'g'))";
        let (key, taken) = template(sql);
        assert_eq!(taken, ["it's", "c", "f", "g"]);
        assert_eq!(key, sql.replace("'it''s'", "\0").replace("'c'", "\0").replace("'f'", "\0").replace("'g'", "\0"));
        assert_eq!(texts("WITH w AS (SELECT 1 FROM a WHERE b = 'c') SELECT 1 FROM w WHERE d = 'e';"), ["c", "e"]);
        assert_eq!(
            texts("SELECT 1 FROM (SELECT 1 FROM a WHERE b = 'c') x WHERE d IN (SELECT e FROM f WHERE g = 'h')"),
            ["c", "h"]
        );
        assert_eq!(texts("SELECT 1 FROM samples WHERE tag(tags, 'host') = 'a' AND Tag(t, 'b') IN ('c')"), ["a", "c"]);
    }

    #[test]
    fn texts_that_may_name_a_column_or_be_part_of_more_stay() {
        for sql in [
            "SELECT host = 'a' FROM x",
            "SELECT count(*) FILTER (WHERE host = 'a') FROM x",
            "SELECT (SELECT max(value) FROM y WHERE host = 'a') FROM x",
            "SELECT 1 FROM x GROUP BY host = 'a' HAVING host = 'b' ORDER BY host = 'c'",
            "SELECT 1 FROM x WHERE host = 'a' || 'b'",
            "SELECT 1 FROM x WHERE host = 'a'::text",
            "SELECT 1 FROM x WHERE 'a' = host AND host LIKE 'b' AND time > '2026-01-01'",
            "SELECT 1 FROM x JOIN y ON x.a = 'b'",
            "SELECT 1 FROM x WHERE a IN ('b', upper('c'))",
            "SELECT 1 FROM x WHERE upper(a, 'b') = 'c' AND \"tag\"(a, 'b') = 'c' AND tag(a, b) = 'c' AND tag(a, 'b') || 'c' = 'd'",
        ] {
            assert!(texts(sql).is_empty(), "{sql}: {:?}", texts(sql));
        }
    }

    #[test]
    fn parameters_need_values_and_values_need_parameters() {
        let sql = "SELECT $a + $1";
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap();
        let number = |text: &str| Parameter::Number(text.to_owned());
        let given = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), number("-1.5"))).collect::<Vec<_>>();
        assert!(check(&tokens, &given(&["a", "1"])).is_ok());
        let missing = check(&tokens, &given(&["a"])).unwrap_err();
        assert_eq!((missing.message.as_str(), missing.column), ("no value is given for the parameter $1", Some(13)));
        let unused = check(&tokens, &given(&["a", "1", "b"])).unwrap_err();
        assert_eq!(unused.message, "the query has no parameter $b");
        let spelled = spelled_out(&tokens, &given(&["a", "1"]));
        let spelled: String = spelled.iter().map(|token| token.token.to_string()).collect();
        assert_eq!(spelled, "SELECT (-1.5) + (-1.5)");
        assert_eq!(number("18446744073709551615").value(), Some(ScalarValue::UInt64(Some(u64::MAX))));
        assert_eq!(number("1.5").value(), Some(ScalarValue::Float64(Some(1.5))));
    }
}
