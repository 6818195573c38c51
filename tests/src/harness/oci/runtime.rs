//! The runtime's command line, with a state of its own for each test.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, waitpid};
use serde_json::Value;
use tempfile::TempDir;

use super::{Bundle, leftovers};
use crate::harness::{
    Outcome, Running, binary, guest_kernel, host::slot, kvm_missing, signal_process, templates,
};

/// What isolates a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// The host kernel's namespaces.
    Host,
    /// A microVM.
    Vm,
}

/// The runtime under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// `bulkhead-oci`.
    Bulkhead(Isolation),
    /// `runc`, to prove a test.
    Runc,
    /// `crun`, to prove a test.
    Crun,
}

/// A runtime and a host for one test.
#[derive(Debug)]
pub struct Oci {
    peer: Peer,
    directory: TempDir,
    mark: String,
    /// Held while machines may run, so that no more tests run at once than the host has processors.
    _slot: Option<File>,
}

/// A machine boots in seconds on a good day; what takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(300);

impl Oci {
    /// `None`, after saying so, where this machine has no KVM, or where another runtime is tested, which has no microVMs.
    #[must_use]
    pub fn new(isolation: Isolation) -> Option<Self> {
        let peer = match (env::var("BULKHEAD_TEST_PEER").as_deref(), isolation) {
            (Ok(peer @ ("runc" | "crun")), Isolation::Vm) => {
                eprintln!("SKIPPED: {peer} has no microVMs");
                return None;
            }
            (Ok("runc"), _) => Peer::Runc,
            (Ok("crun"), _) => Peer::Crun,
            (Ok(other), _) => panic!("BULKHEAD_TEST_PEER is {other}: there are runc and crun"),
            (Err(_), _) => Peer::Bulkhead(isolation),
        };
        if peer == Peer::Bulkhead(Isolation::Vm) && kvm_missing() {
            return None;
        }
        Some(Self::with(peer))
    }

    /// This runtime, whatever is asked for.
    #[must_use]
    pub fn with(peer: Peer) -> Self {
        // What a container's caller is: the one that gets its exit code.
        static ADOPTS: OnceLock<()> = OnceLock::new();
        ADOPTS.get_or_init(|| {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                .expect("a subreaper")
        });
        let directory = tempfile::Builder::new()
            .prefix("bulkhead-oci-")
            .tempdir()
            .expect("a temporary directory");
        let mark = directory.path().file_name().expect("a name").display().to_string();
        let slot = (peer == Peer::Bulkhead(Isolation::Vm)).then(slot);
        Self { peer, directory, mark, _slot: slot }
    }

    /// Which runtime it is.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// True where containers are in microVMs.
    #[must_use]
    pub fn is_vm(&self) -> bool {
        self.peer == Peer::Bulkhead(Isolation::Vm)
    }

    /// True for `bulkhead-oci`: what runc 1.1 does not do is asked of it only.
    #[must_use]
    pub fn is_bulkhead(&self) -> bool {
        matches!(self.peer, Peer::Bulkhead(_))
    }

    /// A path for the test's own files.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The runtime's `--root`.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// A word that no other test uses, for names of cgroups.
    #[must_use]
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// A new bundle with the default configuration, whose cgroup is `/MARK-NAME`. Not yet written.
    #[must_use]
    pub fn bundle(&self, name: &str) -> Bundle {
        Bundle::new(self.path(name), &format!("/{}-{name}", self.mark))
    }

    /// The cgroups of the test's containers on the host.
    #[must_use]
    pub fn cgroups(&self) -> Vec<PathBuf> {
        leftovers::cgroups(&self.mark)
    }

    /// Processes that the test has started and processes in its cgroups; only these may be killed.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        leftovers::own_processes(self.directory.path(), &self.mark)
    }

    /// Removes by hand all that is left, so that the next step of a test starts clean.
    pub fn clear(&self) {
        let _ = self.cleared();
    }

    /// The same; false when something is still mounted in the test's directory, below which nothing may be removed.
    #[must_use]
    pub fn cleared(&self) -> bool {
        for _ in 0..100 {
            let processes = self.processes();
            if processes.is_empty() {
                break;
            }
            processes.into_iter().for_each(|pid| signal_process(pid, Signal::KILL));
            thread::sleep(Duration::from_millis(10));
        }
        for cgroup in self.cgroups().iter().rev() {
            let _ = fs::remove_dir(cgroup);
        }
        let unmounted = leftovers::unmount(self.directory.path());
        if unmounted {
            let _ = fs::remove_dir_all(self.root());
        }
        unmounted
    }

    /// The program and the arguments that choose it, without `--root`.
    #[must_use]
    pub fn program(&self) -> (PathBuf, &'static [&'static str]) {
        match self.peer {
            Peer::Bulkhead(Isolation::Host) => (binary("bulkhead-oci"), &["--isolation", "host"]),
            Peer::Bulkhead(Isolation::Vm) => (binary("bulkhead-oci"), &["--isolation", "vm"]),
            Peer::Runc => ("runc".into(), &[]),
            Peer::Crun => ("crun".into(), &[]),
        }
    }

    /// A command of the runtime.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let (program, global) = self.program();
        let mut command = Command::new(program);
        command.args(global).arg("--root").arg(self.root()).args(arguments);
        self.settings(&mut command);
        command
    }

    /// The environment of the runtime's commands.
    pub fn settings(&self, command: &mut Command) {
        command.env("BULKHEAD_TEST", self.directory.path());
        if self.is_vm() {
            command
                .env("BULKHEAD_DATA", self.path("data"))
                .env("BULKHEAD_TEMPLATES", templates())
                .env("BULKHEAD_KERNEL", guest_kernel())
                .env("BULKHEAD_BOOT_TIMEOUT", "500");
        }
    }

    /// Runs a command to its end. What it starts may live on with its streams, which are files; standard input is empty.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_command(self.command(arguments))
    }

    /// The same with a command that was made with [`Oci::command`].
    #[track_caller]
    pub fn run_command(&self, mut command: Command) -> Outcome {
        let directory = tempfile::tempdir_in(self.directory.path()).expect("a temporary directory");
        let (out, error) = (directory.path().join("out"), directory.path().join("err"));
        command.stdin(Stdio::null());
        command
            .stdout(File::create(&out).expect("a file"))
            .stderr(File::create(&error).expect("a file"));
        let (words, status) = to_the_end(&mut command, &[&out, &error]);
        let read = |path: &Path| fs::read(path).unwrap_or_default();
        Outcome { command: words, status, stdout: read(&out), stderr: read(&error) }
    }

    /// Starts a command whose streams the test holds.
    #[must_use]
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments), None)
    }

    /// The same with a command that was made with [`Oci::command`].
    #[must_use]
    pub fn start_command(&self, command: Command) -> Running {
        Running::start(command, None)
    }

    /// `run`s a container in the foreground, to its end.
    #[track_caller]
    pub fn run_bundle(&self, id: &str, bundle: &Bundle) -> Outcome {
        bundle.write();
        let path = bundle.path.display().to_string();
        self.start(&["run", "--bundle", &path, id]).wait()
    }

    /// Runs the probe's `look` as the bundle's program and returns what it saw.
    #[track_caller]
    pub fn look(&self, id: &str, bundle: &mut Bundle, wanted: &[&str]) -> Value {
        bundle.args(&[&["/probe", "look"], wanted].concat());
        let outcome = self.run_bundle(id, bundle);
        outcome.assert_code(0);
        let text = outcome.text();
        serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {outcome}"))
    }

    /// Creates a container whose output goes to [`Oci::output`].
    #[track_caller]
    pub fn create(&self, id: &str, bundle: &Bundle) {
        self.create_with(id, bundle, &[]).assert_code(0);
    }

    /// Creates a container with more options; how the command ended.
    #[track_caller]
    pub fn create_with(&self, id: &str, bundle: &Bundle, options: &[&str]) -> Outcome {
        bundle.write();
        let path = bundle.path.display().to_string();
        let mut command = self.command(&[&["create", "--bundle", &path], options, &[id]].concat());
        let output = File::create(self.path(&format!("{id}.out"))).expect("a file");
        let errors = self.path(&format!("{id}.err"));
        command.stdin(Stdio::null()).stdout(output).stderr(File::create(&errors).expect("a file"));
        let (words, status) = to_the_end(&mut command, &[&errors]);
        let stderr = fs::read(&errors).unwrap_or_default();
        Outcome { command: words, status, stdout: Vec::new(), stderr }
    }

    /// What a container that was made with [`Oci::create`] wrote so far.
    #[must_use]
    pub fn output(&self, id: &str) -> String {
        fs::read_to_string(self.path(&format!("{id}.out"))).unwrap_or_default()
    }

    /// Waits until it has written `text`.
    #[track_caller]
    pub fn wait_for_output(&self, id: &str, text: &str) {
        self.wait(&format!("\"{text}\" in the output of {id}"), || self.output(id).contains(text));
    }

    /// Creates and starts.
    #[track_caller]
    pub fn create_and_start(&self, id: &str, bundle: &Bundle) {
        self.create(id, bundle);
        self.run(&["start", id]).assert_code(0);
    }

    /// `state`'s answer.
    #[track_caller]
    pub fn state(&self, id: &str) -> Value {
        let outcome = self.run(&["state", id]);
        outcome.assert_code(0);
        serde_json::from_slice(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
    }

    /// Its `status`.
    #[track_caller]
    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap_or_default().to_owned()
    }

    /// The container's pid on the host.
    #[track_caller]
    pub fn pid(&self, id: &str) -> u32 {
        let pid = self.state(id)["pid"].as_u64().unwrap_or_default();
        u32::try_from(pid).expect("a pid")
    }

    /// Waits until `state` says so.
    #[track_caller]
    pub fn wait_for_status(&self, id: &str, status: &str) {
        self.wait(&format!("{id} to be {status}"), || self.status(id) == status);
    }

    /// Waits until something is so.
    #[track_caller]
    pub fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(if self.is_vm() { 300 } else { 60 });
        while !done() {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The exit code of an adopted process, a container's: 128 + N for a signal N.
    #[track_caller]
    pub fn exit_code(&self, pid: u32) -> i32 {
        let child = Pid::from_raw(pid.cast_signed()).expect("a pid is not 0");
        match waitpid(Some(child), WaitOptions::empty()) {
            Ok(ended) => code_of(ended.expect("it has ended").1),
            Err(error) => reaped().remove(&pid).unwrap_or_else(|| panic!("{pid}: {error}")),
        }
    }

    /// Reaps what was adopted from containers: the first process of a PID namespace does not end before others of it are reaped.
    pub fn reap_adopted(&self) {
        let levels = |pid: &str| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status
                .lines()
                .find_map(|line| line.strip_prefix("NSpid:"))
                .map_or(0, |pids| pids.split_whitespace().count())
        };
        let own = levels("self");
        let tasks = fs::read_dir("/proc/self/task").expect("/proc is mounted").flatten();
        let children =
            tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
        for pid in children.collect::<Vec<_>>().iter().flat_map(|pids| pids.split_whitespace()) {
            // Commands, which others wait for, are in this process's namespace.
            let (Ok(number), true) = (pid.parse::<i32>(), levels(pid) > own) else { continue };
            if let Ok(Some((_, status))) = waitpid(Pid::from_raw(number), WaitOptions::NOHANG) {
                reaped().insert(number.cast_unsigned(), code_of(status));
            }
        }
    }

    /// Removes a container by force, whatever its state.
    #[track_caller]
    pub fn delete_force(&self, id: &str) {
        self.run(&["delete", "--force", id]).assert_code(0);
    }

    /// Everything of the test's containers that is still there.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        leftovers::all(self.directory.path(), &self.mark, &self.root())
    }

    /// Fails when a process, mount, cgroup or file of a container is left, after some time to go, or when the host's
    /// `/dev/null` is not as it was.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        // Another test's process may see a mount of this one's, in a mount namespace that was made meanwhile, until it ends.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.leftovers();
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "left behind:\n{}", left.join("\n"));
            thread::sleep(Duration::from_millis(20));
        }
        leftovers::assert_dev_null();
    }
}

/// Waits for a command's end; one that hangs fails the test with what it wrote to these files. Its arguments and its status.
#[track_caller]
fn to_the_end(command: &mut Command, files: &[&Path]) -> (String, ExitStatus) {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    let words = words.join(" ");
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            return (words, status);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let said: Vec<_> =
                files.iter().map(|path| fs::read_to_string(path).unwrap_or_default()).collect();
            panic!("`{words}` hangs:\n{}", said.join("\n"));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Codes of processes that [`Oci::reap_adopted`] has reaped, until they are asked for.
fn reaped() -> MutexGuard<'static, BTreeMap<u32, i32>> {
    static REAPED: Mutex<BTreeMap<u32, i32>> = Mutex::new(BTreeMap::new());
    REAPED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn code_of(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| Some(128 + status.terminating_signal()?)).expect("it has ended")
}

impl Drop for Oci {
    /// A test that failed leaves its containers; they would be in the way of others.
    fn drop(&mut self) {
        for item in fs::read_dir(self.root()).into_iter().flatten().flatten() {
            let id = item.file_name().display().to_string();
            let mut command = self.command(&["delete", "--force", &id]);
            let _ =
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        if !self.cleared() {
            eprintln!("{} stays: something is mounted below", self.directory.path().display());
            self.directory.disable_cleanup(true);
        }
    }
}
