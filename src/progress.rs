//! A progress bar on standard error, where that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// Bytes done of bytes in all; gone from the terminal when dropped.
pub struct Progress(ProgressBar);

impl Progress {
    pub fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = "{bar:30} {bytes}/{total_bytes} {eta} {msg}";
        // A template that does not parse leaves the plain bar.
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Shows that `done` of `all` bytes are done, and what comes next.
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
