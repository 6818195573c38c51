//! The network card while a driver runs it: the two directions take turns, and the driver is told once at the end.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{port::Link, rx::Receiver, tx::Transmitter};
use crate::{
    devices::{
        NetCounts,
        virtio::{
            ActivateError, Event, Interrupt, QueueError, Resources, Running, SaveError, Stopped,
            Virtqueue,
        },
    },
    memory::GuestMemory,
};

/// The index of the receive queue; that of the transmit queue comes after it.
const RX: usize = 0;

/// A running network card.
pub(super) struct RunningNet {
    memory: GuestMemory,
    interrupt: Arc<Interrupt>,
    /// Absent: a slot, or the tap is gone.
    link: Option<Link>,
    up: Arc<AtomicBool>,
    rx: Receiver,
    tx: Transmitter,
}

impl RunningNet {
    pub(super) fn new(
        link: Option<Link>,
        up: Arc<AtomicBool>,
        mtu: u16,
        counts: Arc<NetCounts>,
        resources: Resources,
    ) -> Result<Self, ActivateError> {
        let Resources { memory, queues, interrupt, features, .. } = resources;
        let [rx, tx] = <[Virtqueue; 2]>::try_from(queues).map_err(|_| ActivateError::Queues(2))?;
        let rx = Receiver::new(rx, features, counts.clone());
        let tx = Transmitter::new(tx, features, mtu, counts);
        Ok(Self { memory, interrupt, link, up, rx, tx })
    }

    fn receive(&mut self) -> Result<(), QueueError> {
        let Some(link) = &self.link else { return Ok(()) };
        let seen = self.rx.run(&self.memory, link)?;
        self.judge(seen)
    }

    fn transmit(&mut self) -> Result<(), QueueError> {
        let seen = self.tx.run(&self.memory, self.link.as_ref())?;
        self.judge(seen)
    }

    /// What a direction saw of the link: the interface may be gone.
    fn judge(&mut self, seen: Seen) -> Result<(), QueueError> {
        if seen == Seen::Gone {
            self.link = None;
            self.up.store(false, Ordering::SeqCst);
            self.rx.forget();
            self.interrupt.config_changed();
            // What waits for room in it goes nowhere now.
            self.tx.run(&self.memory, None)?;
        }
        Ok(())
    }
}

/// Whether the interface is still there after a direction took its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// As far as is known.
    There,
    /// No.
    Gone,
}

impl Running for RunningNet {
    fn process(&mut self, event: Event) -> Result<(), QueueError> {
        match event {
            Event::Doorbell(RX) => self.receive()?,
            Event::Doorbell(_) => self.transmit()?,
            Event::Source => {
                let (readable, writable) = self.link.as_ref().map_or((false, false), Link::look);
                if readable {
                    self.rx.wake();
                    self.receive()?;
                }
                if writable && self.tx.wake() {
                    self.transmit()?;
                }
            }
        }
        // Both are asked, because the question says that the answer is acted upon.
        let Self { memory, rx, tx, .. } = self;
        if rx.queue.wants_interrupt(memory)? | tx.queue.wants_interrupt(memory)? {
            self.interrupt.used();
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<Stopped, SaveError> {
        self.rx.forget();
        let positions = vec![self.rx.queue.position(), self.tx.queue.position()];
        Ok(Stopped { positions, device: None })
    }
}
