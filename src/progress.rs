//! A progress bar on standard error, where that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A part done of a whole; gone from the terminal when dropped.
pub struct Progress(ProgressBar);

impl Progress {
    /// Bytes done of bytes in all.
    pub fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = "{bar:30} {bytes}/{total_bytes} {eta} {msg}";
        // A template that does not parse leaves the plain bar.
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Instants done of instants in all.
    pub fn of_instants() -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Shows that `done` of `all` are done, and what comes next.
    pub fn at(&self, what: &str, done: u64, all: u64) {
        self.0.set_length(all);
        self.0.set_position(done);
        if !what.is_empty() {
            self.0.set_message(what.to_owned());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
