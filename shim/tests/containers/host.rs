//! A host for one test: a store with a busybox image and state of its own, which go with it.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use bulkhead_tests::image::{Name, cached};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// What takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Host {
    directory: TempDir,
}

/// A host, or `None`, after saying so, where containers cannot be made on the host's kernel.
pub(crate) fn host() -> Option<Host> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: this test needs root");
        return None;
    }
    let directory = tempfile::Builder::new().prefix("bulkhead-containers-").tempdir().unwrap();
    let host = Host { directory };
    let layout = cached(Name::Busybox).expect("the image can be made");
    let source = format!("oci:{}", layout.display());
    host.ok(&["image", "import", "--name", "busybox", &source]);
    Some(host)
}

impl Host {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
        command
            .env("BULKHEAD_DATA", self.path("data"))
            .env("BULKHEAD_RUN", self.path("run"))
            .env("BULKHEAD_ISOLATION", "host")
            .stdin(Stdio::null())
            .args(words);
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs a command that is to succeed; what it wrote, without the last newline.
    #[track_caller]
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        text(&output.stdout).trim_end().to_owned()
    }

    /// Runs a command that is to fail with this code and one line that has these words.
    #[track_caller]
    pub(crate) fn refused(&self, words: &[&str], code: i32, says: &str) {
        let output = self.run(words);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        assert!(error.contains(says), "{words:?} does not say {says:?}: {error}");
        assert!(error.starts_with("bulkhead: ") && error.lines().count() == 1, "{error}");
    }

    /// A field of `inspect`.
    #[track_caller]
    pub(crate) fn field(&self, container: &str, field: &str) -> String {
        self.ok(&["inspect", "-f", &format!("{{{{.{field}}}}}"), container])
    }

    /// Waits until a field has this value.
    #[track_caller]
    pub(crate) fn wait_for(&self, container: &str, field: &str, value: &str) {
        until(|| self.field(container, field) == value);
    }

    /// Waits until the log has this text, and returns the log.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, container: &str, part: &str) -> String {
        let mut log = String::new();
        until(|| {
            log = self.ok(&["logs", container]);
            log.contains(part)
        });
        log
    }

    /// The processes that have this host's settings: keepers, their guardians, commands; not what runs in containers.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mark = [b"BULKHEAD_RUN=", self.directory.path().as_os_str().as_bytes()].concat();
        let pids = fs::read_dir("/proc").unwrap();
        let pids = pids.filter_map(|item| item.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.windows(mark.len()).any(|part| part == mark)
        })
        .collect()
    }

    /// Fails when anything of a container is left.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        until(|| self.processes().is_empty());
        let left = |part: &str| {
            let found = fs::read_dir(self.path(part)).into_iter().flatten();
            found.map(|item| item.unwrap().file_name()).filter(|name| name != "lock").count()
        };
        for part in ["data/containers", "run/containers", "run/oci"] {
            assert_eq!(left(part), 0, "{part}");
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.directory.path().to_str().unwrap()), "{mounts}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A test that failed may leave containers running.
        let ids = self.run(&["ps", "-aq"]);
        for id in text(&ids.stdout).lines() {
            self.run(&["rm", "-f", id]);
        }
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
pub(crate) fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "it does not happen within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Kills exactly this process.
pub(crate) fn kill(pid: &str) {
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

/// Whether the process is there and has not ended.
pub(crate) fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}
