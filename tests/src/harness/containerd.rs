//! A containerd of the test's own, with the shim under test, and what is asked of it.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use sha2::{Digest, Sha256};

use super::{
    Outcome, Shim, binary, end_daemon,
    oci::{Isolation, Oci, Peer},
    write_archive,
};

/// The image's name.
pub const IMAGE: &str = "localhost/busybox:test";
/// The shim's program.
pub const PROGRAM: &str = "containerd-shim-bulkhead-v2";
/// The name of it that means the host's kernel.
pub const HOST_PROGRAM: &str = "containerd-shim-bulkhead-host-v2";

/// The name by which containerd knows a runtime.
#[must_use]
pub fn runtime_name(peer: Peer) -> &'static str {
    match peer {
        Peer::Bulkhead(Isolation::Vm) => "io.containerd.bulkhead.v2",
        Peer::Bulkhead(Isolation::Host) => "io.containerd.bulkhead-host.v2",
        Peer::Runc | Peer::Crun => "io.containerd.runc.v2",
    }
}

/// A containerd with the image.
#[derive(Debug)]
pub struct Containerd<'a> {
    /// Where it is.
    pub oci: &'a Oci,
    daemon: Option<Child>,
    namespace: String,
}

impl<'a> Containerd<'a> {
    /// Starts one whose runtime is that of `oci`, without its CRI plugin and with the image in a namespace of the test's own.
    #[must_use]
    pub fn new(oci: &'a Oci) -> Self {
        Self::new_with(oci, "")
    }

    /// The same with more in its configuration.
    #[must_use]
    pub fn new_with(oci: &'a Oci, configuration: &str) -> Self {
        let all = format!("disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n{configuration}");
        let containerd = Self::configured(oci, oci.mark(), &all);
        containerd.import(IMAGE);
        containerd
    }

    /// Starts one with more in its configuration; `ctr` works in this namespace.
    #[must_use]
    pub fn configured(oci: &'a Oci, namespace: &str, configuration: &str) -> Self {
        let bin = oci.path("bin");
        fs::create_dir(&bin).unwrap();
        if oci.is_bulkhead() {
            fs::copy(binary(PROGRAM), bin.join(PROGRAM)).unwrap();
            std::os::unix::fs::symlink(PROGRAM, bin.join(HOST_PROGRAM)).unwrap();
        }
        let options = format!("root = \"{}\"\n", oci.root().display());
        fs::write(oci.path("options.toml"), options).unwrap();
        let toml = format!(
            "version = 2\n{configuration}[ttrpc]\naddress = \"{}\"\n",
            oci.path("c.sock.ttrpc").display()
        );
        fs::write(oci.path("containerd.toml"), toml).unwrap();
        let mut containerd = Self { oci, daemon: None, namespace: namespace.into() };
        containerd.start();
        containerd
    }

    /// Imports busybox by this name.
    #[track_caller]
    pub fn import(&self, name: &str) {
        let archive = self.oci.path("busybox.tar");
        write_archive(name, &archive);
        self.text(&["image", "import", archive.to_str().unwrap()]);
    }

    /// The same daemon in another namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { oci: self.oci, daemon: None, namespace: namespace.into() }
    }

    /// Gives an image a name in a registry that speaks HTTP, and pushes it there.
    #[track_caller]
    pub fn push(&self, image: &str, name: &str) {
        self.text(&["image", "tag", image, name]);
        self.text(&["image", "push", "--plain-http", name]);
    }

    /// Starts the daemon, and waits until it answers.
    pub fn start(&mut self) {
        let oci = self.oci;
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("containerd");
        command
            .args(["--log-level", "debug", "--config"])
            .arg(oci.path("containerd.toml"))
            .arg("--root")
            .arg(oci.path("containerd"))
            .arg("--state")
            .arg(oci.path("run"))
            .arg("--address")
            .arg(oci.path("c.sock"))
            .env("PATH", format!("{}:{path}", oci.path("bin").display()))
            .env("TMPDIR", oci.path(""))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        oci.settings(&mut command);
        self.daemon = Some(command.spawn().expect("the package containerd is installed"));
        oci.wait("containerd", || self.run(&["version"]).status.success());
    }

    /// Ends the daemon as the kernel does when there is no memory left.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    fn log(&self) -> PathBuf {
        self.oci.path("containerd.log")
    }

    /// What it has logged so far.
    #[must_use]
    pub fn logged(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// A command of `ctr`, in the test's namespace.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.oci.path("c.sock"));
        command.args(["--namespace", &self.namespace]).args(arguments);
        self.oci.settings(&mut command);
        command
    }

    /// Runs a command of `ctr` to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.oci.run_command(self.command(arguments))
    }

    /// What a command that must succeed says.
    #[track_caller]
    pub fn text(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert!(outcome.status.success(), "{outcome}\n{}", self.logged());
        outcome.text().trim().to_owned()
    }

    /// `ctr run` with the runtime under test, more options, and a command.
    #[must_use]
    pub fn run_command(&self, options: &[&str], id: &str, words: &[&str]) -> Command {
        self.run_with(self.oci.peer(), options, id, words)
    }

    /// The same with another runtime.
    #[must_use]
    pub fn run_with(&self, peer: Peer, options: &[&str], id: &str, words: &[&str]) -> Command {
        self.run_image(IMAGE, peer, options, id, words)
    }

    /// The same of another image.
    #[must_use]
    pub fn run_image(
        &self,
        image: &str,
        peer: Peer,
        options: &[&str],
        id: &str,
        words: &[&str],
    ) -> Command {
        let cgroup = format!("/{}-{id}", self.oci.mark());
        let (file, root) = (self.oci.path("options.toml"), self.oci.root());
        let (file, root) = (file.display().to_string(), root.display().to_string());
        let more: &[&str] = match peer {
            Peer::Bulkhead(_) => &["--runtime-config-path", &file],
            Peer::Runc => &["--runc-root", &root],
            Peer::Crun => &["--runc-root", &root, "--runc-binary", "crun"],
        };
        let first = ["run", "--cgroup", &cgroup, "--runtime", runtime_name(peer)];
        self.command(&[&first[..], more, options, &[image, id], words].concat())
    }

    /// A container that runs in the background, without anybody at its streams.
    #[track_caller]
    pub fn detached(&self, options: &[&str], id: &str, script: &str) {
        let options = [&["--detach"], options].concat();
        let words = ["sh", "-c", script];
        let outcome = self.oci.run_command(self.run_command(&options, id, &words));
        assert!(outcome.status.success(), "{outcome}\n{}", self.logged());
    }

    /// A container that runs until it is told to end, by SIGTERM with code 5; it would hear that now.
    #[track_caller]
    pub fn endless(&self, options: &[&str], id: &str) {
        let script = "trap 'exit 5' TERM; touch /ready; while :; do sleep 0.2; done";
        self.detached(options, id, script);
        self.exec("ready", id, "until [ -e /ready ]; do sleep 0.1; done").assert_code(0);
    }

    /// Runs a command in a container; what it says.
    #[track_caller]
    pub fn exec(&self, name: &str, id: &str, script: &str) -> Outcome {
        self.run(&["task", "exec", "--exec-id", name, id, "sh", "-c", script])
    }

    /// Process and state of a container's task, as `ctr task ls` has it.
    #[track_caller]
    pub fn task(&self, id: &str) -> Option<(u32, String)> {
        let text = self.text(&["task", "ls"]);
        let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut found = words.filter(|words| words.first() == Some(&id));
        let words = found.next()?;
        Some((words[1].parse().unwrap(), words[2].to_owned()))
    }

    /// Waits until its task does that.
    #[track_caller]
    pub fn wait_for_state(&self, id: &str, state: &str) {
        self.oci.wait(&format!("{id} to be {state}"), || {
            self.task(id).is_some_and(|(_, found)| found == state)
        });
    }

    /// Kills a container and removes it.
    #[track_caller]
    pub fn remove(&self, id: &str) {
        self.run(&["task", "kill", "--signal", "SIGKILL", id]);
        self.wait_for_state(id, "STOPPED");
        // Its exit code is `ctr`'s, or a line of its log.
        self.run(&["task", "rm", id]);
        self.text(&["container", "rm", id]);
    }

    /// A container's bundle.
    #[must_use]
    pub fn bundle(&self, id: &str) -> PathBuf {
        let tasks = self.oci.path("run").join("io.containerd.runtime.v2.task");
        tasks.join(&self.namespace).join(id)
    }

    fn address(&self, id: &str) -> String {
        fs::read_to_string(self.bundle(id).join("address")).unwrap()
    }

    /// Where the shim of a container listens that is in no pod, be it there or not.
    #[must_use]
    pub fn socket_of(&self, id: &str) -> PathBuf {
        let name = self.oci.path("c.sock").join(&self.namespace).join(id);
        let hash = Sha256::digest(name.as_os_str().as_encoded_bytes());
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        PathBuf::from("/run/containerd/s/bulkhead").join(hash)
    }

    /// Where the shim listens.
    #[must_use]
    pub fn socket(&self, id: &str) -> PathBuf {
        self.address(id).trim_start_matches("unix://").into()
    }

    /// The shim's own service.
    #[must_use]
    pub fn shim(&self, id: &str) -> Shim {
        Shim::new(&self.address(id), self.oci.is_bulkhead())
    }

    /// The shim's process.
    #[must_use]
    pub fn shim_pid(&self, id: &str) -> u32 {
        self.shim(id).pid(id)
    }

    /// The daemon's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("it runs").id()
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            end_daemon(&mut daemon);
        }
        // What a test has left behind by failing; what a test must not leave is looked for before.
        if thread::panicking() {
            eprintln!("{}", self.logged());
            self.oci.clear();
        }
    }
}
