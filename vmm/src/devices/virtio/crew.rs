//! The threads of a device whose requests may make the host wait. There are some only while there is something to do.
//!
//! An idle device has none: the event loop watches its doorbells, and starts a thread when a request is there. From then on the doorbells are
//! the threads', which end when nobody has rung for a while; the last one to go tells the event loop. A machine that only waits so has
//! no thread besides its event loop and its virtual CPUs.
//!
//! One thread at a time has the lead: it takes requests and answers them itself, one after the other. For a request that may make the
//! host wait it may give the lead away first ([`Lead::give_away`]), so that only as many slow requests as there may be threads hold up the
//! others. The virtual CPUs and the event loop wait for none of them. While the machine is paused, what was asked before is still
//! answered, each request whole.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Builder},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec};
use vmm_sys_util::eventfd::EventFd;

use super::{
    ActivateError, Event, Interrupt, QueueError, Resources, Running, SaveError, Stopped, Virtqueue,
};
use crate::memory::GuestMemory;

/// How long a thread without anything to do stays.
const LINGER: Duration = Duration::from_secs(1);
/// The same for poll(2).
const LINGER_POLL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How long a request waits until another thread is asked for, when the host had none.
const RETRY: Duration = Duration::from_millis(10);
/// Bytes of stack of a thread. The deepest call is a directory's reading with 4 KiB of the host's entries.
const STACK: usize = 64 << 10;

/// What the threads of a device do.
pub trait Work: Send + Sync + 'static {
    /// What a thread keeps from one request to the next; it stays in its thread.
    type Desk;

    /// The most threads.
    const THREADS: usize;

    /// The name of its threads.
    fn name(&self) -> String;

    /// Prepares the calling thread.
    ///
    /// # Errors
    /// The host refuses something. It is tried again later.
    fn desk(&self) -> io::Result<Self::Desk>;

    /// Answers requests until there is none and the driver is asked to ring for the next one, until [`Lead::is_over`], or after
    /// one for which the lead was given away.
    ///
    /// # Errors
    /// A ring that makes no sense: the device is broken.
    fn serve(
        &self,
        rings: &Rings,
        desk: &mut Self::Desk,
        lead: &mut Lead<'_>,
    ) -> Result<(), QueueError>;

    /// Why the device cannot be saved now, once its threads are gone.
    ///
    /// # Errors
    /// [`SaveError`].
    fn may_be_saved(&self) -> Result<(), SaveError> {
        Ok(())
    }
}

/// What the threads of one activation share of the guest.
#[derive(Debug)]
pub struct Rings {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// Tells the driver.
    pub interrupt: Arc<Interrupt>,
    queues: Mutex<Vec<Virtqueue>>,
    doorbells: Vec<EventFd>,
}

impl Rings {
    /// The queues, in their order.
    pub fn queues(&self) -> MutexGuard<'_, Vec<Virtqueue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request is there; when not, the driver rings for the next one.
    fn has_some(&self) -> Result<bool, QueueError> {
        self.ask_for_more(&mut self.queues())
    }

    /// The same for one who holds the queues.
    ///
    /// # Errors
    /// A ring that makes no sense.
    pub fn ask_for_more(&self, queues: &mut [Virtqueue]) -> Result<bool, QueueError> {
        let mut more = false;
        for queue in queues {
            more |= queue.enable_doorbell(&self.memory)?;
        }
        Ok(more)
    }

    /// Waits until a doorbell rings; false when none does for [`LINGER`].
    fn wait(&self) -> bool {
        let watched = |doorbell: &EventFd| {
            // SAFETY: the doorbell stays open as long as these rings, which the caller has.
            let fd = unsafe { BorrowedFd::borrow_raw(doorbell.as_raw_fd()) };
            PollFd::from_borrowed_fd(fd, PollFlags::IN)
        };
        let mut rung: Vec<_> = self.doorbells.iter().map(watched).collect();
        match rustix::event::poll(&mut rung, Some(&LINGER_POLL)) {
            Ok(0) => return false,
            Ok(_) => {}
            // The queues are looked at once more.
            Err(_) => return true,
        }
        for (doorbell, rung) in self.doorbells.iter().zip(&rung) {
            if rung.revents().contains(PollFlags::IN) {
                // Somebody else may have taken the ring.
                let _ = doorbell.read();
            }
        }
        true
    }

    /// Makes whoever watches the doorbells look at the queues.
    fn ring(&self) {
        if let Some(doorbell) = self.doorbells.first() {
            // A full counter rings too.
            let _ = doorbell.write(1);
        }
    }
}

/// How many threads there are, and what they are at.
#[derive(Debug, Default)]
struct Crowd {
    /// Those that answer requests or wait for some.
    threads: usize,
    /// Those that do neither any more, but still have the work.
    leaving: usize,
    /// Those of `threads` that wait for the lead.
    waiting: usize,
    /// One has the lead.
    led: bool,
}

/// The count of the threads, which outlives what they share.
#[derive(Debug)]
struct Register {
    crowd: Mutex<Crowd>,
    changed: Condvar,
    /// No request is to be taken any more.
    over: AtomicBool,
    /// Rung when there are no threads any more.
    rest: EventFd,
}

impl Register {
    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// The calling thread answers no more requests.
    fn resign(&self, crowd: &mut Crowd) {
        crowd.threads -= 1;
        crowd.leaving += 1;
        if crowd.threads == 0 {
            // A full counter rings too.
            let _ = self.rest.write(1);
        }
    }

    /// Waits for the lead; false when the thread has resigned.
    fn take_lead(&self) -> bool {
        let mut crowd = self.crowd();
        loop {
            if self.is_over() {
                self.resign(&mut crowd);
                return false;
            }
            if !crowd.led {
                crowd.led = true;
                return true;
            }
            crowd.waiting += 1;
            let waited = self.changed.wait_timeout(crowd, LINGER);
            let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            crowd = guard;
            crowd.waiting -= 1;
            if timeout.timed_out() && crowd.led {
                self.resign(&mut crowd);
                return false;
            }
        }
    }

    /// The leading thread resigns if it is the only one, or must.
    fn may_resign(&self, must: bool) -> bool {
        let mut crowd = self.crowd();
        let resigns = must || crowd.threads == 1;
        if resigns {
            crowd.led = false;
            self.resign(&mut crowd);
            self.changed.notify_all();
        }
        resigns
    }
}

/// The right to take requests.
pub struct Lead<'a> {
    had: bool,
    register: &'a Register,
    hire: &'a dyn Fn(&mut Crowd) -> io::Result<()>,
    most: usize,
}

impl Lead<'_> {
    /// No request is to be taken any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.register.is_over()
    }

    /// Gives the lead to another thread; false when there is none, and the caller keeps it.
    pub fn give_away(&mut self) -> bool {
        let mut crowd = self.register.crowd();
        let another = crowd.waiting > 0
            || crowd.threads == self.most
            || !self.is_over() && (self.hire)(&mut crowd).is_ok();
        if another {
            crowd.led = false;
            self.had = false;
            self.register.changed.notify_all();
        }
        another
    }
}

/// What the threads of one activation share.
struct Common<W: Work> {
    work: Arc<W>,
    rings: Arc<Rings>,
    register: Arc<Register>,
}

impl<W: Work> Clone for Common<W> {
    fn clone(&self) -> Self {
        let Self { work, rings, register } = self;
        Self { work: work.clone(), rings: rings.clone(), register: register.clone() }
    }
}

/// A device that a driver runs, with its threads. Dropping it waits until they have let go of the guest's memory.
pub struct Crew<W: Work>(Common<W>);

impl<W: Work> Crew<W> {
    /// Lets `work` be done for one activation, which must have `queues` queues.
    ///
    /// # Errors
    /// [`ActivateError`].
    pub fn new(work: &Arc<W>, resources: Resources, queues: usize) -> Result<Self, ActivateError> {
        let Resources { memory, queues: given, interrupt, rest, .. } = resources;
        let rest = rest.filter(|_| given.len() == queues).ok_or(ActivateError::Queues(queues))?;
        let doorbells = given.iter().map(Virtqueue::doorbell).collect::<io::Result<_>>()?;
        let rings = Rings { memory, interrupt, queues: Mutex::new(given), doorbells };
        let (crowd, changed, over) = (Mutex::default(), Condvar::new(), AtomicBool::new(false));
        let register = Register { crowd, changed, over, rest };
        let (rings, register) = (Arc::new(rings), Arc::new(register));
        Ok(Self(Common { work: work.clone(), rings, register }))
    }

    /// Returns when the threads have finished their requests and none is left.
    fn end(&self) {
        let Common { rings, register, .. } = &self.0;
        register.over.store(true, Ordering::Release);
        let mut crowd = register.crowd();
        while crowd.threads + crowd.leaving > 0 {
            rings.ring();
            register.changed.notify_all();
            crowd = register.changed.wait(crowd).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<W: Work> Common<W> {
    /// Starts a thread.
    fn hire(&self, crowd: &mut Crowd) -> io::Result<()> {
        let common = self.clone();
        let register = self.register.clone();
        Builder::new().name(self.work.name()).stack_size(STACK).spawn(move || {
            common.run();
            drop(common);
            register.crowd().leaving -= 1;
            register.changed.notify_all();
        })?;
        crowd.threads += 1;
        Ok(())
    }

    /// What a thread does, until it has resigned.
    fn run(&self) {
        let Self { work, rings, register } = self;
        let Ok(mut desk) = work.desk() else {
            self.come_back();
            register.resign(&mut register.crowd());
            return;
        };
        while register.take_lead() {
            let hire = |crowd: &mut Crowd| self.hire(crowd);
            let mut lead = Lead { had: true, register, hire: &hire, most: W::THREADS };
            while lead.had {
                let broken = work.serve(rings, &mut desk, &mut lead).is_err();
                if broken {
                    rings.interrupt.needs_reset();
                    register.over.store(true, Ordering::Release);
                    rings.ring();
                }
                if lead.had {
                    let must = register.is_over();
                    if (must || !rings.wait()) && register.may_resign(must) {
                        return;
                    }
                }
            }
        }
    }

    /// Has the queues looked at again, a little later.
    fn come_back(&self) {
        thread::sleep(RETRY);
        self.rings.ring();
    }
}

impl<W: Work> Running for Crew<W> {
    fn process(&mut self, _: Event) -> Result<(), QueueError> {
        let Common { rings, register, .. } = &self.0;
        let mut crowd = register.crowd();
        if crowd.threads > 0 || register.is_over() || !rings.has_some()? {
            return Ok(());
        }
        if self.0.hire(&mut crowd).is_err() {
            // The host has no thread for it now. The request waits; whatever else the machine does goes on.
            drop(crowd);
            self.0.come_back();
        }
        Ok(())
    }

    fn has_threads(&self) -> bool {
        self.0.register.crowd().threads > 0
    }

    fn stop(&mut self) -> Result<Stopped, SaveError> {
        self.end();
        self.0.work.may_be_saved()?;
        let positions = self.0.rings.queues().iter().map(Virtqueue::position).collect();
        Ok(Stopped { positions, device: None })
    }

    fn resume(&mut self) -> Result<(), ActivateError> {
        // Its threads come with the next ring.
        self.0.register.over.store(false, Ordering::Release);
        Ok(())
    }
}

impl<W: Work> Drop for Crew<W> {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;
