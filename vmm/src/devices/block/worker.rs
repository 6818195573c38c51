//! The disk's thread: waits on the queue's doorbell, answers what is there, raises the interrupt once for each batch.

use std::{
    io,
    sync::{
        Arc,
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
            ActivateError, Chain, Event, Interrupt, QueueError, Resources, Running, Virtqueue,
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

/// One activation, as the thread gets it. When it is over, the thread drops the whole of it.
struct Session {
    memory: GuestMemory,
    queue: Virtqueue,
    interrupt: Arc<Interrupt>,
    stop: Arc<AtomicBool>,
    /// Dropped last, which tells that nothing touches guest memory any more.
    _over: SyncSender<()>,
}

/// The thread, idle while no driver runs the device. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Worker {
    sessions: Option<SyncSender<Session>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn spawn(id: &str, disk: Disk, counts: Arc<BlockCounts>) -> io::Result<Self> {
        let (sessions, incoming) = sync_channel::<Session>(1);
        let thread = Builder::new()
            .name(format!("disk {id}"))
            .stack_size(STACK)
            .spawn(move || serve(&incoming, &disk, &counts))?;
        Ok(Self { sessions: Some(sessions), thread: Some(thread) })
    }

    /// Hands one activation to the thread.
    pub(super) fn start(&self, resources: Resources) -> Result<RunningBlock, ActivateError> {
        let Resources { memory, queues, interrupt, .. } = resources;
        let [queue] = <[Virtqueue; 1]>::try_from(queues).map_err(|_| ActivateError::Queues(1))?;
        let doorbell = queue.doorbell()?;
        let stop = Arc::<AtomicBool>::default();
        let (over, ended) = sync_channel(0);
        let session = Session { memory, queue, interrupt, stop: stop.clone(), _over: over };
        let sent = self.sessions.as_ref().is_some_and(|sessions| sessions.send(session).is_ok());
        if !sent {
            return Err(io::Error::other("the disk's thread is gone").into());
        }
        Ok(RunningBlock { stop, doorbell, ended })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.sessions.take());
        if let Some(thread) = self.thread.take() {
            // The thread does not panic; if it did, there is nothing left to wait for.
            let _ = thread.join();
        }
    }
}

/// A disk that a driver runs. Dropping it waits until the thread has let go of the guest's memory.
pub(super) struct RunningBlock {
    stop: Arc<AtomicBool>,
    doorbell: EventFd,
    ended: Receiver<()>,
}

impl Running for RunningBlock {
    fn process(&mut self, _: Event) -> Result<(), QueueError> {
        // The thread does everything.
        Ok(())
    }
}

impl Drop for RunningBlock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // A full counter wakes the thread too.
        let _ = self.doorbell.write(1);
        // Nothing is ever sent: this returns when the thread drops its end.
        let _ = self.ended.recv();
    }
}

fn serve(incoming: &Receiver<Session>, disk: &Disk, counts: &BlockCounts) {
    for mut session in incoming {
        if session.run(disk, counts).is_err() {
            session.interrupt.needs_reset();
        }
    }
}

impl Session {
    fn run(&mut self, disk: &Disk, counts: &BlockCounts) -> Result<(), QueueError> {
        let Self { memory, queue, interrupt, stop, .. } = self;
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
                let written = request::answer(&chain, disk, counts);
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
