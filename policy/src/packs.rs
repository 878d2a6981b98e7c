//! The rule packs that ship with Tidegate: files of rule statements that a person can read, change and keep. None of them
//! states a mode, so new rules start in the configured one.

use serde::Serialize;

use crate::parse::{self, Statement};

/// A shipped pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Its name: that of its file, but for `default`, which is made of two.
    pub name: &'static str,
    /// Its rule statements.
    pub sql: &'static str,
}

/// What a list of packs shows of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackSummary {
    /// Its name.
    pub name: &'static str,
    /// Its first sentence.
    pub summary: String,
    /// The names of its rules.
    pub rules: Vec<String>,
    /// Its rule statements.
    pub sql: &'static str,
}

macro_rules! text {
    ($name:literal) => {
        include_str!(concat!("../packs/", $name, ".sql"))
    };
}

/// The rules that a new server begins with: the packs hybrid and memory, one behind the other.
pub const DEFAULT_PACK: &str = concat!(
    "-- Limits that follow usage: the packs hybrid, for CPU, and memory. What a server begins with.\n\n",
    text!("hybrid"),
    "\n",
    text!("memory")
);

/// All packs, the one for everybody first.
pub const PACKS: [Pack; 11] = [
    Pack { name: "default", sql: DEFAULT_PACK },
    Pack { name: "hybrid", sql: text!("hybrid") },
    Pack { name: "memory", sql: text!("memory") },
    Pack { name: "cautious", sql: text!("cautious") },
    Pack { name: "captain", sql: text!("captain") },
    Pack { name: "percentile", sql: text!("percentile") },
    Pack { name: "serverless", sql: text!("serverless") },
    Pack { name: "deadline", sql: text!("deadline") },
    Pack { name: "rebalance", sql: text!("rebalance") },
    Pack { name: "disk", sql: text!("disk") },
    Pack { name: "network", sql: text!("network") },
];

/// A pack by its name.
pub fn pack(name: &str) -> Option<Pack> {
    PACKS.into_iter().find(|pack| pack.name == name)
}

impl Pack {
    /// What a list shows of it.
    pub fn summary(&self) -> PackSummary {
        let comment: Vec<&str> = self.sql.lines().map_while(|line| line.strip_prefix("--")).map(str::trim).collect();
        let first = comment.split(|line| line.is_empty()).next().unwrap_or_default().join(" ");
        let statements = parse::parse(self.sql).unwrap_or_default();
        let rules = statements.into_iter().filter_map(|statement| match statement {
            Statement::Create { name, .. } => Some(name.value),
            _ => None,
        });
        PackSummary { name: self.name, summary: first, rules: rules.collect(), sql: self.sql }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_file_is_a_pack_that_says_what_it_is() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/packs")).unwrap();
        let files: BTreeSet<String> =
            files.map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
        let packs: BTreeSet<String> =
            PACKS.iter().map(|pack| pack.name.to_owned()).filter(|name| name != "default").collect();
        assert_eq!(packs, files);
        for pack in PACKS {
            let summary = pack.summary();
            assert!(summary.summary.len() > 20 && !summary.rules.is_empty(), "{}: {summary:?}", pack.name);
            for statement in parse::parse(pack.sql).unwrap() {
                let Statement::Create { options, .. } = statement else { continue };
                assert!(options.iter().all(|option| option.name.value != "mode"), "{} states a mode", pack.name);
            }
        }
    }
}
