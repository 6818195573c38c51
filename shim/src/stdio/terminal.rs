//! The terminal that this process runs on.

use std::io;

use bulkhead_protocol::WindowSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Raw mode of standard input's terminal, undone when dropped.
#[derive(Debug)]
pub struct RawMode(Termios);

impl RawMode {
    /// Makes standard input's terminal raw. `None` when standard input is no terminal.
    ///
    /// # Errors
    /// That of `tcsetattr`.
    pub fn enter() -> io::Result<Option<Self>> {
        let Ok(before) = tcgetattr(io::stdin()) else { return Ok(None) };
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// The size of standard output's terminal, or standard input's.
#[must_use]
pub fn window_size() -> Option<WindowSize> {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())).ok()?;
    (size.ws_row > 0 && size.ws_col > 0)
        .then_some(WindowSize { rows: size.ws_row, columns: size.ws_col })
}
