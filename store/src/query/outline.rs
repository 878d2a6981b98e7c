//! Texts that differ in nothing but what stands between quotes.
//!
//! Which texts are taken out of a query depends on how it is built and not on what they say. So once one query was read,
//! those of the same outline need not be: what the plan is kept as, and the values that it is run with, are found by copying.

use datafusion::common::ScalarValue;

use super::parameter::Template;

/// A query's text without what stands between single quotes.
pub(crate) struct Outline<'a> {
    /// The text with nothing between the quotes.
    pub(crate) text: String,
    /// What stands before each text and its quotes, and the text; at last what stands behind the last one.
    parts: Vec<(&'a str, &'a str)>,
    rest: &'a str,
}

impl<'a> Outline<'a> {
    /// `None` where quotes may mean something else: in comments, behind a letter, beside a backslash, a dollar or a backtick,
    /// or doubled.
    pub(crate) fn new(sql: &'a str) -> Option<Self> {
        let bytes = sql.as_bytes();
        let mut outline = Outline { text: String::with_capacity(sql.len()), parts: Vec::new(), rest: sql };
        let (mut at, mut done) = (0, 0);
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'\'' => {
                    let before = at.checked_sub(1).map_or(b' ', |before| bytes[before]);
                    let length = bytes[at + 1..].iter().position(|byte| *byte == b'\'')?;
                    let end = at + 1 + length;
                    let behind = bytes.get(end + 1).copied().unwrap_or(b' ');
                    let joined = |byte: u8| byte.is_ascii_alphanumeric() || !byte.is_ascii() || b"_&'".contains(&byte);
                    let text = sql.get(at + 1..end)?;
                    if joined(before) || joined(behind) || text.contains(['\\', '\0']) {
                        return None;
                    }
                    outline.text.push_str(sql.get(done..at)?);
                    outline.text.push_str("''");
                    outline.parts.push((sql.get(done..at)?, text));
                    at = end + 1;
                    done = at;
                }
                // A name, in which quotes are nothing else.
                b'"' => at += 2 + bytes[at + 1..].iter().position(|byte| *byte == b'"')?,
                b'\\' | b'$' | b'`' | 0 => return None,
                b'-' if bytes.get(at + 1) == Some(&b'-') => return None,
                b'/' if bytes.get(at + 1) == Some(&b'*') => return None,
                b'#' => return None,
                _ => at += 1,
            }
        }
        outline.rest = sql.get(done..)?;
        outline.text.push_str(outline.rest);
        Some(outline)
    }

    /// Which of the texts `template`, which was made of this one, has taken out; `None` where that does not lead back to it.
    pub(crate) fn taken(&self, template: &Template) -> Option<Vec<bool>> {
        let mut key = template.key.as_str();
        let mut taken = Vec::with_capacity(self.parts.len());
        for (before, text) in &self.parts {
            key = key.strip_prefix(before)?;
            let without = key.strip_prefix('\0');
            taken.push(without.is_some());
            key = match without {
                Some(rest) => rest,
                None => key.strip_prefix('\'')?.strip_prefix(text)?.strip_prefix('\'')?,
            };
        }
        let (again, values) = self.filled(&taken);
        (again == template.key && values == template.values).then_some(taken)
    }

    /// The key and the values of a template of this text in which those texts were taken out.
    pub(crate) fn filled(&self, taken: &[bool]) -> (String, Vec<ScalarValue>) {
        let mut key = String::with_capacity(self.text.len() + 64);
        let mut values = Vec::new();
        for ((before, text), taken) in self.parts.iter().zip(taken) {
            key.push_str(before);
            if *taken {
                key.push('\0');
                values.push(ScalarValue::Utf8(Some((*text).to_owned())));
            } else {
                key.push('\'');
                key.push_str(text);
                key.push('\'');
            }
        }
        key.push_str(self.rest);
        (key, values)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;
    use proptest::prelude::*;

    use super::*;

    fn template(sql: &str) -> Option<Template> {
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().ok()?;
        Template::new(sql, &tokens, &[], true)
    }

    #[test]
    fn texts_of_one_outline_share_what_is_taken_out() {
        let sql = |one: &str, two: &str, hour: &str| {
            format!(
                "SELECT 'x' FROM metric.\"it's\" WHERE a = '{one}' AND b IN ('{two}', 'z') AND time > now() - INTERVAL '{hour}'"
            )
        };
        let first = sql("ä", "", "1 hour");
        let taken = Outline::new(&first).unwrap().taken(&template(&first).unwrap()).unwrap();
        assert_eq!(taken, [false, true, true, true, false]);
        let second = sql("b", "c d", "2 hours");
        let outline = Outline::new(&second).unwrap();
        assert_eq!(outline.text, Outline::new(&first).unwrap().text);
        let expected = template(&second).unwrap();
        assert_eq!(outline.filled(&taken), (expected.key, expected.values));
    }

    #[test]
    fn quotes_that_may_mean_something_else_have_no_outline() {
        for sql in [
            "a = 'it''s'",
            "a -- 'x'",
            "/* 'x' */ 1",
            "E'x'",
            "U&'x'",
            "x'00'",
            "$$'$$",
            "'a\\'",
            "`'`",
            "'a",
            "\"a",
            "ä'x'",
        ] {
            assert!(Outline::new(sql).is_none(), "{sql}");
        }
        assert!(Outline::new("SELECT 1 - 2 / 3").is_some());
    }

    proptest! {
        /// What an outline leads to is what reading the text leads to, whatever stands between the quotes and around them.
        #[test]
        fn filling_an_outline_gives_the_template_of_the_text(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "SELECT ", "FROM m ", "WHERE ", "a = ", "b IN (", ", ", ") ", "AND ", "OR ", "''", "'?'", "'?'", "'?' ", "\"q'q\" ",
                    "tag(tags, 'k') = ", "INTERVAL ", "<> ", "- ", "--", "/*", "*/", "E", "$", "ä", "\n", "GROUP BY ", "(",
                ]),
                0..14,
            ),
            texts in prop::collection::vec("[ -~äö]{0,6}", 2),
        ) {
            let form = format!("SELECT 1 FROM m WHERE {}", parts.concat());
            let first = form.replace('?', &texts[0]);
            let second = form.replace('?', &texts[1]);
            let (Some(one), Some(other)) = (Outline::new(&first), Outline::new(&second)) else { return Ok(()) };
            if one.text == other.text
                && let Some(template_of_one) = template(&first)
                && let Some(taken) = one.taken(&template_of_one)
            {
                let expected = template(&second);
                prop_assert!(expected.is_some(), "{} is read and {} is not", first, second);
                let expected = expected.unwrap();
                prop_assert_eq!(other.filled(&taken), (expected.key, expected.values));
            }
        }
    }
}
