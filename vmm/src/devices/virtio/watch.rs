//! What the event loop watches for a device: its doorbells, unless the device's threads do; its own descriptor; and where its threads say
//! that they are gone.

use std::os::fd::AsRawFd;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;

use super::{Event, MmioTransport};

/// The event data of [`super::VirtioDevice::source`]; a doorbell's is its queue's index.
const SOURCE: u32 = u32::MAX;
/// The event data of [`super::Resources::rest`].
const REST: u32 = SOURCE - 1;

impl MmioTransport {
    fn watch(&self, ops: &mut EventOps<'_>) -> Result<(), event_manager::Error> {
        for doorbell in self.watched_doorbells() {
            ops.add(doorbell)?;
        }
        if let Some(rest) = &self.rest {
            ops.add(Events::with_data(rest, REST, EventSet::IN))?;
        }
        self.source().map_or(Ok(()), |source| ops.add(source))
    }

    /// The doorbells, as the event loop watches them.
    fn watched_doorbells(&self) -> impl Iterator<Item = Events> {
        let doorbells = (0..REST).zip(&self.doorbells);
        doorbells.map(|(index, doorbell)| Events::with_data(doorbell, index, EventSet::IN))
    }

    /// Leaves the doorbells to the device's threads while there are some.
    fn leave_or_take_doorbells(&mut self, ops: &mut EventOps<'_>) {
        let theirs = self.running.as_ref().is_some_and(|running| running.has_threads());
        if theirs == self.theirs {
            return;
        }
        self.theirs = theirs;
        let mut change = |doorbell| if theirs { ops.remove(doorbell) } else { ops.add(doorbell) };
        let done = self.watched_doorbells().try_for_each(&mut change);
        if done.is_err() {
            // Nobody would hear the driver.
            self.running = None;
            self.interrupt.needs_reset();
        }
    }

    /// The device's own descriptor, as the event loop watches it.
    fn source(&self) -> Option<Events> {
        let source = self.device.source()?;
        Some(Events::with_data_raw(source.as_raw_fd(), SOURCE, EventSet::IN))
    }

    /// What happened, for the running device.
    fn hear(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let event = match events.data() {
            SOURCE => {
                if self.frozen {
                    // It stays ready, and nobody may look at it now.
                    self.unwatched = ops.remove(events).is_ok();
                }
                Event::Source
            }
            REST => {
                if let Some(rest) = &self.rest {
                    let _ = rest.read();
                }
                return;
            }
            index => {
                let index = index as usize;
                // Nothing to read means that the ring was taken already.
                if let Some(doorbell) = self.doorbells.get(index) {
                    let _ = doorbell.read();
                }
                Event::Doorbell(index)
            }
        };
        if self.frozen {
            return;
        }
        if self.unwatched
            && let Some(source) = self.source()
        {
            self.unwatched = ops.add(source).is_err();
        }
        if let Some(running) = &mut self.running
            && running.process(event).is_err()
        {
            self.running = None;
            self.interrupt.needs_reset();
        }
    }
}

impl MutEventSubscriber for MmioTransport {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        self.watch_result = self.watch(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        self.hear(events, ops);
        self.leave_or_take_doorbells(ops);
    }
}
