//! How a command ended, and what every failure of bulkhead's own must look like.

use std::os::unix::process::ExitStatusExt;

/// How a command ended and what it wrote.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its arguments, for messages.
    pub command: String,
    /// How it ended.
    pub status: std::process::ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// Its exit code; that it was killed fails the test.
    #[must_use]
    pub fn code(&self) -> i32 {
        let signal = self.status.signal();
        self.status.code().unwrap_or_else(|| panic!("killed by signal {signal:?}: {self}"))
    }

    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The rest of the first line of standard output that begins with `key` and a blank.
    #[must_use]
    pub fn value(&self, key: &str) -> String {
        let text = self.text();
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no line \"{key} …\": {self}")).trim_end().to_owned()
    }

    /// It ended with this code.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.code(), code, "{self}");
        self
    }

    /// It ended well and wrote nothing to standard error.
    #[track_caller]
    pub fn assert_clean(&self) -> &Self {
        self.assert_code(0);
        assert_eq!(self.error_text(), "", "{self}");
        self
    }

    /// It failed with this code, wrote nothing to standard output, and one line to standard error that begins with
    /// `bulkhead: ` and has each of `names` in it.
    #[track_caller]
    pub fn assert_refused(&self, code: i32, names: &[&str]) -> &Self {
        self.assert_code(code);
        assert_eq!(self.text(), "", "{self}");
        let error = self.error_text();
        assert_eq!(error.lines().count(), 1, "one line is wanted: {self}");
        assert!(error.starts_with("bulkhead: ") && error.ends_with('\n'), "{self}");
        assert!(error.len() < 1200, "a line, not a page: {self}");
        assert!(!error.contains("thread '"), "a panic of the program: {self}");
        for name in names {
            assert!(
                error.to_lowercase().contains(&name.to_lowercase()),
                "it does not say \"{name}\": {self}"
            );
        }
        self
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cut = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            let text = text.chars().rev().take(4000).collect::<Vec<_>>();
            text.into_iter().rev().collect::<String>()
        };
        let (out, error) = (cut(&self.stdout), cut(&self.stderr));
        write!(
            f,
            "`{}`: {}\n--- stdout\n{out}\n--- stderr\n{error}\n---",
            self.command, self.status
        )
    }
}
