//! The VMM: started, listened to by a thread, told to stop and go on.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use bulkhead_vmm::api::{ClientError, FromVmm, Messages, RequestKind, VmConfig, Vmm};
use rustix::event::{EventfdFlags, eventfd};

use super::{
    core::{LOG, SAYS},
    fault::{Fault, printable, to},
    oom,
    plan::Plan,
    signals,
};
use crate::tail::last_line;

/// Messages that wait to be handled; the VMM waits with more.
const WAITING: usize = 16;
/// The thread's work is small.
const STACK: usize = 128 << 10;

/// A running VMM. Dropping it ends the machine.
#[derive(Debug)]
pub(super) struct Machine {
    /// None: it was ended.
    vmm: Option<Vmm>,
    heard: Receiver<FromVmm>,
    wake: Arc<OwnedFd>,
    log: PathBuf,
}

/// News of a machine.
#[derive(Debug)]
pub(super) enum News {
    /// It said something.
    Said(FromVmm),
    /// It is gone; its last words.
    Gone(String),
}

impl Machine {
    /// Starts the plan's VMM with this machine. Its standard error goes to the log.
    pub(super) fn start(plan: &Plan, config: &VmConfig) -> Result<Self, Fault> {
        let log = plan.directory.join(LOG);
        let file = File::options().create(true).append(true).open(&log);
        let file = file.map_err(to(format!("make {}", log.display())))?;
        let spawn = || Vmm::spawn(&plan.vmm, config, Stdio::null(), file.into());
        let (vmm, messages) =
            oom::with_score(plan.oom_score, || signals::with_none_blocked(spawn))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(to("make an eventfd"))?;
        let wake = Arc::new(wake);
        let (say, heard) = sync_channel(WAITING);
        let bell = Arc::clone(&wake);
        thread::Builder::new()
            .name("vmm".into())
            .stack_size(STACK)
            .spawn(move || hear(messages, say, &bell))
            .map_err(to("start a thread"))?;
        Ok(Self { vmm: Some(vmm), heard, wake, log })
    }

    /// Readable when there is news.
    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// The VMM's process, if it was not ended.
    pub(super) fn pid(&self) -> Option<i32> {
        self.vmm.as_ref().map(|vmm| vmm.pid().cast_signed())
    }

    /// Ends it and waits until it is gone.
    pub(super) fn end(&mut self) {
        self.vmm = None;
    }

    /// All news.
    pub(super) fn news(&mut self) -> Vec<News> {
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        let mut news = Vec::new();
        loop {
            match self.heard.try_recv() {
                Ok(said) => news.push(News::Said(said)),
                Err(std::sync::mpsc::TryRecvError::Empty) => return news,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                    news.push(News::Gone(self.last_words()));
                    return news;
                }
            }
        }
    }

    /// Stops or continues the virtual CPUs. A VMM that is gone says so by itself.
    pub(super) fn run(&mut self, on: bool) -> Result<(), ClientError> {
        let Some(vmm) = &mut self.vmm else { return Ok(()) };
        vmm.request(if on { RequestKind::Resume } else { RequestKind::Pause }).map(drop)
    }

    /// Asks for the counters; the answer is [`FromVmm::Response`] with this number.
    pub(super) fn counters(&mut self) -> Result<u64, ClientError> {
        self.vmm.as_mut().ok_or(ClientError::Gone)?.request(RequestKind::Counters)
    }

    /// Has media come or go, with descriptors; the answer is [`FromVmm::Response`] with this number.
    pub(super) fn exchange(
        &mut self,
        kind: RequestKind,
        fds: &[BorrowedFd<'_>],
    ) -> Result<u64, ClientError> {
        self.vmm.as_mut().ok_or(ClientError::Gone)?.request_with(kind, fds)
    }

    /// The last line of the log.
    fn last_words(&self) -> String {
        last_words(&self.log).map_or_else(|| "its VMM was killed".into(), |line| printable(&line))
    }
}

fn hear(mut messages: Messages, say: SyncSender<FromVmm>, bell: &OwnedFd) {
    let ring = || {
        // It counts up, and nothing reads it for long enough to make it wait.
        let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
    };
    while let Ok(message) = messages.next_message() {
        if say.send(message).is_err() {
            return;
        }
        ring();
    }
    // The end of the channel is news, too.
    drop(say);
    ring();
}

/// The last line that a VMM wrote to its log. The monitor's own are not the VMM's.
pub(crate) fn last_words(log: &Path) -> Option<String> {
    last_line(log, |line| !line.is_empty() && !line.starts_with(SAYS))
}
