//! The socket device while a driver runs it: the two directions take turns, and the driver is told once at the end.

use std::{collections::VecDeque, os::fd::OwnedFd, sync::Arc};

use super::{
    Listener,
    host::{GREETING_TIMEOUT, Watch},
    packet::{Header, Key, Op},
    state::VsockState,
    stream::Stream,
    table::{Table, Token},
};
use crate::{
    devices::{
        VsockCounts,
        virtio::{
            ActivateError, DeviceState, Event, Interrupt, QueueError, Resources, Running,
            SaveError, Stopped, Virtqueue,
        },
    },
    memory::GuestMemory,
};

/// The index of the transmit queue: packets from the guest. Before it is the receive queue, after it the event queue.
const TX: usize = 1;
/// Resets that wait for room in the receive queue before the transmit queue is left alone.
pub(super) const MAX_RESETS: usize = 256;

/// A running socket device.
pub(super) struct RunningVsock {
    memory: GuestMemory,
    interrupt: Arc<Interrupt>,
    engine: Engine,
}

/// Everything but the memory.
pub(super) struct Engine {
    pub(super) cid: u64,
    pub(super) listener: Arc<Listener>,
    pub(super) watch: Watch<Arc<OwnedFd>, Arc<Listener>>,
    pub(super) rx: Virtqueue,
    pub(super) tx: Virtqueue,
    /// Nothing is ever sent on it: no transport was reset yet.
    events: Virtqueue,
    pub(super) counts: Arc<VsockCounts>,
    pub(super) table: Table<Entry>,
    /// Streams that have something for the guest, in the order of their turns.
    pub(super) turns: VecDeque<Token>,
    /// Resets to send, of connections that are no more.
    pub(super) resets: VecDeque<Header>,
    /// Connections may wait on the listening socket.
    pub(super) acceptable: bool,
    /// Where to look for the next free port for a host's connection.
    pub(super) next_port: u32,
}

/// What a token stands for.
#[derive(Debug)]
pub(super) enum Entry {
    /// A host's connection that has not said yet where it wants to.
    Greeting(OwnedFd),
    /// A connection.
    Stream(Stream),
}

impl RunningVsock {
    pub(super) fn new(
        cid: u32,
        listener: Arc<Listener>,
        epoll: Arc<OwnedFd>,
        counts: Arc<VsockCounts>,
        resources: Resources,
    ) -> Result<Self, ActivateError> {
        let Resources { memory, queues, interrupt, .. } = resources;
        let [rx, tx, events] =
            <[Virtqueue; 3]>::try_from(queues).map_err(|_| ActivateError::Queues(3))?;
        let watch = Watch::new(epoll, listener.clone(), GREETING_TIMEOUT)?;
        let engine = Engine {
            cid: u64::from(cid),
            listener,
            watch,
            rx,
            tx,
            events,
            counts,
            table: Table::default(),
            turns: VecDeque::new(),
            resets: VecDeque::new(),
            acceptable: true,
            next_port: super::from_host::FIRST_PORT,
        };
        Ok(Self { memory, interrupt, engine })
    }

    /// Takes over the connections of the device that was saved as `state`.
    pub(super) fn restore(&mut self, state: &VsockState) {
        self.engine.restore(state);
    }
}

impl Running for RunningVsock {
    fn process(&mut self, event: Event) -> Result<(), QueueError> {
        let Self { memory, interrupt, engine } = self;
        match event {
            Event::Doorbell(TX) => engine.take_from_guest(memory)?,
            Event::Doorbell(_) => {}
            Event::Source => {
                engine.look_at_host();
            }
        }
        engine.give_to_guest(memory)?;
        engine.accept();
        engine.tell(memory, interrupt)
    }

    fn stop(&mut self) -> Result<Stopped, SaveError> {
        let Self { memory, interrupt, engine } = self;
        let settled = engine.settle(memory).and_then(|()| engine.tell(memory, interrupt));
        if settled.is_err() {
            interrupt.needs_reset();
        }
        let state = engine.save()?;
        let Engine { rx, tx, events, .. } = engine;
        let positions = [rx, tx, events].map(|queue| queue.position()).to_vec();
        Ok(Stopped { positions, device: Some(DeviceState::Vsock(state)) })
    }
}

impl Engine {
    /// Tells the driver of what was given back.
    fn tell(&mut self, memory: &GuestMemory, interrupt: &Interrupt) -> Result<(), QueueError> {
        // Both are asked, because the question says that the answer is acted upon.
        if self.rx.wants_interrupt(memory)? | self.tx.wants_interrupt(memory)? {
            interrupt.used();
        }
        Ok(())
    }

    /// Sends a reset for a connection that is none.
    pub(super) fn refuse(&mut self, key: Key) {
        self.resets.push_back(Header::to_guest(self.cid, key, Op::Reset));
    }

    /// Gives a stream a turn if it has something for the guest.
    pub(super) fn schedule(&mut self, token: Token) {
        if let Some(Entry::Stream(stream)) = self.table.get(token)
            && !stream.queued
            && stream.next().is_some()
        {
            stream.queued = true;
            self.turns.push_back(token);
        }
    }

    /// Ends a stream at once, and tells the guest.
    pub(super) fn abort(&mut self, token: Token, key: Key) {
        self.table.unbind(key);
        self.forget(token);
        self.refuse(key);
    }

    /// Closes what the token stands for. A guest that opens and resets streams without giving buffers must not leave their
    /// turns behind.
    pub(super) fn forget(&mut self, token: Token) {
        if let Some(Entry::Stream(stream)) = self.table.remove(token)
            && stream.queued
        {
            self.turns.retain(|turn| *turn != token);
        }
    }
}
