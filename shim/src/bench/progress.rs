//! How far a bench is, on standard error when that is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar that goes with its owner.
#[derive(Debug)]
pub struct Steps(ProgressBar);

impl Steps {
    /// So many steps are to be done.
    #[must_use]
    pub fn new(count: u64) -> Self {
        // It is drawn when a step begins: a thread of its own would disturb what is measured.
        let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg:<28} [{wide_bar}] {pos}/{len} {eta:>5}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        Self(bar)
    }

    /// The next step begins.
    pub fn begin(&self, what: &str) {
        self.0.set_message(what.to_owned());
        self.0.tick();
    }

    /// It is done.
    pub fn done(&self) {
        self.0.inc(1);
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
