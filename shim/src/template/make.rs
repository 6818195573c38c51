//! Makes a template: boots a machine with empty slots, has its agent prepared, waits until nothing moves, saves it. All of it in
//! the calling thread, because that of a container's maker must stay the only one of its process.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use bulkhead_protocol::{
    CONTROL_PORT, Call, MAX_FROM_AGENT, Message, Prepare, Reader, Ready, Reply, Request, VERSION,
    write_frame,
};
use bulkhead_vmm::api::{
    ClientError, Counters, End, FromVmm, Messages, RequestKind, Response, SnapshotFiles, Vmm,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use serde_json::Value;

use super::{
    Shape, TemplateError,
    files::{MEMORY, Made, STATE},
    slots, usual,
};
use crate::{
    monitor::{LOG, VSOCK_DIRECTORY, VSOCK_NAME, chain, last_words, printable, sockets},
    sandbox::vm::{
        Identity,
        admission::{Admission, Admitted},
    },
    settings::Settings,
};

/// How often the machine's counters are looked at until they stand still.
const LOOK: Duration = Duration::from_millis(100);
/// How often the counters must stand still, one time after the other.
const STILL: u32 = 2;
/// A machine that never does is saved all the same.
const RESTLESS: Duration = Duration::from_secs(10);
/// A machine that stands still does no more than a tick or two between two looks.
const MOST_INSTRUCTIONS: u64 = 20_000;
const MOST_EXITS: u64 = 10;
/// How often a machine is saved again that was busy.
const TRIES: u32 = 5;

/// How far the making of a template is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Another process makes it.
    Wait,
    /// Its machine boots.
    Boot,
    /// Its agent gets ready.
    Prepare,
    /// Its machine is written.
    Save,
}

impl Step {
    /// What somebody is told who waits for a start: why it takes a while, once.
    pub(crate) fn note(self) -> Option<String> {
        matches!(self, Self::Wait | Self::Boot).then(|| self.to_string())
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Wait => "waiting for another process that makes the template",
            Self::Boot => "making a template, once for all machines like this: booting",
            Self::Prepare => "making a template: preparing its guest",
            Self::Save => "making a template: saving its machine",
        })
    }
}

/// Makes one in `draft`, an empty directory.
pub(super) fn make(
    settings: &Settings,
    shape: &Shape,
    draft: &Path,
    tell: &dyn Fn(Step),
) -> Result<Made, TemplateError> {
    let begun = Instant::now();
    let nonce = nonce()?;
    tell(Step::Boot);
    let mut maker = Maker::start(settings, shape, draft)?;
    let ready = maker.boot()?;
    tell(Step::Prepare);
    maker.deadline = Instant::now() + settings.boot_timeout;
    maker.prepare(&nonce)?;
    let instructions = maker.settle()?;
    tell(Step::Save);
    maker.save()?;
    drop(maker);
    for path in [draft.join(VSOCK_DIRECTORY), draft.join(LOG)] {
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(TemplateError::io("remove", &path))?;
    }
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Made { nonce, ready, took_ms, instructions })
}

/// 32 hexadecimal digits that nobody can guess.
fn nonce() -> Result<String, TemplateError> {
    let mut bytes = [0; 16];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|errno| making(format!("no random bytes: {errno}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(super) fn making(why: impl Into<String>) -> TemplateError {
    TemplateError::Making(why.into())
}

/// The owner of the machine and its agent's monitor.
struct Maker {
    vmm: Vmm,
    messages: Messages,
    listener: UnixListener,
    agent: Option<(UnixStream, Reader)>,
    sequence: u64,
    deadline: Instant,
    log: PathBuf,
    _admitted: Admitted,
}

/// What one of the two said.
enum News {
    Vmm(FromVmm),
    Agent(Message),
    /// Neither, so far.
    Time,
}

impl Maker {
    fn start(settings: &Settings, shape: &Shape, draft: &Path) -> Result<Self, TemplateError> {
        let sockets = draft.join(VSOCK_DIRECTORY);
        fs::create_dir(&sockets).map_err(TemplateError::io("make", &sockets))?;
        let name = format!("{VSOCK_NAME}_{CONTROL_PORT}");
        let listener =
            sockets::listen(&sockets, &name).map_err(TemplateError::io("listen in", &sockets))?;
        let files = SnapshotFiles { state: draft.join(STATE), memory: draft.join(MEMORY) };
        let machine = slots::template(shape, sockets.join(VSOCK_NAME), files);
        let log = draft.join(LOG);
        let file = File::create(&log).map_err(TemplateError::io("make", &log))?;
        let mut admitted = Admission::of(settings)
            .admit(machine.memory_mib)
            .map_err(|error| TemplateError::NoMemory(error.to_string()))?;
        let (vmm, messages) = Vmm::spawn(&shape.vmm.path, &machine, Stdio::null(), file.into())
            .map_err(|error| making(chain(&error)))?;
        admitted
            .taken_by(Identity::of(vmm.pid().cast_signed()))
            .map_err(|error| making(error.to_string()))?;
        let deadline = Instant::now() + settings.boot_timeout;
        Ok(Self {
            vmm,
            messages,
            listener,
            agent: None,
            sequence: 0,
            deadline,
            log,
            _admitted: admitted,
        })
    }

    /// Waits for the agent.
    fn boot(&mut self) -> Result<Ready, TemplateError> {
        loop {
            match self.next(self.deadline)? {
                News::Agent(Message::Ready(Ready { version: VERSION, kernel })) => {
                    return Ok(Ready { version: VERSION, kernel: printable(&kernel) });
                }
                News::Agent(Message::Ready(Ready { version, .. })) => {
                    return Err(making(format!(
                        "its agent speaks version {version} of the protocol, this program {VERSION}; build both anew"
                    )));
                }
                News::Vmm(FromVmm::Mark { .. }) => {}
                News::Time => return Err(self.overdue("boot")),
                other => return Err(strange(&other)),
            }
        }
    }

    /// Has the agent do ahead what it can.
    fn prepare(&mut self, nonce: &str) -> Result<(), TemplateError> {
        self.sequence += 1;
        let prepare =
            Prepare { nonce: nonce.to_owned(), specs: usual::specs()?, shares: slots::tags() };
        let request =
            Request::<Value> { seq: self.sequence, call: Call::Prepare(Box::new(prepare)) };
        let Some((socket, _)) = &mut self.agent else { return Err(making("it has no agent")) };
        let sent = socket.set_write_timeout(Some(Duration::from_secs(10)));
        sent.map_err(bulkhead_protocol::FrameError::from)
            .and_then(|()| write_frame(socket, &request))
            .map_err(|error| making(format!("its agent cannot be asked: {error}")))?;
        loop {
            match self.next(self.deadline)? {
                News::Agent(Message::Reply { result: Ok(Reply::Done), .. }) => return Ok(()),
                News::Agent(Message::Reply { result: Err(failure), .. }) => {
                    return Err(making(format!("its agent: {}", printable(&failure.message))));
                }
                News::Vmm(FromVmm::Mark { .. }) => {}
                News::Time => return Err(self.overdue("get ready")),
                other => return Err(strange(&other)),
            }
        }
    }

    /// Waits until the machine does nothing; the guest-kernel instructions that it took by then.
    fn settle(&mut self) -> Result<u64, TemplateError> {
        let until = (Instant::now() + RESTLESS).min(self.deadline);
        let mut before = self.counters()?;
        let mut still = 0;
        while still < STILL && Instant::now() < until {
            let look = Instant::now() + LOOK;
            while !matches!(self.next(look)?, News::Time) {}
            let now = self.counters()?;
            let is_still = now.instructions.saturating_sub(before.instructions)
                <= MOST_INSTRUCTIONS
                && now.exits.saturating_sub(before.exits) <= MOST_EXITS;
            still = if is_still { still + 1 } else { 0 };
            before = now;
        }
        Ok(before.instructions)
    }

    fn counters(&mut self) -> Result<Counters, TemplateError> {
        match self.ask(RequestKind::Counters)? {
            Ok(Response::Counters(counters)) => Ok(*counters),
            Ok(other) => Err(making(format!("its VMM answered {other:?}"))),
            Err(why) => Err(making(printable(&why))),
        }
    }

    /// Has the machine written.
    fn save(&mut self) -> Result<(), TemplateError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.ask(RequestKind::Snapshot)? {
                Ok(_) => return Ok(()),
                // Something was under way, and is not for long.
                Err(why) if tries < TRIES && why.contains("busy") => {
                    self.ask(RequestKind::Resume)?.map_err(|why| making(printable(&why)))?;
                    self.settle()?;
                }
                Err(why) => return Err(making(printable(&why))),
            }
        }
    }

    /// Asks the VMM and waits for its answer.
    fn ask(&mut self, kind: RequestKind) -> Result<Result<Response, String>, TemplateError> {
        let id = self.vmm.request(kind).map_err(|error| self.gone(&error))?;
        loop {
            match self.next(self.deadline)? {
                News::Vmm(FromVmm::Response { id: of, result }) if of == id => return Ok(result),
                News::Time => return Err(self.overdue("answer its VMM")),
                _ => {}
            }
        }
    }

    /// The next word of either, until a time.
    fn next(&mut self, until: Instant) -> Result<News, TemplateError> {
        loop {
            if let Some((_, reader)) = &mut self.agent {
                let message = reader.next_message();
                let message =
                    message.map_err(|error| making(format!("its agent cannot be heard: {error}")));
                if let Some(message) = message? {
                    return Ok(News::Agent(message));
                }
            }
            if self.messages.is_buffered() || self.wait(until)? == Source::Vmm {
                return match self.messages.next_message() {
                    Ok(FromVmm::Ended(End::Failed(why))) => Err(making(printable(&why))),
                    Ok(FromVmm::Ended(end)) => Err(making(end.to_string())),
                    Ok(message) => Ok(News::Vmm(message)),
                    Err(error) => Err(self.gone(&error)),
                };
            }
            if Instant::now() >= until {
                return Ok(News::Time);
            }
        }
    }

    /// Waits until there is something of the VMM's, or takes what there is of the agent's.
    fn wait(&mut self, until: Instant) -> Result<Source, TemplateError> {
        let failed = |error: std::io::Error| making(format!("cannot wait: {error}"));
        let agent: BorrowedFd<'_> = match &self.agent {
            Some((socket, _)) => socket.as_fd(),
            None => self.listener.as_fd(),
        };
        let mut fds = [
            PollFd::from_borrowed_fd(self.messages.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(agent, PollFlags::IN),
        ];
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok();
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let [vmm, agent] = fds.map(|fd| !fd.revents().is_empty());
        if vmm {
            return Ok(Source::Vmm);
        }
        match &mut self.agent {
            Some((socket, reader)) if agent => match reader.fill(socket) {
                Ok(true) => {}
                Ok(false) => return Err(making("its agent has ended")),
                Err(error) => return Err(failed(error)),
            },
            None if agent => match self.listener.accept() {
                Ok((socket, _)) => {
                    // What is not there yet is waited for above.
                    socket.set_nonblocking(false).map_err(failed)?;
                    self.agent = Some((socket, Reader::new(MAX_FROM_AGENT)));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(failed(error)),
            },
            _ => {}
        }
        Ok(Source::Agent)
    }

    /// The VMM cannot be heard or asked; what it wrote last says more.
    fn gone(&self, error: &ClientError) -> TemplateError {
        making(match last_words(&self.log) {
            Some(line) => printable(&line),
            None if matches!(error, ClientError::Gone) => "its VMM was killed".into(),
            None => chain(error),
        })
    }

    fn overdue(&self, what: &str) -> TemplateError {
        making(format!("its guest did not {what} in time (BULKHEAD_BOOT_TIMEOUT)"))
    }
}

/// Of whom there is something.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Vmm,
    Agent,
}

fn strange(news: &News) -> TemplateError {
    making(match news {
        News::Agent(message) => format!("its agent said {}", printable(&format!("{message:?}"))),
        News::Vmm(message) => format!("its VMM said {message:?}"),
        News::Time => "nothing happened".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_are_all_different() {
        assert_eq!(nonce().unwrap().len(), 32);
        assert_ne!(nonce().unwrap(), nonce().unwrap());
    }
}
