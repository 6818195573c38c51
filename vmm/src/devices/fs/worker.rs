//! The threads of a share: they wait on the queues' doorbells and answer what is there.
//!
//! One thread at a time has the lead: it takes requests and answers them itself, one after the other. For a request that may make the
//! host wait it gives the lead away first, so that only as many slow files as there are threads can hold up the others. The virtual CPUs and
//! the event loop wait for none of them. While the machine is paused, what was asked before is still answered, each request whole.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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
            ActivateError, Chain, Event, Interrupt, QueueError, Resources, Running, SaveError,
            Stopped, Virtqueue,
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
}

/// A session for a thread, and what the thread drops when it is done with it. When all have, nothing touches guest memory any more.
type Job = (Arc<Session>, SyncSender<()>);

/// The threads, idle while no driver runs the device. Dropping them ends them.
#[derive(Debug)]
pub(super) struct Workers {
    jobs: Vec<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
    server: Arc<Server>,
}

impl Workers {
    pub(super) fn spawn(
        tag: &str,
        server: &Arc<Server>,
        counts: &Arc<FsCounts>,
    ) -> io::Result<Self> {
        let mut workers = Self { jobs: Vec::new(), threads: Vec::new(), server: server.clone() };
        let mut preparing = Vec::new();
        for _ in 0..THREADS {
            let (jobs, incoming) = sync_channel(1);
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
            workers.jobs.push(jobs);
            workers.threads.push(thread);
            preparing.push(prepared);
        }
        for prepared in preparing {
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
        let session = Arc::new(Session {
            memory,
            queues: Mutex::new(queues),
            doorbells,
            interrupt,
            lead: Mutex::new(()),
            stop: AtomicBool::new(false),
        });
        let ended = hand_over(&self.jobs, &session)?;
        Ok(RunningFs { jobs: self.jobs.clone(), session, ended, server: self.server.clone() })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs.clear();
        for thread in self.threads.drain(..) {
            // The threads do not panic; if one did, there is nothing left to wait for.
            let _ = thread.join();
        }
    }
}

/// Gives the threads a session; returns what is closed when they are all done with it.
fn hand_over(jobs: &[SyncSender<Job>], session: &Arc<Session>) -> io::Result<Receiver<()>> {
    let (over, ended) = sync_channel(0);
    for jobs in jobs {
        if jobs.send((session.clone(), over.clone())).is_err() {
            session.end();
            return Err(io::Error::other("a thread of the file system device is gone"));
        }
    }
    Ok(ended)
}

/// A share that a driver runs. Dropping it waits until the threads have let go of the guest's memory.
pub(super) struct RunningFs {
    jobs: Vec<SyncSender<Job>>,
    session: Arc<Session>,
    ended: Receiver<()>,
    server: Arc<Server>,
}

impl RunningFs {
    /// Returns when the threads have finished their requests and take no more.
    fn end(&self) {
        self.session.end();
        // Nothing is ever sent: this returns when the last thread drops its end.
        let _ = self.ended.recv();
    }
}

impl Running for RunningFs {
    fn process(&mut self, _: Event) -> Result<(), QueueError> {
        // The threads do everything.
        Ok(())
    }

    fn stop(&mut self) -> Result<Stopped, SaveError> {
        self.end();
        let (files, open) = self.server.held();
        if files > 0 || open > 0 {
            let why = format!("the guest remembers {files} files of a share and has {open} open");
            return Err(SaveError::Busy { device: "file system", why });
        }
        let positions = self.session.queues().iter().map(Virtqueue::position).collect();
        Ok(Stopped { positions, device: None })
    }

    fn resume(&mut self) -> Result<(), ActivateError> {
        self.session.stop.store(false, Ordering::Release);
        self.ended = hand_over(&self.jobs, &self.session)?;
        Ok(())
    }
}

impl Drop for RunningFs {
    fn drop(&mut self) {
        self.end();
    }
}

fn serve(incoming: &Receiver<Job>, server: &Server, desk: &mut Desk, counts: &FsCounts) {
    for (session, over) in incoming {
        if session.run(server, desk, counts).is_err() {
            session.interrupt.needs_reset();
            session.end();
        }
        drop(session);
        drop(over);
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
