//! Reference cases: the project's fixtures, and further trees laid out like them, from the path list in the environment
//! variable `TIDEGATE_CONFORMANCE`.

use std::path::{Path, PathBuf};

/// The project's own copy.
pub const OWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/conformance");

/// The files at `path` below the fixtures and below each further tree, as far as they are there.
pub fn files(path: &str) -> Vec<PathBuf> {
    let more = std::env::var_os("TIDEGATE_CONFORMANCE").unwrap_or_default();
    let trees = std::iter::once(PathBuf::from(OWN)).chain(std::env::split_paths(&more));
    trees.map(|tree| tree.join(path)).filter(|file| file.exists()).collect()
}

/// How a file's cases compare.
#[derive(Default)]
pub struct Tally {
    pub cases: usize,
    pub agreed: usize,
    /// Cases that cannot be compared, and why.
    pub left_out: Vec<String>,
    pub wrong: Vec<String>,
}

impl Tally {
    /// Counts one case.
    pub fn count(&mut self, agrees: bool, tell: impl FnOnce() -> String) {
        self.cases += 1;
        self.agreed += usize::from(agrees);
        if !agrees {
            self.wrong.push(tell());
        }
    }

    /// Says how many cases there were, and fails on one that does not agree.
    pub fn conclude(&self, file: &Path, of: &str) {
        println!("{}: {} {of} compared, {} agreed", file.display(), self.cases, self.agreed);
        for why in &self.left_out {
            println!("  not compared: {why}");
        }
        assert!(self.cases > 0, "{} holds no cases", file.display());
        assert_eq!(self.wrong, Vec::<String>::new());
    }
}
