//! A network namespace of the test's own.

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace; a process keeps it.
#[derive(Debug)]
pub struct Namespace(Child);

impl Namespace {
    /// One in which a script of the shell has run, after its loopback interface was set up.
    #[must_use]
    pub fn new(script: &str) -> Self {
        let script = format!("ip link set lo up; {script}; echo ready; exec cat");
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let ready = keeper.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 6]);
        ready.expect("a network namespace can be made");
        Self(keeper)
    }

    /// One with an interface `eth0`, after which a script has run, and one with its other end, `far0`, which is up.
    #[must_use]
    pub fn pair(script: &str) -> [Self; 2] {
        let far = Self::new("true");
        let keeper = far.0.id();
        let near = Self::new(&format!(
            "ip link add eth0 type veth peer name far0 netns {keeper}; {script}"
        ));
        far.text("ip link set far0 up");
        [near, far]
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    /// A command that runs in it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg(program);
        command
    }

    /// The same as this command, in it.
    #[must_use]
    pub fn wrap(&self, inner: &Command) -> Command {
        let mut command = self.command(inner.get_program());
        command.args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// What a command says in it that must succeed; its words are parted by spaces.
    #[track_caller]
    pub fn text(&self, line: &str) -> String {
        let mut words = line.split(' ');
        let mut command = self.command(words.next().unwrap_or_default());
        let output = command.args(words).output().expect("nsenter runs");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Does something in it.
    pub fn within<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> T {
        let file = File::open(self.path()).expect("the namespace");
        let body = move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("the namespace can be joined");
            body()
        };
        thread::spawn(body).join().expect("no panic")
    }

    /// How many programs the kernel asks for the sockets of its connections (bpf(2), `BPF_PROG_QUERY`).
    ///
    /// # Panics
    /// The kernel has none of this kind, or does not tell.
    #[must_use]
    pub fn socket_programs(&self) -> u32 {
        /// The part of `union bpf_attr` that the command reads and writes.
        #[repr(C)]
        struct Query {
            target: u32,
            kind: u32,
            flags: [u32; 2],
            ids: u64,
            count: [u32; 2],
        }
        const QUERY: libc::c_long = 16;
        /// `BPF_SK_LOOKUP`.
        const SOCKETS: u32 = 36;
        let file = File::open(self.path()).expect("the namespace");
        let target = file.as_raw_fd().cast_unsigned();
        let mut query = Query { target, kind: SOCKETS, flags: [0; 2], ids: 0, count: [0; 2] };
        // SAFETY: the structure is as long as is said and outlives the call, which writes nothing else: there is no room for ids.
        let done = unsafe {
            libc::syscall(libc::SYS_bpf, QUERY, &raw mut query, std::mem::size_of::<Query>())
        };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        query.count[0]
    }

    /// A file that a container serves, asked for at this address.
    #[must_use]
    pub fn fetch(&self, at: SocketAddr, file: &str) -> Option<String> {
        let request = format!("GET /{file} HTTP/1.0\r\n\r\n");
        let answer = self.within(move || {
            let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(20)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
            stream.write_all(request.as_bytes()).ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        })?;
        Some(answer.split_once("\r\n\r\n")?.1.trim().to_owned())
    }

    /// Serves one line to the first who connects.
    pub fn serve_once(&self, at: SocketAddr, line: &'static str) -> thread::JoinHandle<String> {
        let listener =
            self.within(move || TcpListener::bind(at).expect("the address is the host's"));
        thread::spawn(move || {
            let (mut stream, from) = listener.accept().expect("a connection");
            stream.write_all(line.as_bytes()).expect("it is heard");
            let mut said = String::new();
            BufReader::new(&stream).read_line(&mut said).expect("it speaks");
            format!("{} from {}", said.trim(), from.ip())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
