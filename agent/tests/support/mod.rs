//! Drives a real agent over its protocol, as a host process: what a monitor does, in as few lines as a test needs.

mod guest;

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use bulkhead_protocol::{
    Call, Create, Exec, ExitStatus, Exited, Failure, MAX_FROM_AGENT, Message, Prepare, ProcessInfo,
    Ready, Reply, Request, Root, Stats, Stdio, StreamHello, Target, Token, read_frame, write_frame,
};
use bulkhead_vmm::api::{End, SnapshotFiles};
use serde_json::{Value, json};
use tempfile::TempDir;

/// No answer takes this long, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(600);

#[allow(unused_imports)]
pub use guest::{Guest, Origin, erofs, ext4, parts};

/// Where the agent runs.
pub enum Place {
    Host(Child),
    Guest(Guest),
}

/// A running agent and the monitor's side of it.
pub struct Agent {
    place: Place,
    control: UnixStream,
    streams: Receiver<(Token, UnixStream)>,
    arrived: Vec<(Token, UnixStream)>,
    exits: Vec<Exited>,
    /// Containers and how many of their processes were killed for want of memory.
    pub kills: Vec<(String, u64)>,
    seq: u64,
    pub ready: Ready,
    pub dir: TempDir,
}

fn saved(dir: &Path) -> SnapshotFiles {
    SnapshotFiles { state: dir.join("state"), memory: dir.join("memory") }
}

/// False, and a line that says so, where the tests cannot run.
pub fn can_run() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: containers need root");
    }
    root
}

impl Agent {
    /// Starts an agent that copies its memory for new processes, as a host process does.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts an agent that is the first process of a PID namespace and so shares its memory with new processes, as in a
    /// guest.
    pub fn start_as_first() -> Self {
        Self::with(&["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
    }

    /// Boots a guest; `disks` makes its disks in a directory.
    pub fn boot(parts: [String; 3], disks: impl FnOnce(&Path) -> Vec<PathBuf>) -> Self {
        Self::launch(None, |dir, path| {
            let disks: Vec<_> = disks(dir).into_iter().map(|file| vec![file]).collect();
            Place::Guest(Guest::start(parts, path, &disks, None, Origin::Boot))
        })
    }

    /// Boots a guest with disks and a directory of the host.
    pub fn boot_with_all(
        parts: [String; 3],
        media: impl FnOnce(&Path) -> (Vec<PathBuf>, PathBuf),
    ) -> Self {
        Self::launch(None, |dir, path| {
            let (disks, root) = media(dir);
            let disks: Vec<_> = disks.into_iter().map(|file| vec![file]).collect();
            Place::Guest(Guest::start(parts, path, &disks, Some(&root), Origin::Boot))
        })
    }

    /// Boots a guest with two empty drives and an empty share, has it prepared and saved; `files` are in its directory.
    pub fn template(parts: [String; 3], prepare: Prepare) -> Self {
        let mut agent = Self::launch(None, |dir, path| {
            let disks = [Vec::new(), Vec::new()];
            let origin = Origin::Template(saved(dir));
            Place::Guest(Guest::start(parts, path, &disks, None, origin))
        });
        agent.call(Call::Prepare(Box::new(prepare))).unwrap();
        agent.guest().save();
        agent
    }

    /// A machine that goes on from a template, with these disks and this share.
    pub fn clone_of(
        template: &Self,
        parts: [String; 3],
        disks: &[PathBuf],
        shared: Option<&Path>,
    ) -> Self {
        Self::launch(Some(template.ready.clone()), |_, path| {
            let media = |number: usize| disks.get(number).cloned().into_iter().collect();
            let origin = Origin::Clone(saved(template.dir.path()));
            let disks: [Vec<_>; 2] = [media(0), media(1)];
            Place::Guest(Guest::start(parts, path, &disks, shared, origin))
        })
    }

    /// The machine.
    pub fn guest(&mut self) -> &mut Guest {
        match &mut self.place {
            Place::Host(_) => panic!("a host process is no guest"),
            Place::Guest(guest) => guest,
        }
    }

    fn with(prefix: &[&str]) -> Self {
        let mut words: Vec<_> = prefix.iter().map(|word| (*word).to_owned()).collect();
        if let Ok(trace) = std::env::var("AGENT_TRACE") {
            words.splice(0..0, ["strace", "-f", "-o", &trace].map(str::to_owned));
        }
        Self::launch(None, |_, path| {
            let agent = env!("CARGO_BIN_EXE_bulkhead-agent");
            words.extend([agent.to_owned(), "--connect".to_owned(), path.display().to_string()]);
            Place::Host(Command::new(&words[0]).args(&words[1..]).spawn().unwrap())
        })
    }

    /// `ready`: what the agent has said already.
    fn launch(ready: Option<Ready>, place: impl FnOnce(&Path, &Path) -> Place) -> Self {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.path().join("agent");
        let listen = |port| UnixListener::bind(format!("{}_{port}", path.display())).unwrap();
        let control = listen(bulkhead_protocol::CONTROL_PORT);
        let incoming = listen(bulkhead_protocol::STREAM_PORT);
        let place = place(dir.path(), &path);
        let (mut control, _) = control.accept().unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        let ready =
            ready.unwrap_or_else(|| match read_frame(&mut control, MAX_FROM_AGENT).unwrap() {
                Message::Ready(ready) => ready,
                other => panic!("{other:?} is not Ready"),
            });
        let (sender, streams) = channel();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = incoming.accept() {
                // A request that failed leaves a connection without a hello.
                let hello = read_frame::<StreamHello>(&mut stream, MAX_FROM_AGENT);
                let Ok(hello) = hello else { continue };
                if sender.send((hello.token, stream)).is_err() {
                    break;
                }
            }
        });
        let arrived = Vec::new();
        let (exits, kills) = (Vec::new(), Vec::new());
        Self { place, control, streams, arrived, exits, kills, seq: 0, ready, dir }
    }

    /// A container's id on this machine, where other tests have containers, too.
    pub fn id(&self, name: &str) -> String {
        match &self.place {
            Place::Host(process) => format!("{name}.{}", process.id()),
            Place::Guest(_) => name.to_owned(),
        }
    }

    /// What a request names.
    pub fn target(&self, container: &str, exec: Option<&str>) -> Target {
        Target { container: self.id(container), exec: exec.map(str::to_owned) }
    }

    /// Sends a request and waits for its answer.
    pub fn call(&mut self, call: Call) -> Result<Reply, Failure> {
        self.seq += 1;
        write_frame(&mut self.control, &Request { seq: self.seq, call }).unwrap();
        loop {
            match read_frame(&mut self.control, MAX_FROM_AGENT).unwrap() {
                Message::Reply { seq, result } => {
                    assert_eq!(seq, self.seq);
                    return result;
                }
                Message::Exited(exited) => self.exits.push(exited),
                Message::OomKilled { container, count } => self.kills.push((container, count)),
                Message::Ready(_) => panic!("a second Ready"),
                Message::Query(query) => panic!("{query:?} of a container without a network"),
                Message::Refused { stream } => panic!("no answer yet, and {stream} is refused"),
            }
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.control.write_all(bytes).unwrap();
    }

    /// The next message, whatever it is.
    pub fn message(&mut self) -> Message {
        read_frame(&mut self.control, MAX_FROM_AGENT).unwrap()
    }

    /// The connection with this token.
    pub fn stream(&mut self, token: Token) -> UnixStream {
        loop {
            if let Some(at) = self.arrived.iter().position(|(arrived, _)| *arrived == token) {
                return self.arrived.swap_remove(at).1;
            }
            self.arrived.push(self.streams.recv_timeout(PATIENCE).unwrap());
        }
    }

    /// Waits for a process's end.
    pub fn wait(&mut self, container: &str, exec: Option<&str>) -> Exited {
        let target = self.target(container, exec);
        loop {
            if let Some(at) = self.exits.iter().position(|exited| exited.target == target) {
                return self.exits.swap_remove(at);
            }
            match self.message() {
                Message::Exited(exited) => self.exits.push(exited),
                Message::OomKilled { container, count } => self.kills.push((container, count)),
                other => panic!("{other:?} is no end"),
            }
        }
    }

    pub fn create(
        &mut self,
        id: &str,
        spec: Value,
        root: &Path,
        stdio: Stdio,
    ) -> Result<Reply, Failure> {
        self.create_in(id, spec, Root::Directory { path: root.to_owned() }, stdio)
    }

    pub fn create_in(
        &mut self,
        id: &str,
        spec: Value,
        root: Root,
        stdio: Stdio,
    ) -> Result<Reply, Failure> {
        self.call(Call::Create(Box::new(Create {
            container: self.id(id),
            spec,
            root,
            stdio,
            shares: Vec::new(),
            bundle: String::new(),
            network: None,
            shared: Vec::new(),
            memory: Vec::new(),
        })))
    }

    pub fn start_container(&mut self, id: &str) -> Result<Reply, Failure> {
        self.call(Call::Start { container: self.id(id) })
    }

    pub fn delete(&mut self, id: &str) -> Result<Reply, Failure> {
        self.call(Call::Delete { container: self.id(id) })
    }

    pub fn kill(&mut self, id: &str, signal: i32, all: bool) -> Result<Reply, Failure> {
        self.call(Call::Kill { target: self.target(id, None), signal, all })
    }

    pub fn exec(
        &mut self,
        id: &str,
        name: &str,
        process: Value,
        stdio: Stdio,
    ) -> Result<Reply, Failure> {
        self.call(Call::Exec(Box::new(Exec {
            target: self.target(id, Some(name)),
            process,
            stdio,
        })))
    }

    pub fn pause(&mut self, id: &str) -> Result<Reply, Failure> {
        self.call(Call::Pause { container: self.id(id) })
    }

    pub fn resume(&mut self, id: &str) -> Result<Reply, Failure> {
        self.call(Call::Resume { container: self.id(id) })
    }

    pub fn update(&mut self, id: &str, resources: Value) -> Result<Vec<String>, Failure> {
        match self.call(Call::Update { container: self.id(id), resources })? {
            Reply::Updated { warnings } => Ok(warnings),
            other => panic!("{other:?}"),
        }
    }

    pub fn stats(&mut self, id: &str) -> Result<Stats, Failure> {
        match self.call(Call::Stats { container: self.id(id) })? {
            Reply::Stats(stats) => Ok(*stats),
            other => panic!("{other:?}"),
        }
    }

    pub fn processes(&mut self, id: &str) -> Result<Vec<ProcessInfo>, Failure> {
        match self.call(Call::Processes { container: self.id(id) })? {
            Reply::Processes(list) => Ok(list),
            other => panic!("{other:?}"),
        }
    }

    /// Runs a container to its end: its standard output, its standard error, its status.
    pub fn run(&mut self, spec: Value) -> (String, String, ExitStatus) {
        let path = self.root("root");
        self.run_in(Root::Directory { path }, spec)
    }

    /// The same in another root.
    pub fn run_in(&mut self, root: Root, spec: Value) -> (String, String, ExitStatus) {
        self.run_made(root, spec).1
    }

    /// The same, with the answer to the request that made it.
    pub fn run_made(&mut self, root: Root, spec: Value) -> (Reply, (String, String, ExitStatus)) {
        let stdio = Stdio { main: Some(1), stdin: false, stderr: Some(2) };
        let made = self.create_in("c", spec, root, stdio).unwrap();
        self.start_container("c").unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        self.stream(1).read_to_string(&mut out).unwrap();
        self.stream(2).read_to_string(&mut err).unwrap();
        let status = self.wait("c", None).status;
        self.delete("c").unwrap();
        (made, (out, err, status))
    }

    /// A root with busybox in it.
    pub fn root(&self, name: &str) -> PathBuf {
        make_root(self.dir.path().join(name))
    }

    /// The host process's number.
    pub fn pid(&self) -> u32 {
        match &self.place {
            Place::Host(process) => process.id(),
            Place::Guest(_) => panic!("a guest's agent is its first process"),
        }
    }

    /// Ends the agent in good order and returns its exit code.
    pub fn shutdown(mut self) -> Option<i32> {
        self.call(Call::Shutdown).unwrap();
        self.exit_code()
    }

    /// Closes the control connection and returns the agent's exit code.
    pub fn hang_up(mut self) -> Option<i32> {
        self.close();
        self.exit_code()
    }

    /// Closes the control connection.
    pub fn close(&mut self) {
        self.control.shutdown(std::net::Shutdown::Both).unwrap();
    }

    fn exit_code(&mut self) -> Option<i32> {
        match &mut self.place {
            Place::Host(process) => process.wait().unwrap().code(),
            Place::Guest(_) => panic!("a guest has no exit code"),
        }
    }

    /// Guest-kernel instructions that a guest has taken so far.
    pub fn instructions(&mut self) -> u64 {
        self.guest().count()
    }

    /// Shuts a guest down and hears how it ended.
    pub fn power_off(&mut self) -> (End, &Guest) {
        self.seq += 1;
        let request: Request = Request { seq: self.seq, call: Call::Shutdown };
        write_frame(&mut self.control, &request).unwrap();
        // The answer may be lost with the machine, whose end says the same.
        while read_frame::<Message>(&mut self.control, MAX_FROM_AGENT).is_ok() {}
        self.ended()
    }

    /// Hears how a guest ended.
    pub fn ended(&mut self) -> (End, &Guest) {
        match &mut self.place {
            Place::Host(_) => panic!("a host process is no guest"),
            Place::Guest(guest) => (guest.end(), guest),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It has ended already when a test is through.
        let _ = self.control.shutdown(std::net::Shutdown::Both);
        if let Place::Host(process) = &mut self.place {
            let _ = process.wait();
        }
    }
}

/// Makes a directory with busybox in it.
pub fn make_root(root: PathBuf) -> PathBuf {
    if !root.exists() {
        for dir in ["bin", "etc", "dev", "proc", "sys", "tmp", "root", "usr/bin"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        let list = Command::new("/bin/busybox").arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines() {
            if applet != "busybox" {
                symlink("busybox", root.join("bin").join(applet)).unwrap();
            }
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n";
        fs::write(root.join("etc/passwd"), passwd).unwrap();
    }
    root
}

/// Standard input, output and error.
pub fn all(token: Token) -> Stdio {
    Stdio { main: Some(token), stdin: true, stderr: Some(token + 1) }
}

/// A specification like those of docker: its namespaces but for the network, its mounts, its hidden paths.
pub fn spec(args: &[&str]) -> Value {
    let tmpfs = |destination: &str, options: &[&str]| json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options});
    json!({
        "ociVersion": "1.2.0",
        "hostname": "inside",
        "root": {"path": "rootfs", "readonly": false},
        "process": process(args),
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            tmpfs("/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            tmpfs("/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
                "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
                "/sys/devices/virtual/powercap", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]}
        }
    })
}

/// A process with docker's capabilities.
pub fn process(args: &[&str]) -> Value {
    let caps = [
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    ];
    json!({
        "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/",
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "NAME=value"],
        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
    })
}

/// A shell script as a container's program.
pub fn shell(script: &str) -> Value {
    spec(&["/bin/sh", "-c", script])
}
