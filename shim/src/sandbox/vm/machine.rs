//! Starts a microVM: the sockets that its agent will connect to, then the VMM with the machine's configuration.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc::Sender,
    thread,
    time::Duration,
};

use bulkhead_protocol::{CONTROL_PORT, STREAM_PORT, StreamHello, read_frame};
use bulkhead_vmm::api::{Backend, ClientError, Disk, Messages, SerialOutput, VmConfig, Vmm, Vsock};

use crate::sandbox::Event;

/// The guest's vsock context id; each VMM has a context of its own, so that all guests can have the same.
const GUEST_CID: u32 = 3;
/// More stdio connections than this are refused for the life of a guest.
const MAX_STREAMS: usize = 64;
/// A connection that does not say within this time which stream it is, is closed.
const HELLO_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest hello.
const MAX_HELLO: usize = 256;

/// What the machine is made of.
#[derive(Debug)]
pub struct Machine {
    /// The VMM's program.
    pub vmm: PathBuf,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The RAM disk that holds the agent.
    pub initrd: PathBuf,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The image's files, in order.
    pub image: Vec<PathBuf>,
    /// The writable layer; absent for a read-only container.
    pub writable: Option<PathBuf>,
    /// The guest's console.
    pub console_log: Option<PathBuf>,
    /// What kind of KVM to expect.
    pub backend: Backend,
    /// The path that the machine's sockets begin with.
    pub vsock: PathBuf,
    /// Where the VMM's standard error goes.
    pub log: PathBuf,
}

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket or the log could not be made.
    #[error("cannot make {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The VMM could not be started.
    #[error(transparent)]
    Vmm(#[from] ClientError),
}

/// A running microVM. Dropping it ends it.
#[derive(Debug)]
pub struct Vm {
    _vmm: Vmm,
}

impl Vm {
    /// Starts the machine; everything that happens to it arrives in `events`.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(machine: &Machine, events: &Sender<Event>) -> Result<Self, StartError> {
        let control = listen(&machine.vsock, CONTROL_PORT)?;
        let streams = listen(&machine.vsock, STREAM_PORT)?;
        let log = File::create(&machine.log)
            .map_err(|source| StartError::File { path: machine.log.clone(), source })?;
        let (vmm, messages) =
            Vmm::spawn(&machine.vmm, &machine.config(), Stdio::null(), log.into())?;
        let (to, log) = (events.clone(), machine.log.clone());
        thread::spawn(move || hear_vmm(messages, &log, &to));
        let to = events.clone();
        thread::spawn(move || {
            if let Ok((agent, _)) = control.accept() {
                let _ = to.send(Event::AgentConnected(agent));
            }
        });
        let to = events.clone();
        thread::spawn(move || accept_streams(&streams, &to));
        Ok(Self { _vmm: vmm })
    }
}

impl Machine {
    fn config(&self) -> VmConfig {
        let disk =
            |id: &str, files: Vec<PathBuf>, read_only| Disk { id: id.into(), files, read_only };
        let image = disk("image", self.image.clone(), true);
        let writable = self.writable.clone().map(|file| disk("writable", vec![file], false));
        VmConfig {
            kernel: self.kernel.clone(),
            initrd: Some(self.initrd.clone()),
            cmdline: String::new(),
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            disks: [image].into_iter().chain(writable).collect(),
            vsock: Some(Vsock { cid: GUEST_CID, path: self.vsock.clone() }),
            shares: Vec::new(),
            serial: self.console_log.clone().map(SerialOutput::File),
            backend: self.backend,
        }
    }
}

fn listen(vsock: &Path, port: u32) -> Result<UnixListener, StartError> {
    let mut path = vsock.as_os_str().to_owned();
    path.push(format!("_{port}"));
    UnixListener::bind(&path).map_err(|source| StartError::File { path: path.into(), source })
}

fn hear_vmm(mut messages: Messages, log: &Path, to: &Sender<Event>) {
    while let Ok(message) = messages.next_message() {
        if to.send(Event::Vmm(message)).is_err() {
            return;
        }
    }
    let _ = to.send(Event::VmmGone(last_line(log)));
}

/// The last line of a log, of its last 4 KiB at most.
fn last_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = fs::metadata(path).ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(4096))).ok()?;
    let lines = BufReader::new(file.take(4096)).split(b'\n').filter_map(Result::ok);
    let line = lines.filter(|line| !line.is_empty()).last()?;
    Some(String::from_utf8_lossy(&line).into_owned())
}

fn accept_streams(listener: &UnixListener, to: &Sender<Event>) {
    for stream in listener.incoming().take(MAX_STREAMS).filter_map(Result::ok) {
        let to = to.clone();
        thread::spawn(move || {
            if let Some(token) = hello(&stream) {
                let _ = to.send(Event::Stream(token, stream));
            }
        });
    }
}

fn hello(mut stream: &UnixStream) -> Option<u64> {
    stream.set_read_timeout(Some(HELLO_TIMEOUT)).ok()?;
    let hello: StreamHello = read_frame(&mut stream, MAX_HELLO).ok()?;
    stream.set_read_timeout(None).ok()?;
    Some(hello.token)
}
