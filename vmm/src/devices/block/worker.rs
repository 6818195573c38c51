//! The disk's thread: waits on the queue's doorbell, answers what is there, raises the interrupt once for each batch.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use vmm_sys_util::eventfd::EventFd;

use super::{disk::Disk, request};
use crate::{
    devices::{
        BlockCounts,
        virtio::{
            ActivateError, Chain, Event, Interrupt, QueueError, Resources, Running, SaveError,
            Stopped, Virtqueue,
        },
    },
    memory::GuestMemory,
};

/// Bytes of stack.
const STACK: usize = 64 << 10;
/// Requests after which the driver hears of them even if there are more.
const BATCH: usize = 16;
/// Time after which it does: with files that are in the page cache a batch takes less, with a slow disk no request waits for the others.
const BATCH_TIME: Duration = Duration::from_micros(200);

/// One activation, as the thread has it while the device runs.
#[derive(Debug)]
struct Session {
    memory: GuestMemory,
    queue: Virtqueue,
    interrupt: Arc<Interrupt>,
    stop: Arc<AtomicBool>,
}

/// A session for the thread, and where it leaves the session when that is over. It touches guest memory no more then.
type Job = (Session, SyncSender<Session>);

/// The thread, idle while no driver runs the device. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn spawn(
        id: &str,
        disk: Arc<Mutex<Disk>>,
        counts: Arc<BlockCounts>,
    ) -> io::Result<Self> {
        let (jobs, incoming) = sync_channel::<Job>(1);
        let thread = Builder::new()
            .name(format!("disk {id}"))
            .stack_size(STACK)
            .spawn(move || serve(&incoming, &disk, &counts))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Hands one activation to the thread.
    pub(super) fn start(&self, resources: Resources) -> Result<RunningBlock, ActivateError> {
        let Resources { memory, queues, interrupt, .. } = resources;
        let [queue] = <[Virtqueue; 1]>::try_from(queues).map_err(|_| ActivateError::Queues(1))?;
        let jobs = self.jobs.clone().ok_or_else(gone)?;
        let doorbell = queue.doorbell()?;
        let stop = Arc::<AtomicBool>::default();
        let session = Session { memory, queue, interrupt, stop: stop.clone() };
        let ended = hand_over(&jobs, session)?;
        Ok(RunningBlock { jobs, stop, doorbell, ended, stopped: None })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // The thread does not panic; if it did, there is nothing left to wait for.
            let _ = thread.join();
        }
    }
}

/// Gives the thread a session; returns where it comes back.
fn hand_over(jobs: &SyncSender<Job>, session: Session) -> io::Result<Receiver<Session>> {
    let (back, ended) = sync_channel(1);
    jobs.send((session, back)).map_err(|_| gone())?;
    Ok(ended)
}

fn gone() -> io::Error {
    io::Error::other("the disk's thread is gone")
}

/// A disk that a driver runs. Dropping it waits until the thread has let go of the guest's memory.
pub(super) struct RunningBlock {
    jobs: SyncSender<Job>,
    stop: Arc<AtomicBool>,
    doorbell: EventFd,
    ended: Receiver<Session>,
    /// What the thread gave back, to go on with.
    stopped: Option<Session>,
}

impl RunningBlock {
    /// Takes the session back from the thread, which finishes its request; `None`: it was taken back already.
    fn take_back(&self) -> Option<Session> {
        self.stop.store(true, Ordering::Release);
        // A full counter wakes the thread too.
        let _ = self.doorbell.write(1);
        // Fails without waiting when the thread has none.
        self.ended.recv().ok()
    }
}

impl Running for RunningBlock {
    fn process(&mut self, _: Event) -> Result<(), QueueError> {
        // The thread does everything.
        Ok(())
    }

    fn stop(&mut self) -> Result<Stopped, SaveError> {
        self.stopped = self.take_back();
        let session = self.stopped.as_ref().ok_or(SaveError::Thread { device: "block" })?;
        Ok(Stopped { positions: vec![session.queue.position()], device: None })
    }

    fn resume(&mut self) -> Result<(), ActivateError> {
        let session = self.stopped.take().ok_or_else(gone)?;
        self.stop.store(false, Ordering::Release);
        self.ended = hand_over(&self.jobs, session)?;
        Ok(())
    }
}

impl Drop for RunningBlock {
    fn drop(&mut self) {
        self.take_back();
    }
}

fn serve(incoming: &Receiver<Job>, disk: &Mutex<Disk>, counts: &BlockCounts) {
    for (mut session, back) in incoming {
        if session.run(disk, counts).is_err() {
            session.interrupt.needs_reset();
        }
        // Nobody may want it back.
        let _ = back.send(session);
    }
}

impl Session {
    fn run(&mut self, disk: &Mutex<Disk>, counts: &BlockCounts) -> Result<(), QueueError> {
        let Self { memory, queue, interrupt, stop } = self;
        let mut chain = Chain::default();
        while !stop.load(Ordering::Acquire) {
            queue.disable_doorbell(memory)?;
            let began = Instant::now();
            let mut more = true;
            for _ in 0..BATCH {
                more = queue.pop(memory, &mut chain)?;
                if !more {
                    break;
                }
                let medium = disk.lock().unwrap_or_else(PoisonError::into_inner);
                let written = request::answer(&chain, &medium, counts);
                drop(medium);
                queue.push(memory, chain.head(), written)?;
                if began.elapsed() >= BATCH_TIME || stop.load(Ordering::Acquire) {
                    break;
                }
            }
            if queue.wants_interrupt(memory)? {
                interrupt.used();
            }
            if more || queue.enable_doorbell(memory)? {
                continue;
            }
            // It fails when a signal interrupts the wait; the queue is looked at once more then.
            let _ = queue.answer_doorbell();
        }
        Ok(())
    }
}
