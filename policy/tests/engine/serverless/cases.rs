//! Reference cases: where they lie, which of them are to be met, and how answers are compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::conformance::{OWN, files};

pub struct Case {
    pub id: String,
    pub input: Value,
    pub out: Value,
}

/// The cases of one kind in one tree.
pub struct Tree {
    pub cases: Vec<Case>,
    /// `default`, and by name the overrides of its rules.
    pub rulesets: Value,
    from: PathBuf,
    kind: String,
    defects: usize,
}

/// The cases of a kind in all trees that have some.
pub fn trees(kind: &str) -> Vec<Tree> {
    let files = files("serverless-containers/guardian_cases.jsonl");
    let trees: Vec<Tree> = files.into_iter().filter_map(|file| Tree::read(file, kind)).collect();
    assert!(!trees.is_empty(), "no cases of kind {kind} in {OWN}");
    trees
}

impl Tree {
    fn read(from: PathBuf, kind: &str) -> Option<Self> {
        let text = std::fs::read_to_string(&from).unwrap();
        // A tree without rules of its own is about the known ones.
        let rulesets = std::fs::read_to_string(from.with_file_name("rulesets.json"))
            .or_else(|_| std::fs::read_to_string(Path::new(OWN).join("serverless-containers/rulesets.json")));
        let mut tree = Self {
            cases: Vec::new(),
            rulesets: serde_json::from_str(&rulesets.unwrap()).unwrap(),
            from,
            kind: kind.to_owned(),
            defects: 0,
        };
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let mut case: Map<String, Value> = serde_json::from_str(line).unwrap();
            if case["kind"] != kind {
                continue;
            }
            // What a better product does not copy.
            if case.get("note").and_then(Value::as_str).is_some_and(|note| note.starts_with("DEFECT")) {
                tree.defects += 1;
                continue;
            }
            let mut take = |name: &str| case.remove(name).unwrap();
            let id = take("id").as_str().unwrap().to_owned();
            tree.cases.push(Case { id, input: take("in"), out: take("out") });
        }
        (tree.defects > 0 || !tree.cases.is_empty()).then_some(tree)
    }

    /// Prints how many answers agree and fails when one does not. What cannot be said to the pack stands in `left_out`, with
    /// the reason.
    pub fn compare(&self, answers: &BTreeMap<String, Value>, left_out: &BTreeMap<String, String>) {
        let mut wrong = Vec::new();
        for case in self.cases.iter().filter(|case| !left_out.contains_key(&case.id)) {
            let answer = answers.get(&case.id).unwrap_or_else(|| panic!("{}: no answer", case.id));
            if let Some(difference) = difference(&case.out, answer, "") {
                wrong.push(format!("{}{difference}\n  in: {}", case.id, short(&case.input)));
            }
        }
        println!(
            "{}: kind {}, {} cases, {} agreed, {} marked as defects of the original, {} that cannot be expressed",
            self.from.canonicalize().unwrap().display(),
            self.kind,
            self.cases.len(),
            self.cases.len() - left_out.len() - wrong.len(),
            self.defects,
            left_out.len(),
        );
        for (id, why) in left_out {
            println!("  {id} cannot be expressed: {why}");
        }
        assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    }
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(400).collect()
}

/// What two answers differ in: numbers count by their value, and of Python's own exceptions only that there is one.
fn difference(wanted: &Value, found: &Value, at: &str) -> Option<String> {
    match (wanted, found) {
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => None,
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys()).filter(|key| !["exc", "summary"].contains(&key.as_str()));
            // To remove no events of a name is to remove none.
            let counts = at.ends_with(".remove") || at.ends_with(".removed");
            let of = |map: &Map<String, Value>, key| {
                map.get(key).filter(|value| !(counts && value.as_f64() == Some(0.0))).cloned().unwrap_or(Value::Null)
            };
            keys.into_iter().find_map(|key| difference(&of(a, key), &of(b, key), &format!("{at}.{key}")))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            (0..a.len()).find_map(|n| difference(&a[n], &b[n], &format!("{at}[{n}]")))
        }
        (Value::String(a), Value::String(_)) if at.ends_with(".error") && a.contains(' ') => None,
        (a, b) if a == b => None,
        (a, b) => Some(format!("{at}: expected {}, found {}", short(a), short(b))),
    }
}
