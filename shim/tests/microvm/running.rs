//! A container that somebody made, and processes that joined it.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use bulkhead::sandbox::{Record, Sandbox, SandboxError, Status, open};
use serde_json::Value;

use crate::bundle::{Bundle, built};

/// How long a guest may take on a busy machine without hardware virtualization.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// The record that the maker kept.
pub(crate) fn load(dir: &Path) -> Record {
    serde_json::from_slice(&fs::read(dir.join("record")).unwrap()).unwrap()
}

/// A helper process.
pub(crate) fn command(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(words)
        .env("BULKHEAD_VMM", built("bulkhead-vmm", "BULKHEAD_VMM"))
        .env("BULKHEAD_KERNEL", built("vmlinux", "BULKHEAD_KERNEL"))
        .env("BULKHEAD_INITRD", built("bulkhead-initrd.cpio", "BULKHEAD_INITRD"))
        .env("BULKHEAD_TEMPLATES", Path::new(env!("CARGO_TARGET_TMPDIR")).join("templates"))
        .env("BULKHEAD_DATA", Path::new(env!("CARGO_TARGET_TMPDIR")).join("data"))
        .env("BULKHEAD_BOOT_TIMEOUT", "230")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Somebody who made a container and waits for it.
pub(crate) struct Maker {
    pub(crate) child: Child,
    pub(crate) dir: PathBuf,
}

impl Maker {
    pub(crate) fn begin(bundle: &Bundle, id: &str) -> Self {
        let (dir, path) = (bundle.state(), bundle.path());
        let words = ["helper-create", id, dir.to_str().unwrap(), path.to_str().unwrap()];
        Self { child: command(&words).spawn().unwrap(), dir }
    }

    /// Makes a container and waits until it is there.
    pub(crate) fn create(bundle: &Bundle, id: &str) -> Self {
        let mut maker = Self::begin(bundle, id);
        until("the container is made", || {
            if let Some(status) = maker.child.try_wait().unwrap() {
                panic!("{status}: {}; {}", maker.error(), maker.log());
            }
            maker.dir.join("record").exists()
        });
        maker
    }

    pub(crate) fn error(&self) -> String {
        fs::read_to_string(self.dir.join("error")).unwrap_or_default()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("vmm.log")).unwrap_or_default()
    }

    pub(crate) fn status(&self) -> Status {
        self.with(|sandbox| sandbox.status()).unwrap()
    }

    pub(crate) fn with<T>(
        &self,
        call: impl FnOnce(&dyn Sandbox) -> Result<T, SandboxError>,
    ) -> Result<T, SandboxError> {
        let record = load(&self.dir);
        open(&record, &self.dir).and_then(|sandbox| call(&*sandbox))
    }

    pub(crate) fn pid(&self) -> i32 {
        let record = load(&self.dir);
        open(&record, &self.dir).unwrap().pid().as_raw_pid()
    }

    pub(crate) fn exec(&self, process: &Value) -> Child {
        command(&["helper-exec", self.dir.to_str().unwrap(), &process.to_string()]).spawn().unwrap()
    }

    /// Runs a process to its end: its code, output and errors.
    pub(crate) fn run(&self, process: &Value) -> (i32, String, String) {
        let mut child = self.exec(process);
        drop(child.stdin.take());
        finish(child)
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        // After a failed check: the container goes with its monitor.
        if let Ok(text) = fs::read(self.dir.join("record"))
            && let Ok(record) = serde_json::from_slice::<Record>(&text)
            && let Ok(sandbox) = open(&record, &self.dir)
        {
            let _ = sandbox.remove();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes a process's output to its end.
pub(crate) fn finish(mut child: Child) -> (i32, String, String) {
    let mut errors = child.stderr.take().unwrap();
    let errors = thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).unwrap();
        text
    });
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    let code = child.wait().unwrap().code().unwrap_or(-1);
    (code, output, errors.join().unwrap())
}

/// Waits for something.
#[track_caller]
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The processes whose command line holds this word, zombies not counted.
pub(crate) fn processes_with(word: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&words).contains(word) {
            found.push(pid);
        }
    }
    found
}

/// The children of a process.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The control groups whose names hold this word.
pub(crate) fn cgroups_with(word: &str) -> Vec<PathBuf> {
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("*{word}*")])
        .output()
        .unwrap();
    String::from_utf8_lossy(&found.stdout).lines().map(PathBuf::from).collect()
}
