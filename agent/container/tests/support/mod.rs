//! Containers on this host, made as `create`, `start` and `delete` of a runtime make them.

use std::{
    fs::{self, File},
    io::{Read, Seek},
    os::{
        fd::OwnedFd,
        unix::fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use bulkhead_container::{
    Builder, Detached, Error, Platform, Process, Record, Root, Stdio,
    hooks::State,
    spec::{self, Spec},
};
use rustix::{
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
    process::{WaitOptions, WaitStatus},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// False, and a line that says so, where the tests cannot run.
pub fn can_run() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: containers need root");
    }
    root
}

/// A bundle and where its container's state is.
pub struct Bundle {
    pub dir: TempDir,
    pub id: String,
    pub platform: Platform,
    pub spec: Value,
}

/// How a container's program ended, and what it said on its standard output and error.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: i32,
    pub out: String,
}

/// A container that waits.
pub struct Waiting {
    pub record: Record,
    pub process: Process,
    pub console: Option<OwnedFd>,
    pub warnings: Vec<String>,
    pub out: File,
    pub socket: PathBuf,
}

impl Bundle {
    /// Of a container that runs this line of a shell.
    pub fn shell(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    pub fn new(args: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        make_root(&dir.path().join("rootfs"));
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("engine-{}-{count}", std::process::id());
        let platform = Platform::host(dir.path().join("scratch")).unwrap();
        Self { dir, id, platform, spec: spec(args) }
    }

    /// Sets a property, by a JSON pointer without escapes; missing objects on the way are made.
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        let mut place = &mut self.spec;
        for name in pointer.split('/').skip(1) {
            place = match name.parse::<usize>() {
                Ok(at) => &mut place[at],
                Err(_) => &mut place[name],
            };
        }
        *place = value;
        self
    }

    /// Adds to a list.
    pub fn add(mut self, pointer: &str, value: Value) -> Self {
        self.spec.pointer_mut(pointer).unwrap().as_array_mut().unwrap().push(value);
        self
    }

    /// Adds a mount.
    pub fn mount(self, destination: &str, kind: &str, source: &str, options: &[&str]) -> Self {
        self.add(
            "/mounts",
            json!({
                "destination": destination, "type": kind, "source": source, "options": options,
            }),
        )
    }

    /// The namespaces of these types, and no others.
    pub fn namespaces(self, kinds: &[&str]) -> Self {
        let kinds: Vec<_> = kinds
            .iter()
            .map(|kind| match kind.split_once('=') {
                Some((kind, path)) => json!({"type": kind, "path": path}),
                None => json!({"type": kind}),
            })
            .collect();
        self.set("/linux/namespaces", json!(kinds))
    }

    /// A user namespace of 65536 ids from 100000 on, to which the root file system belongs.
    pub fn user_namespace(self) -> Self {
        self.give_root();
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        self.add("/linux/namespaces", json!({"type": "user"}))
            .set("/linux/uidMappings", map.clone())
            .set("/linux/gidMappings", map)
    }

    pub fn give_root(&self) {
        let chown = Command::new("chown").args(["-hR", "100000:100000"]).arg(self.root()).status();
        assert!(chown.unwrap().success());
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub fn parsed(&self) -> Spec {
        serde_json::from_value(self.spec.clone()).unwrap()
    }

    pub fn create(&self) -> Result<Waiting, Error> {
        self.create_with(|builder| builder)
    }

    pub fn create_with(
        &self,
        change: impl for<'a> FnOnce(Builder<'a>) -> Builder<'a>,
    ) -> Result<Waiting, Error> {
        let spec = self.parsed();
        let socket = self.dir.path().join("start.sock");
        let _ = fs::remove_file(&socket);
        let (stdio, out) = match spec.process.as_ref().is_some_and(|process| process.terminal) {
            true => (Stdio::Terminal, tempfile::tempfile().unwrap()),
            false => streams(),
        };
        let state = State::new(&self.id, self.dir.path().to_str().unwrap(), &spec);
        let builder = change(Builder::new(&self.platform, stdio).state(state));
        let root = Root::Directory(self.root());
        let detached = builder.detached(&self.id, &spec, root, listen(&socket))?;
        let Detached { ref record, ref warnings, .. } = detached;
        let (record, warnings) = (copy(record), warnings.clone());
        let (process, console) = detached.commit().unwrap();
        Ok(Waiting { record, process, console, warnings, out, socket })
    }

    /// Runs the container to its end.
    pub fn run(&self) -> Result<Ended, Error> {
        let mut waiting = self.create()?;
        let started = waiting.record.start(&waiting.socket);
        let ended = waiting.end();
        started?;
        Ok(ended)
    }

    /// Runs one more process to its end.
    pub fn exec(&self, record: &Record, process: Value) -> Result<Ended, Error> {
        let process: spec::Process = serde_json::from_value(process).unwrap();
        let (stdio, mut out) = streams();
        let joined = record.exec(&self.platform, stdio, &process)?;
        Ok(Ended { code: wait(&joined.process), out: text(&mut out) })
    }
}

impl Waiting {
    /// Waits for the end and removes what is left.
    pub fn end(&mut self) -> Ended {
        let code = wait(&self.process);
        self.record.remove().unwrap();
        Ended { code, out: text(&mut self.out) }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // After a test that failed half way, too, nobody is left waiting.
        if self.record.signal(9).is_ok() {
            let _ = rustix::process::waitpid(Some(self.process.pid()), WaitOptions::empty());
        }
        let _ = self.record.remove();
    }
}

/// The standard streams of a process, and the file that its output and errors go to.
pub fn streams() -> (Stdio, File) {
    let file = tempfile::Builder::new().append(true).tempfile().unwrap().into_file();
    let copy = || Some(OwnedFd::from(file.try_clone().unwrap()));
    (Stdio::Files([None, copy(), copy()]), file)
}

fn text(file: &mut File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// What another process would read from a file.
pub fn copy(record: &Record) -> Record {
    serde_json::from_str(&serde_json::to_string(record).unwrap()).unwrap()
}

/// The exit code of a child; 128 and its number for a signal.
pub fn wait(process: &Process) -> i32 {
    let (_, status) =
        rustix::process::waitpid(Some(process.pid()), WaitOptions::empty()).unwrap().unwrap();
    code(status)
}

fn code(status: WaitStatus) -> i32 {
    status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap())
}

pub fn listen(path: &Path) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&socket, 16).unwrap();
    socket
}

/// A process object.
pub fn process(args: &[&str]) -> Value {
    json!({
        "args": args, "cwd": "/", "user": {"uid": 0, "gid": 0},
        "env": ["PATH=/bin", "HOME=/root"],
        "capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN", "CAP_KILL"],
            "permitted": ["CAP_CHOWN", "CAP_KILL"],
        },
    })
}

fn spec(args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "hostname": "inside",
        "process": process(args),
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"},
            ],
            "maskedPaths": [], "readonlyPaths": [],
        },
    })
}

/// A directory with busybox in it.
fn make_root(root: &Path) {
    for dir in ["bin", "etc", "dev", "proc", "sys", "tmp", "root"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    // A copy: a container may write into it.
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
