//! A host for one test: a store and state of its own, which go with it.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use super::{Outcome, Running, Terminal, binary, guest_kernel, kvm_missing, leftovers, templates};
use crate::image::Image;

/// A host.
#[derive(Debug)]
pub struct Host {
    directory: TempDir,
    /// Those of all tests; absent: in its store.
    templates: Option<&'static Path>,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A host with an empty store.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("bulkhead-test-").tempdir();
        Self { directory: directory.expect("there is a temporary directory"), templates: None }
    }

    /// A host that can run microVMs; `None`, after saying so, where this machine cannot (see [`kvm_missing`]).
    #[must_use]
    pub fn with_kvm() -> Option<Self> {
        (!kvm_missing()).then(|| Self { templates: Some(templates()), ..Self::new() })
    }

    /// A directory for the test's own files.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes this image's layout and returns its source, `oci:DIR`.
    #[must_use]
    pub fn source(&self, name: &str, image: &Image) -> String {
        let layout = self.path(name);
        image.write_layout(&layout).expect("the layout can be written");
        oci(&layout)
    }

    /// Brings an OCI layout into the store under this name.
    #[track_caller]
    pub fn import(&self, name: &str, layout: &Path) {
        self.run(&["image", "import", "--name", name, &oci(layout)]).assert_code(0);
    }

    /// The command `bulkhead` with this host's store and state, and nothing else of the caller's settings.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("bulkhead"));
        self.settings(&mut command);
        command.args(arguments);
        command
    }

    fn settings(&self, command: &mut Command) {
        command
            .env("BULKHEAD_DATA", self.data())
            .env("BULKHEAD_RUN", self.state())
            .env("BULKHEAD_KERNEL", guest_kernel())
            .env("BULKHEAD_BOOT_TIMEOUT", "500");
        if let Some(templates) = self.templates {
            command.env("BULKHEAD_TEMPLATES", templates);
        }
    }

    /// The store.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The state of running containers.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path("run")
    }

    /// Runs a command that starts no machine, to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_command(self.command(arguments))
    }

    /// The same with a command that was made with [`Host::command`].
    #[track_caller]
    #[must_use]
    pub fn run_command(&self, command: Command) -> Outcome {
        Running::start(command, None).wait()
    }

    /// Starts a command that starts a machine, when there is a processor for it.
    #[must_use]
    pub fn boot(&self, arguments: &[&str]) -> Running {
        self.boot_command(self.command(arguments))
    }

    /// The same with a command that was made with [`Host::command`].
    #[must_use]
    pub fn boot_command(&self, command: Command) -> Running {
        Running::start(command, Some(slot()))
    }

    /// The same without waiting for a processor, for a test that starts several and has waited for one.
    #[must_use]
    pub fn start_command(&self, command: Command) -> Running {
        Running::start(command, None)
    }

    /// Starts a command on a terminal of its own, when there is a processor for its machine.
    #[must_use]
    pub fn boot_on_terminal(&self, arguments: &[&str], rows: u16, columns: u16) -> Terminal {
        Terminal::start(&self.command(arguments), rows, columns, Some(slot()))
    }

    /// Fails when a process of this host lives on, or its state or store has anything of a container.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        leftovers::assert_none(self.directory.path());
    }

    /// The pids of this host's VMMs.
    #[must_use]
    pub fn vmms(&self) -> Vec<u32> {
        leftovers::processes(self.directory.path(), OsStr::new("bulkhead-vmm"))
    }
}

/// `oci:DIR`.
fn oci(layout: &Path) -> String {
    format!("oci:{}", layout.display())
}

/// Waits for one of as many slots as there are processors, over all test programs of this machine.
pub(super) fn slot() -> File {
    let slots = thread::available_parallelism().map_or(1, usize::from);
    loop {
        for number in 0..slots {
            let path = env::temp_dir().join(format!("bulkhead-test-slot-{number}.lock"));
            let file = File::options().create(true).truncate(false).write(true).open(&path);
            let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return file;
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// What this host has available, or the group that a container of tests is limited to has left, in KiB.
///
/// # Panics
/// The host has no `/proc`.
#[must_use]
pub fn available_kib() -> u64 {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let meminfo = read("/proc/meminfo");
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let host = number.expect("/proc is mounted");
    let groups = [
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ];
    let left = groups.into_iter().filter_map(|(limit, used)| {
        let number =
            |name: &str| read(&format!("/sys/fs/cgroup/{name}")).trim().parse::<u64>().ok();
        Some(number(limit)?.saturating_sub(number(used)?) >> 10)
    });
    left.fold(host, u64::min)
}
