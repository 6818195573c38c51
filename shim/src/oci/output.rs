//! Standard output. Who closed it does not want to read.

use std::io::{self, Write};

use serde::Serialize;

/// Writes text as it is.
pub(super) fn text(text: &str) {
    // The exit code says what was done.
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

/// Writes JSON on one line.
pub(super) fn json_line(value: &impl Serialize) {
    if let Ok(line) = serde_json::to_string(value) {
        text(&format!("{line}\n"));
    }
}

/// JSON on many lines, indented by `indent`.
pub(super) fn pretty(value: &impl Serialize, indent: &str) -> String {
    let mut out = Vec::with_capacity(1024);
    let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // Maps with text as keys and a buffer that grows: nothing can fail.
    let _ = value.serialize(&mut serializer);
    String::from_utf8(out).unwrap_or_default()
}
