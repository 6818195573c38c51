//! A runtime with runc's command line, and one container's life under it.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Read,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    BenchError,
    process::{self, Ended, Unended},
    work::Remover,
};
use crate::tail::last_line;

/// So much of what a container or runtime wrote is looked at.
const MAX_OUTPUT: u64 = 16 << 10;
/// How long a process may take to end that was killed.
const DEATH: Duration = Duration::from_secs(10);

/// What a runtime makes of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A microVM that boots.
    Cold,
    /// A microVM cloned of a template below this directory.
    Clone {
        /// The templates; nobody else uses them.
        templates: PathBuf,
    },
    /// A plain container.
    Plain,
}

/// A runtime.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Its name for programs.
    pub key: String,
    /// Its name for people.
    pub name: String,
    /// What it makes.
    pub kind: Kind,
    /// The program.
    pub program: PathBuf,
    /// What stands before the verb.
    pub arguments: Vec<String>,
    /// Where it keeps state.
    pub root: PathBuf,
    /// How long a verb or the program may take.
    pub limit: Duration,
}

/// Where one container at a time lives.
#[derive(Debug, Clone)]
pub struct Slot {
    /// The bundle, and room for files beside its `config.json`.
    pub bundle: PathBuf,
    /// The container's name.
    pub id: String,
}

impl Slot {
    fn file(&self, name: &str) -> PathBuf {
        self.bundle.join(name)
    }

    /// The beginning of what the container wrote.
    #[must_use]
    pub fn output(&self) -> Vec<u8> {
        let mut output = Vec::new();
        // What cannot be read says nothing.
        let _ = File::open(self.file("output"))
            .and_then(|file| file.take(MAX_OUTPUT).read_to_end(&mut output));
        output
    }
}

impl Runtime {
    /// How its containers are removed.
    #[must_use]
    pub fn remover(&self) -> Remover {
        Remover {
            program: self.program.clone(),
            arguments: self.arguments.clone(),
            root: self.root.clone(),
        }
    }

    /// Makes the container, which waits for its start; returns the process that stands for it and what the making cost.
    ///
    /// # Errors
    /// [`BenchError`]; what is half made goes with the bench's directories.
    pub fn create(&self, slot: &Slot) -> Result<(Pid, Ended), BenchError> {
        let output = File::create(slot.file("output"));
        let output = output.map_err(BenchError::host("make a file for the container's output"))?;
        self.create_with(slot, Stdio::null(), output.into())
    }

    /// The same with these streams as the program's standard input and output.
    ///
    /// # Errors
    /// As [`Runtime::create`].
    pub fn create_with(
        &self,
        slot: &Slot,
        input: Stdio,
        output: Stdio,
    ) -> Result<(Pid, Ended), BenchError> {
        let pid_file = slot.file("pid");
        // One of an earlier life would be believed.
        let _ = fs::remove_file(&pid_file);
        let words: [OsString; 5] = [
            "--bundle".into(),
            slot.bundle.clone().into(),
            "--pid-file".into(),
            pid_file.clone().into(),
            slot.id.clone().into(),
        ];
        let ended = self.run("create", &words, slot, [input, output])?;
        let text = fs::read_to_string(&pid_file);
        let text = text.map_err(BenchError::host(format!("read {}", pid_file.display())))?;
        match text.trim().parse().ok().and_then(Pid::from_raw) {
            Some(pid) => Ok((pid, ended)),
            None => Err(self.failed("create", format!("its pid file says {text:?}"))),
        }
    }

    /// Does something with the container.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn verb(
        &self,
        verb: &'static str,
        slot: &Slot,
        behind: &[&str],
    ) -> Result<Ended, BenchError> {
        let words = [slot.id.as_str()].into_iter().chain(behind.iter().copied());
        let words = words.map(OsString::from).collect::<Vec<_>>();
        self.run(verb, &words, slot, [Stdio::null(), Stdio::null()])
    }

    /// Waits for the container's end.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn wait(&self, pid: Pid, what: &'static str) -> Result<Ended, BenchError> {
        process::wait(pid, self.limit).map_err(|unended| self.unended(unended, what))
    }

    fn run(
        &self,
        verb: &'static str,
        words: &[OsString],
        slot: &Slot,
        [input, output]: [Stdio; 2],
    ) -> Result<Ended, BenchError> {
        let log = slot.file("errors");
        let errors = File::create(&log).map_err(BenchError::host("make a file for errors"))?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg(verb).args(words);
        command.stdin(input).stdout(output).stderr(errors);
        if let Kind::Clone { templates } = &self.kind {
            command.env("BULKHEAD_TEMPLATES", templates);
        }
        // A terminal's Ctrl-C is for the bench to act on.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().map_err(|source| BenchError::Program {
            what: self.name.clone(),
            path: self.program.clone(),
            source,
        })?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| self.failed(verb, "it has no process".into()))?;
        let ended = process::wait(pid, self.limit).map_err(|unended| {
            // What it was about to make is removed with the rest.
            let _ = kill_process(pid, Signal::KILL);
            let _ = process::wait_for(pid, DEATH);
            self.unended(unended, verb)
        })?;
        if ended.code == 0 {
            return Ok(ended);
        }
        let said = last_line(&log, |line| !line.trim().is_empty());
        let said = said.map(|line| message(line.trim()));
        Err(self.failed(verb, said.unwrap_or_else(|| format!("it ended with {}", ended.code))))
    }

    fn failed(&self, verb: &'static str, said: String) -> BenchError {
        BenchError::Verb { runtime: self.name.clone(), verb, said }
    }

    /// A run whose figures do not count.
    #[must_use]
    pub fn invalid(&self, why: impl Into<String>) -> BenchError {
        BenchError::Invalid { runtime: self.name.clone(), why: why.into() }
    }

    fn unended(&self, unended: Unended, what: &'static str) -> BenchError {
        let runtime = self.name.clone();
        match unended {
            Unended::Timeout => {
                BenchError::Timeout { runtime, what, seconds: self.limit.as_secs() }
            }
            Unended::Interrupted(signal) => BenchError::Interrupted(signal),
            Unended::Host(source) => BenchError::Host { what: format!("wait for {what}"), source },
        }
    }
}

/// What a line of runc's log says: `time="…" level=error msg="it says \"no\""`.
fn message(line: &str) -> String {
    let quoted = line.split_once(" msg=").map(|(_, quoted)| quoted);
    // Go quotes as JSON does, but for what no runtime says.
    let text = quoted.and_then(|quoted| serde_json::from_str(quoted).ok());
    text.unwrap_or_else(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(script: &str) -> (tempfile::TempDir, Runtime, Slot) {
        let dir = tempfile::tempdir().unwrap();
        let slot = Slot { bundle: dir.path().into(), id: "box".into() };
        let runtime = Runtime {
            key: "sh".into(),
            name: "the shell".into(),
            kind: Kind::Plain,
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            root: dir.path().into(),
            limit: Duration::from_secs(60),
        };
        (dir, runtime, slot)
    }

    #[test]
    fn a_verb_that_fails_says_its_last_line() {
        let (_dir, runtime, slot) =
            runtime("echo one >&2; echo \"two $0 $1\" >&2; echo >&2; exit 3");
        let error = runtime.verb("start", &slot, &[]).unwrap_err().to_string();
        assert_eq!(error, "the shell: start failed: two start box");
    }

    #[test]
    fn the_line_of_a_log_is_its_message() {
        let line = r#"time="2026-01-01T00:00:00Z" level=error msg="it says \"no\": gone""#;
        assert_eq!(message(line), "it says \"no\": gone");
        for other in ["plain words", "x msg=\"unended", "a msg=7"] {
            assert_eq!(message(other), other);
        }
    }

    #[test]
    fn create_needs_a_pid_file_and_keeps_the_output() {
        let (_dir, runtime, slot) = runtime("echo out; echo nonsense > \"$4\"");
        let error = runtime.create(&slot).unwrap_err().to_string();
        assert!(error.contains("its pid file says \"nonsense\\n\""), "{error}");
        assert_eq!(slot.output(), b"out\n");
        let (_dir, runtime, slot) = self::runtime("printf 77 > \"$4\"");
        assert_eq!(runtime.create(&slot).unwrap().0.as_raw_pid(), 77);
    }

    #[test]
    fn a_verb_that_hangs_is_ended() {
        let (_dir, mut runtime, slot) = runtime("exec sleep 1000");
        runtime.limit = Duration::from_millis(50);
        let error = runtime.verb("delete", &slot, &[]).unwrap_err().to_string();
        assert!(error.contains("delete took more than"), "{error}");
        runtime.program = "/no/such/runtime".into();
        let error = runtime.verb("delete", &slot, &[]).unwrap_err().to_string();
        assert!(error.contains("the shell cannot be run: /no/such/runtime"), "{error}");
    }
}
