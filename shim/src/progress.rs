//! Progress bars of an import, one per layer, on standard error when that is a terminal.

use std::sync::{Mutex, PoisonError};

use bulkhead_rootfs::{Digest, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The bars. They vanish when the import ends.
#[derive(Debug)]
pub struct Bars {
    all: MultiProgress,
    layers: Mutex<Vec<(usize, ProgressBar)>>,
}

impl Bars {
    /// Bars on standard error; hidden when it is no terminal.
    #[must_use]
    pub fn for_stderr() -> Self {
        Self::on(ProgressDrawTarget::stderr())
    }

    /// Bars that are not shown.
    #[must_use]
    pub fn hidden() -> Self {
        Self::on(ProgressDrawTarget::hidden())
    }

    fn on(target: ProgressDrawTarget) -> Self {
        Self { all: MultiProgress::with_draw_target(target), layers: Mutex::default() }
    }

    fn with(&self, number: usize, act: impl FnOnce(&ProgressBar)) {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bar)) = layers.iter().find(|(known, _)| *known == number) {
            act(bar);
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // A terminal that is gone needs no cleaning.
        let _ = self.all.clear();
    }
}

impl Progress for Bars {
    fn layer_started(&self, number: usize, count: usize, digest: &Digest, bytes: u64) {
        let style = ProgressStyle::with_template(
            "{prefix} [{wide_bar}] {bytes:>11} of {total_bytes:<11} {eta:>4}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
        let name = digest.to_string();
        let short =
            name.split_once(':').map_or(name.as_str(), |(_, hex)| hex).get(..12).unwrap_or(&name);
        let bar = self.all.add(ProgressBar::new(bytes).with_style(style));
        bar.set_prefix(format!("layer {}/{count} {short}", number + 1));
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).push((number, bar));
    }

    fn layer_advanced(&self, number: usize, bytes: u64) {
        self.with(number, |bar| bar.set_position(bytes));
    }

    fn layer_finished(&self, number: usize, _reused: bool) {
        self.with(number, ProgressBar::finish);
    }
}
