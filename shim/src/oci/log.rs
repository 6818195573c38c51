//! The log, in runc's two forms: tools read errors out of the JSON one.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::lifecycle::time;

/// How a line is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// `time="…" level=error msg="…"`.
    #[default]
    Text,
    /// `{"level":"error","msg":"…","time":"…"}`.
    Json,
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Only with `--debug`.
    Debug,
    /// Something was left out or failed that does not matter to the verb.
    Warning,
    /// The verb failed.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Where lines go: a file, or standard error.
#[derive(Debug, Default)]
pub struct Log {
    file: Option<File>,
    format: Format,
    debug: bool,
}

impl Log {
    /// A log to a file that is appended to; `None`: standard error.
    ///
    /// # Errors
    /// That of opening the file.
    pub fn open(path: Option<&Path>, format: Format, debug: bool) -> io::Result<Self> {
        let open = |path| OpenOptions::new().append(true).create(true).mode(0o644).open(path);
        Ok(Self { file: path.map(open).transpose()?, format, debug })
    }

    /// Writes one line. An error goes to standard error, too, where the log is elsewhere.
    pub fn line(&self, level: Level, message: &str) {
        if level == Level::Debug && !self.debug {
            return;
        }
        let time = time::now_in_seconds();
        let text = |format| match format {
            Format::Json => {
                let message = serde_json::Value::from(message);
                format!(
                    "{{\"level\":\"{}\",\"msg\":{message},\"time\":\"{time}\"}}\n",
                    level.name()
                )
            }
            Format::Text => {
                format!("time=\"{time}\" level={} msg={}\n", level.name(), quoted(message))
            }
        };
        // Where the log cannot be written, nobody can be told.
        let _ = match &self.file {
            Some(file) => (&*file).write_all(text(self.format).as_bytes()),
            None => io::stderr().write_all(text(self.format).as_bytes()),
        };
        if self.file.is_some() && level == Level::Error {
            let _ = writeln!(io::stderr(), "{message}");
        }
    }
}

/// As Go's `%q`: in quotes, and on one line.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.extend(c.escape_unicode()),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_forms_that_tools_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::open(Some(&path), Format::Json, false).unwrap();
        log.line(Level::Warning, "a \"b\"\nc");
        log.line(Level::Debug, "not this");
        let text = std::fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["level"], &line["msg"]), (&"warning".into(), &"a \"b\"\nc".into()));
        assert!(line["time"].as_str().unwrap().ends_with('Z') && text.ends_with("}\n"));

        let log = Log::open(Some(&path), Format::Text, true).unwrap();
        log.line(Level::Debug, "a \"b\"\nc");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("level=debug msg=\"a \\\"b\\\"\\nc\"\n"), "{text}");
    }
}
