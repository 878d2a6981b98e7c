//! Which containers a rule is for: a filter over their labels, written as label selectors are elsewhere.

use std::fmt;
use std::str::FromStr;

use tidegate_model::{Container, ContainerKey};

/// A filter such as `app = shop, tier in (web, api), !batch`: all of its terms must hold. A key is `host`, `container`,
/// `app`, `user`, `runtime`, `cgroup` (`v1` or `v2`) or the name of a label; `*` in a value stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    key: String,
    /// What the value is compared with; `None` asks only whether there is one.
    values: Option<Vec<String>>,
    /// Whether the term holds where the comparison does not. A container without the key has no value that is equal.
    negated: bool,
}

impl Scope {
    /// Whether the container is one that the rule is for. Of a container that is not known, only host and name are.
    pub fn holds(&self, key: &ContainerKey, known: Option<&Container>) -> bool {
        self.0.iter().all(|term| {
            let value = value_of(&term.key, key, known);
            let found = match &term.values {
                None => value.is_some(),
                Some(values) => value.is_some_and(|value| values.iter().any(|pattern| fits(pattern, value))),
            };
            found != term.negated
        })
    }
}

fn value_of<'a>(name: &str, key: &'a ContainerKey, known: Option<&'a Container>) -> Option<&'a str> {
    match name {
        "host" => Some(&key.host),
        "container" => Some(&key.name),
        "app" => known?.app.as_deref(),
        "user" => known?.user.as_deref(),
        "runtime" => known.map(|container| container.runtime.as_str()),
        "cgroup" => known.map(|container| container.cgroup.as_str()),
        label => known?.labels.get(label).map(String::as_str),
    }
}

/// Whether `value` is `pattern`, in which each `*` stands for any characters.
fn fits(pattern: &str, value: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = value.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        // The earliest place leaves the most for what follows.
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Term { key, values, negated }) in self.0.iter().enumerate() {
            f.write_str(if at > 0 { ", " } else { "" })?;
            match (values.as_deref(), negated) {
                (None, false) => write!(f, "{key}")?,
                (None, true) => write!(f, "!{key}")?,
                (Some([value]), false) => write!(f, "{key} = {value}")?,
                (Some([value]), true) => write!(f, "{key} != {value}")?,
                (Some(values), false) => write!(f, "{key} in ({})", values.join(", "))?,
                (Some(values), true) => write!(f, "{key} not in ({})", values.join(", "))?,
            }
        }
        Ok(())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut reader = Reader(text.trim());
        let mut terms = Vec::new();
        loop {
            terms.push(reader.term()?);
            if reader.0.is_empty() {
                return Ok(Self(terms));
            }
            reader.expect(",")?;
        }
    }
}

struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn term(&mut self) -> Result<Term, String> {
        let absent = self.accept("!");
        let key = self.word("a key such as app, container or a label's name")?;
        if absent {
            return Ok(Term { key, values: None, negated: true });
        }
        if self.accept("!=") {
            return Ok(Term { key, values: Some(vec![self.word("a value")?]), negated: true });
        }
        if self.accept("==") || self.accept("=") {
            return Ok(Term { key, values: Some(vec![self.word("a value")?]), negated: false });
        }
        let negated = self.accept_word("not");
        if !self.accept_word("in") {
            if negated {
                return Err(self.wanted("'in' behind 'not'"));
            }
            return Ok(Term { key, values: None, negated: false });
        }
        self.expect("(")?;
        let mut values = vec![self.word("a value")?];
        while self.accept(",") {
            values.push(self.word("a value")?);
        }
        self.expect(")")?;
        Ok(Term { key, values: Some(values), negated })
    }

    fn accept(&mut self, text: &str) -> bool {
        let Some(rest) = self.0.strip_prefix(text) else { return false };
        self.0 = rest.trim_start();
        true
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let found = self.0[..word_end(self.0)].eq_ignore_ascii_case(word);
        found && self.accept(&self.0[..word.len()])
    }

    fn expect(&mut self, text: &str) -> Result<(), String> {
        if self.accept(text) { Ok(()) } else { Err(self.wanted(&format!("'{text}'"))) }
    }

    fn word(&mut self, wanted: &str) -> Result<String, String> {
        let end = word_end(self.0);
        if end == 0 {
            return Err(self.wanted(wanted));
        }
        let word = self.0[..end].to_owned();
        self.0 = self.0[end..].trim_start();
        Ok(word)
    }

    fn wanted(&self, wanted: &str) -> String {
        let found = if self.0.is_empty() { "the end".to_owned() } else { format!("'{}'", self.0) };
        format!("expected {wanted}, found {found}; a scope is written like 'app = shop, tier in (web, api), !batch'")
    }
}

/// Words have no spaces, commas, parentheses, equal or exclamation signs.
fn word_end(text: &str) -> usize {
    text.find(|c: char| c.is_whitespace() || ",()=!".contains(c)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use tidegate_model::{CgroupVersion, Runtime, TimeMs};

    fn container(app: Option<&str>, labels: &[(&str, &str)]) -> Container {
        Container {
            key: ContainerKey { host: "node0".to_owned(), name: "web-1".to_owned() },
            path: "/docker/1".into(),
            cgroup: CgroupVersion::V2,
            runtime: Runtime::Docker,
            id: "1".to_owned(),
            incarnation: 1,
            app: app.map(str::to_owned),
            user: None,
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            first_seen: TimeMs(0),
            last_seen: TimeMs(0),
            baseline: BTreeMap::new(),
            bounds: BTreeMap::new(),
        }
    }

    #[test]
    fn all_terms_must_hold() {
        let web = container(Some("shop"), &[("tier", "web"), ("com.example/team", "red")]);
        let holds = |scope: &str| scope.parse::<Scope>().unwrap().holds(&web.key, Some(&web));
        for scope in [
            "app = shop",
            "app=shop,tier in (api,web)",
            "tier",
            "!batch",
            "runtime = docker, host = node*, container = w*b-*, com.example/team == red",
            "app != cart",
            "user != alice",
            "tier NOT IN (api, db)",
        ] {
            assert!(holds(scope), "{scope}");
        }
        for scope in
            ["app = cart", "app = shop, batch", "!tier", "user = alice", "user", "tier not in (web)", "app != s*"]
        {
            assert!(!holds(scope), "{scope}");
        }
    }

    #[test]
    fn of_an_unknown_container_only_host_and_name_are_known() {
        let key = container(None, &[]).key;
        let holds = |scope: &str| scope.parse::<Scope>().unwrap().holds(&key, None);
        assert!(
            holds("host = node0, container = web-*")
                && holds("app != shop")
                && !holds("app")
                && !holds("runtime = docker")
        );
    }

    #[test]
    fn a_mistake_is_told_where_it_stands() {
        let error = |scope: &str| scope.parse::<Scope>().unwrap_err();
        assert!(error("").contains("expected a key"), "{}", error(""));
        assert!(error("app = shop tier").contains("expected ',', found 'tier'"));
        assert!(error("app in shop").contains("expected '(', found 'shop'"));
        assert!(error("app =").contains("expected a value, found the end"));
        assert!(error("app = a,").contains("expected a key"));
        assert!(error("app not (a)").contains("'in' behind 'not'"));
    }

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, value) in
            [("*", ""), ("a*", "a"), ("*b", "ab"), ("a*b*c", "a-b-b-c"), ("*-*", "x-y"), ("ab", "ab")]
        {
            assert!(fits(pattern, value), "{pattern} {value}");
        }
        for (pattern, value) in [("a*", "ba"), ("a*a", "a"), ("a*b*c", "acb"), ("ab", "abc"), ("", "a")] {
            assert!(!fits(pattern, value), "{pattern} {value}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_was_read_reads_the_same_again(text in "[a-z!=,() *innot]{0,24}") {
            if let Ok(scope) = text.parse::<Scope>() {
                prop_assert_eq!(scope.to_string().parse::<Scope>(), Ok(scope));
            }
        }
    }
}
