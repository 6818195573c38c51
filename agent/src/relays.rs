//! All relays: their numbers, their events, and whose turn is next.

use std::os::fd::AsFd;

use rustix::{event::epoll::EventFlags, io::Errno};

use crate::{
    events::{Events, Side, Source},
    relay::{BUFFER, Next, Relay},
};

/// The relays of all processes. A closed one's number is used again.
#[derive(Debug)]
pub(crate) struct Relays {
    slots: Vec<Option<Relay>>,
    again: Vec<u32>,
    space: Vec<u8>,
}

impl Relays {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), again: Vec::new(), space: Vec::with_capacity(BUFFER) }
    }

    /// Takes a relay on; it runs by itself from now on.
    pub(crate) fn add(&mut self, events: &Events, relay: Relay) -> Result<(), Errno> {
        let slot = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        let id = u32::try_from(slot).map_err(|_| Errno::NFILE)?;
        let add = |fd: &dyn AsFd, side| events.add(fd.as_fd(), Source::Relay(id, side));
        match (relay.input(), relay.output()) {
            (Some(input), Some(output)) if std::rc::Rc::ptr_eq(input, output) => {
                add(output, Side::Output)?;
            }
            (input, output) => {
                if let Some(input) = input {
                    add(input, Side::Input)?;
                }
                if let Some(output) = output {
                    add(output, Side::Output)?;
                }
            }
        }
        add(relay.socket(), Side::Socket)?;
        match self.slots.get_mut(slot) {
            Some(free) => *free = Some(relay),
            None => self.slots.push(Some(relay)),
        }
        Ok(())
    }

    /// Some relay wants a turn without an event.
    pub(crate) fn has_work(&self) -> bool {
        !self.again.is_empty()
    }

    /// An event of a relay. One of a relay that was closed in the meantime is nobody's.
    pub(crate) fn event(&mut self, id: u32, side: Side, flags: EventFlags) {
        let index = id as usize;
        let Some(Some(relay)) = self.slots.get_mut(index) else { return };
        match relay.turn(side, flags, &mut self.space) {
            Next::Wait => {}
            Next::Again if self.again.contains(&id) => {}
            Next::Again => self.again.push(id),
            Next::Close => {
                self.again.retain(|other| *other != id);
                if let Some(slot) = self.slots.get_mut(index) {
                    *slot = None;
                }
            }
        }
    }

    /// Gives a turn to all that want one.
    pub(crate) fn work(&mut self) {
        for id in std::mem::take(&mut self.again) {
            self.event(id, Side::Output, EventFlags::empty());
        }
    }
}
