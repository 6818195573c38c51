//! Runs CNI plugins (specification 1.0.0, section 2): programs of this host that are not trusted to end, or to write what they should.

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{self, Seek, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    io::{Errno, FdFlags, fcntl_setfd, ioctl_fionbio},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};
use serde_json::Value;

use crate::text::{cut, printable};

/// The longest result, and the longest text beside it.
const MOST_OUTPUT: usize = 1 << 20;
const MOST_WORDS: usize = 4096;
/// So much of what a plugin says is told.
const MOST_TOLD: usize = 300;
/// Where the programs are that plugins call.
const PROGRAMS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a plugin is asked for.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// Where plugins are.
    pub(super) directories: &'a [PathBuf],
    /// `ADD` or `DEL`.
    pub(super) command: &'static str,
    pub(super) container: &'a str,
    /// Absent: it is gone.
    pub(super) namespace: Option<&'a Path>,
    /// Of the interface in the namespace.
    pub(super) interface: &'a str,
    /// Its configuration.
    pub(super) input: Value,
    /// How long it may take.
    pub(super) patience: Duration,
    /// Stays open as long as a process that the plugin started lives.
    pub(super) lock: &'a File,
}

/// The program of a plugin, if it is there.
pub(super) fn find(directories: &[PathBuf], plugin: &str) -> Option<PathBuf> {
    directories.iter().map(|directory| directory.join(plugin)).find(|path| path.is_file())
}

impl Call<'_> {
    /// Runs it; what it wrote if all went well.
    ///
    /// # Errors
    /// One line.
    pub(super) fn run(&self, program: &Path) -> Result<Vec<u8>, String> {
        let deadline = Instant::now() + self.patience;
        let mut running =
            self.start(program).map_err(|error| format!("it cannot be run: {error}"))?;
        let status = match running.follow(deadline) {
            Ok(Some(status)) => status,
            Ok(None) => {
                let seconds = self.patience.as_secs();
                return Err(format!("it has not ended in {seconds} s and was killed"));
            }
            Err(reason) => return Err(reason),
        };
        if status.success() {
            return Ok(std::mem::take(&mut running.output.bytes));
        }
        let how = match status.code() {
            Some(code) => format!("exit code {code}"),
            None => "killed by a signal".into(),
        };
        let said = refusal(&running.output.bytes)
            .or_else(|| words(&running.words.bytes))
            .or_else(|| words(&running.output.bytes));
        Err(match said {
            Some(said) => said,
            None => format!("it failed without a word ({how})"),
        })
    }

    fn start(&self, program: &Path) -> io::Result<Running> {
        let mut input = File::from(memfd_create("cni", MemfdFlags::CLOEXEC)?);
        input.write_all(self.input.to_string().as_bytes())?;
        input.rewind()?;
        let mut command = Command::new(program);
        command
            .env("CNI_COMMAND", self.command)
            .env("CNI_CONTAINERID", self.container)
            .env("CNI_NETNS", self.namespace.unwrap_or(Path::new("")))
            .env("CNI_IFNAME", self.interface)
            .env("CNI_PATH", env::join_paths(self.directories).map_err(io::Error::other)?)
            .env_remove("CNI_ARGS")
            .env("PATH", search_path(env::var_os("PATH")))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::from(input))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        fcntl_setfd(self.lock, FdFlags::empty())?;
        let spawned = command.spawn();
        fcntl_setfd(self.lock, FdFlags::CLOEXEC)?;
        Running::new(spawned?)
    }
}

/// That of this process, and the directories of the system's tools.
fn search_path(own: Option<OsString>) -> OsString {
    match own.filter(|path| !path.is_empty()) {
        Some(mut path) => {
            path.push(":");
            path.push(PROGRAMS);
            path
        }
        None => PROGRAMS.into(),
    }
}

/// What comes out of a pipe, up to a limit.
#[derive(Debug)]
struct Output {
    pipe: Option<OwnedFd>,
    bytes: Vec<u8>,
    most: usize,
    /// More than that ends the plugin; otherwise it is not kept.
    strict: bool,
}

impl Output {
    fn new(pipe: Option<OwnedFd>, most: usize, strict: bool) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { pipe, bytes: Vec::new(), most, strict })
    }

    /// Reads what there is.
    fn read(&mut self) -> Result<(), String> {
        let mut buffer = [0; 16 << 10];
        // As often as a pipe is filled at most, so that who writes without end does not keep this from looking at the time.
        for _ in 0..64 {
            let Some(pipe) = &self.pipe else { return Ok(()) };
            match rustix::io::read(pipe, &mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    let room = self.most.saturating_sub(self.bytes.len());
                    self.bytes.extend(buffer.iter().take(length.min(room)));
                    if self.strict && length > room {
                        return Err(format!(
                            "it wrote more than {} bytes and was killed",
                            self.most
                        ));
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(format!("its output cannot be read: {errno}")),
            }
        }
        Ok(())
    }
}

/// A plugin that runs. It and what it started in its process group ends when this is dropped.
#[derive(Debug)]
struct Running {
    child: Child,
    pidfd: OwnedFd,
    output: Output,
    words: Output,
    ended: bool,
}

impl Running {
    fn new(mut child: Child) -> io::Result<Self> {
        let pid = Pid::from_child(&child);
        let output = child.stdout.take().map(OwnedFd::from);
        let words = child.stderr.take().map(OwnedFd::from);
        let watched = || -> io::Result<_> {
            Ok((
                pidfd_open(pid, PidfdFlags::empty())?,
                Output::new(output, MOST_OUTPUT, true)?,
                Output::new(words, MOST_WORDS, false)?,
            ))
        };
        match watched() {
            Ok((pidfd, output, words)) => Ok(Self { child, pidfd, output, words, ended: false }),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// Reads until it ends. None: it has not by then.
    fn follow(&mut self, deadline: Instant) -> Result<Option<ExitStatus>, String> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let pipes = [&self.output, &self.words].into_iter().filter_map(|one| one.pipe.as_ref());
            let mut waits: Vec<PollFd<'_>> = [self.pidfd.as_fd()]
                .into_iter()
                .chain(pipes.map(AsFd::as_fd))
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            match poll(&mut waits, Timespec::try_from(left).ok().as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(format!("it cannot be waited for: {errno}")),
            }
            // Looked at first: all that it has written is there when it has ended.
            let ended = waits.first().is_some_and(|child| !child.revents().is_empty());
            drop(waits);
            self.output.read()?;
            self.words.read()?;
            if ended {
                let status = self.child.wait().map_err(|error| error.to_string())?;
                self.ended = true;
                return Ok(Some(status));
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            end(&mut self.child);
        }
    }
}

fn end(child: &mut Child) {
    // It may have ended meanwhile.
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _ = child.wait();
}

/// What an error result says (section 5, "Error").
fn refusal(output: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(output).ok()?;
    let text = |name: &str| value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let message = text("msg")?;
    let said = match text("details") {
        Some(details) if !message.contains(details) => format!("{message}: {details}"),
        _ => message.to_owned(),
    };
    words(said.as_bytes())
}

/// The beginning of what was written, in one line that is safe to show; `None`: nothing.
pub(super) fn words(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let one = printable(&text).split_whitespace().collect::<Vec<_>>().join(" ");
    (!one.is_empty()).then(|| cut(&one, MOST_TOLD))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Runs a plugin that is this script.
    fn run(script: &str, patience: Duration) -> Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("plugin");
        super::super::tests::script(&program, script);
        let directories = [directory.path().to_owned()];
        assert_eq!(find(&directories, "plugin").unwrap(), program);
        assert_eq!(find(&directories, "other"), None);
        let lock = File::create(directory.path().join("lock")).unwrap();
        let call = Call {
            directories: &directories,
            command: "ADD",
            container: "c",
            namespace: None,
            interface: "eth0",
            input: json!({ "large": "x".repeat(200_000) }),
            patience,
            lock: &lock,
        };
        call.run(&program).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn a_plugin_gets_its_words_and_gives_its_result() {
        let script = "echo $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME \"<$CNI_NETNS>\"; wc -c; type wc > /dev/null";
        let said = run(script, LONG).unwrap();
        let (first, second) = said.split_once('\n').unwrap();
        assert_eq!(first, "ADD c eth0 <>");
        assert!(second.trim().parse::<usize>().unwrap() > 200_000);
        // One that does not read is no trouble, nor one whose child goes on with its pipes.
        assert_eq!(run("echo out; sleep 3 & exit 0", LONG).unwrap(), "out\n");
    }

    #[test]
    fn failures_are_told_in_one_line() {
        for (script, wanted) in [
            (
                r#"printf '%s' '{"code":7,"msg":"no\nroom","details":"at all"}'; exit 1"#,
                "no room: at all",
            ),
            ("echo first >&2; echo second >&2; exit 3", "first second"),
            ("echo rubbish; exit 1", "rubbish"),
            ("exit 9", "it failed without a word (exit code 9)"),
            ("kill -9 $$", "it failed without a word (killed by a signal)"),
            ("printf 'a\\033[31mb'; exit 1", "a [31mb"),
        ] {
            assert_eq!(run(script, LONG).unwrap_err(), wanted);
        }
        let long = run("yes lots | head -c 100000 >&2; exit 1", LONG).unwrap_err();
        assert!(long.chars().count() == MOST_TOLD && long.ends_with('…'), "{long}");
    }

    #[test]
    fn a_plugin_that_hangs_or_writes_without_end_is_killed() {
        let hangs = run("trap '' TERM; sleep 1000", Duration::from_millis(300)).unwrap_err();
        assert!(hangs.contains("was killed"), "{hangs}");
        let endless = run("yes rubbish", LONG).unwrap_err();
        assert!(endless.contains("more than 1048576 bytes"), "{endless}");
    }
}
