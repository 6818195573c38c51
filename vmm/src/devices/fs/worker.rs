//! What the threads of a share do: they answer FUSE requests. The one that takes requests gives that away before one that may wait for the host.

use std::{io, sync::Arc};

use super::{
    request::{Desk, Request},
    server::{Identity, Server},
};
use crate::devices::{
    FsCounts,
    virtio::{Chain, Lead, QueueError, Rings, SaveError, Work},
};

/// The queue of requests that others wait for (virtio 1.3, 5.11.2), and the first of the others.
pub(super) const QUEUES: usize = 2;

/// A share's server, as its threads have it.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) tag: String,
    pub(super) server: Arc<Server>,
    pub(super) counts: Arc<FsCounts>,
}

impl Work for Service {
    type Desk = Desk;

    const THREADS: usize = 3;

    fn name(&self) -> String {
        format!("fs {}", self.tag)
    }

    fn desk(&self) -> io::Result<Desk> {
        Ok(Desk::new(Identity::prepare(self.server.reopen())?))
    }

    fn serve(&self, rings: &Rings, desk: &mut Desk, lead: &mut Lead<'_>) -> Result<(), QueueError> {
        let mut chain = Chain::default();
        while !lead.is_over() {
            let Some(queue) = take(rings, &mut chain)? else { return Ok(()) };
            let request = Request::of(&chain);
            let gone = request.may_wait() && lead.give_away();
            let written = request.answer(&chain, &self.server, desk, &self.counts);
            give(rings, queue, &chain, written)?;
            if gone {
                break;
            }
        }
        Ok(())
    }

    fn may_be_saved(&self) -> Result<(), SaveError> {
        let (files, open) = self.server.held();
        if files > 0 || open > 0 {
            let why = format!("the guest remembers {files} files of a share and has {open} open");
            return Err(SaveError::Busy { device: "file system", why });
        }
        Ok(())
    }
}

/// The next chain of a queue, and of which; `None`: the driver rings for the next one.
fn take<'m>(rings: &'m Rings, chain: &mut Chain<'m>) -> Result<Option<usize>, QueueError> {
    let mut queues = rings.queues();
    loop {
        for (index, queue) in queues.iter_mut().enumerate() {
            if queue.pop(&rings.memory, chain)? {
                return Ok(Some(index));
            }
        }
        if !rings.ask_for_more(&mut queues)? {
            return Ok(None);
        }
    }
}

/// Gives a chain back and tells the driver.
fn give(rings: &Rings, queue: usize, chain: &Chain<'_>, written: u32) -> Result<(), QueueError> {
    let mut queues = rings.queues();
    let Some(queue) = queues.get_mut(queue) else { return Ok(()) };
    queue.push(&rings.memory, chain.head(), written)?;
    if queue.wants_interrupt(&rings.memory)? {
        rings.interrupt.used();
    }
    Ok(())
}
