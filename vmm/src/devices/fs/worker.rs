//! The threads of a share: they wait on the queues' doorbells and answer what is there.
//!
//! One thread at a time has the lead: it takes requests and answers them itself, one after the other. For a request that may make the
//! host wait it gives the lead away first, so that only as many slow files as there are threads can hold up the others. The virtual CPUs and
//! the event loop wait for none of them. While the machine is paused, what was asked before is still answered, each request whole.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{Builder, JoinHandle},
};

use rustix::event::{PollFd, PollFlags};
use vmm_sys_util::eventfd::EventFd;

use super::{
    request::{Desk, Request},
    server::{Identity, Server},
};
use crate::{
    devices::{
        FsCounts,
        virtio::{
            ActivateError, Chain, Event, Interrupt, QueueError, Resources, Running, Virtqueue,
        },
    },
    memory::GuestMemory,
};

/// Threads of a share.
const THREADS: usize = 3;
/// Bytes of stack of each. The deepest call is a directory's reading with 4 KiB of the host's entries.
const STACK: usize = 64 << 10;
/// The queue of requests that others wait for (virtio 1.3, 5.11.2), and the first of the others.
const QUEUES: usize = 2;

/// One activation, shared by the threads.
struct Session {
    memory: GuestMemory,
    queues: Mutex<[Virtqueue; QUEUES]>,
    doorbells: [EventFd; QUEUES],
    interrupt: Arc<Interrupt>,
    /// Held by the thread that takes requests.
    lead: Mutex<()>,
    stop: AtomicBool,
    /// Dropped with the last thread's share, which tells that nothing touches guest memory any more.
    _over: SyncSender<()>,
}

/// The threads, idle while no driver runs the device. Dropping them ends them.
#[derive(Debug)]
pub(super) struct Workers {
    sessions: Vec<SyncSender<Arc<Session>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    pub(super) fn spawn(
        tag: &str,
        server: &Arc<Server>,
        counts: &Arc<FsCounts>,
    ) -> io::Result<Self> {
        let mut workers = Self { sessions: Vec::new(), threads: Vec::new() };
        for _ in 0..THREADS {
            let (sessions, incoming) = sync_channel(1);
            let (server, counts) = (Arc::clone(server), Arc::clone(counts));
            let (ready, prepared) = sync_channel(1);
            let thread =
                Builder::new().name(format!("fs {tag}")).stack_size(STACK).spawn(move || {
                    let identity = Identity::prepare(server.reopen());
                    match identity {
                        Ok(identity) => {
                            // Somebody waits for it.
                            let _ = ready.send(Ok(()));
                            serve(&incoming, &server, &mut Desk::new(identity), &counts);
                        }
                        Err(error) => {
                            let _ = ready.send(Err(error));
                        }
                    }
                })?;
            workers.sessions.push(sessions);
            workers.threads.push(thread);
            prepared.recv().map_err(io::Error::other)??;
        }
        Ok(workers)
    }

    /// Hands one activation to the threads.
    pub(super) fn start(&self, resources: Resources) -> Result<RunningFs, ActivateError> {
        let Resources { memory, queues, interrupt, .. } = resources;
        let queues =
            <[Virtqueue; QUEUES]>::try_from(queues).map_err(|_| ActivateError::Queues(QUEUES))?;
        let [urgent, ordinary] = &queues;
        let doorbells = [urgent.doorbell()?, ordinary.doorbell()?];
        let (over, ended) = sync_channel(0);
        let session = Arc::new(Session {
            memory,
            queues: Mutex::new(queues),
            doorbells,
            interrupt,
            lead: Mutex::new(()),
            stop: AtomicBool::new(false),
            _over: over,
        });
        for sessions in &self.sessions {
            if sessions.send(session.clone()).is_err() {
                return Err(io::Error::other("a thread of the file system device is gone").into());
            }
        }
        Ok(RunningFs { session: Arc::downgrade(&session), ended })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.sessions.clear();
        for thread in self.threads.drain(..) {
            // The threads do not panic; if one did, there is nothing left to wait for.
            let _ = thread.join();
        }
    }
}

/// A share that a driver runs. Dropping it waits until the threads have let go of the guest's memory.
pub(super) struct RunningFs {
    session: Weak<Session>,
    ended: Receiver<()>,
}

impl Running for RunningFs {
    fn process(&mut self, _: Event) -> Result<(), QueueError> {
        // The threads do everything.
        Ok(())
    }
}

impl Drop for RunningFs {
    fn drop(&mut self) {
        if let Some(session) = self.session.upgrade() {
            session.end();
        }
        // Nothing is ever sent: this returns when the last thread drops its end.
        let _ = self.ended.recv();
    }
}

fn serve(incoming: &Receiver<Arc<Session>>, server: &Server, desk: &mut Desk, counts: &FsCounts) {
    for session in incoming {
        if session.run(server, desk, counts).is_err() {
            session.interrupt.needs_reset();
            session.end();
        }
    }
}

impl Session {
    fn run(&self, server: &Server, desk: &mut Desk, counts: &FsCounts) -> Result<(), QueueError> {
        let mut chain = Chain::default();
        loop {
            let lead = self.lead.lock().unwrap_or_else(PoisonError::into_inner);
            let (request, queue) = loop {
                if self.stop.load(Ordering::Acquire) {
                    return Ok(());
                }
                let Some(queue) = self.take(&mut chain)? else {
                    self.wait();
                    continue;
                };
                let request = Request::of(&chain);
                if request.may_wait() {
                    break (request, queue);
                }
                let written = request.answer(&chain, server, desk, counts);
                self.give(queue, &chain, written)?;
            };
            drop(lead);
            let written = request.answer(&chain, server, desk, counts);
            self.give(queue, &chain, written)?;
        }
    }

    /// The next chain of a queue, and of which; `None`: the driver rings for the next one.
    fn take<'m>(&'m self, chain: &mut Chain<'m>) -> Result<Option<usize>, QueueError> {
        let mut queues = self.queues();
        loop {
            let mut more = false;
            for (index, queue) in queues.iter_mut().enumerate() {
                if queue.pop(&self.memory, chain)? {
                    return Ok(Some(index));
                }
            }
            for queue in queues.iter_mut() {
                more |= queue.enable_doorbell(&self.memory)?;
            }
            if !more {
                return Ok(None);
            }
        }
    }

    /// Gives a chain back and tells the driver.
    fn give(&self, queue: usize, chain: &Chain<'_>, written: u32) -> Result<(), QueueError> {
        let mut queues = self.queues();
        let Some(queue) = queues.get_mut(queue) else { return Ok(()) };
        queue.push(&self.memory, chain.head(), written)?;
        if queue.wants_interrupt(&self.memory)? {
            self.interrupt.used();
        }
        Ok(())
    }

    /// Waits until a doorbell rings.
    fn wait(&self) {
        let mut rung = self.doorbells.each_ref().map(|doorbell| {
            // SAFETY: the doorbell stays open as long as this session.
            let fd = unsafe { BorrowedFd::borrow_raw(doorbell.as_raw_fd()) };
            PollFd::from_borrowed_fd(fd, PollFlags::IN)
        });
        // It fails when a signal interrupts the wait; the queues are looked at once more then.
        if rustix::event::poll(&mut rung, None).is_err() {
            return;
        }
        for (doorbell, rung) in self.doorbells.iter().zip(&rung) {
            if rung.revents().contains(PollFlags::IN) {
                // Only this thread reads it, so that it does not wait.
                let _ = doorbell.read();
            }
        }
    }

    fn end(&self) {
        self.stop.store(true, Ordering::Release);
        // A full counter wakes the thread too.
        let _ = self.doorbells[0].write(1);
    }

    fn queues(&self) -> MutexGuard<'_, [Virtqueue; QUEUES]> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
