//! The network cards of a template: out of sight in a network namespace of their own, so that a clone whose container has no network
//! shows none. A card that a container has comes back from there.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use bulkhead_netlink::{self as netlink, Batch, Refused, Socket};
use bulkhead_protocol::{
    Failure, Network,
    network::{Interface, MAX_INTERFACES},
};
use rustix::{
    io::Errno,
    process::Pid,
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use super::{device_name, open, refused};

/// linux/if_link.h.
const NAMESPACE: u16 = 28;

/// Where the cards are that no container has asked for.
#[derive(Debug, Default)]
pub(crate) struct Cards {
    /// A socket of their namespace, which lives as long. None: they are where the agent is.
    hidden: Option<Socket>,
}

impl Cards {
    /// Moves all cards out of sight.
    pub(crate) fn hide(&mut self) -> Result<(), Failure> {
        if self.hidden.is_some() {
            return Ok(());
        }
        let here = open()?;
        let mut batch = Batch::default();
        let cards: Vec<u32> =
            (0..MAX_INTERFACES).map_while(|card| here.index(&format!("eth{card}")).ok()).collect();
        if cards.is_empty() {
            return Ok(());
        }
        let made = another(&here);
        let (there, namespace) =
            made.map_err(|errno| refused("make a network for the network cards", errno))?;
        for card in cards {
            batch
                .message(libc::RTM_NEWLINK, 0, &netlink::link(card, 0, 0))
                .number(NAMESPACE, namespace.as_raw_fd().unsigned_abs());
        }
        moved(here.change(batch))?;
        self.hidden = Some(there);
        Ok(())
    }

    /// Moves a container's cards from where they are to the network of a process.
    pub(super) fn give(&self, network: &Network, to: Pid) -> Result<(), Failure> {
        let here;
        let source = match &self.hidden {
            Some(hidden) => hidden,
            None => {
                here = open()?;
                &here
            }
        };
        let mut batch = Batch::default();
        for Interface { device, .. } in &network.interfaces {
            // Who configures it says that it is not there.
            if let Ok(card) = source.index(&device_name(*device)) {
                batch
                    .message(libc::RTM_NEWLINK, 0, &netlink::link(card, 0, 0))
                    .number(libc::IFLA_NET_NS_PID, to.as_raw_pid().unsigned_abs());
            }
        }
        moved(source.change(batch))
    }

    /// Has a container's cards where the agent is.
    pub(super) fn show(&self, network: &Network) -> Result<(), Failure> {
        if self.hidden.is_some() {
            self.give(network, rustix::process::getpid())?;
        }
        Ok(())
    }
}

fn moved(result: Result<(), Refused>) -> Result<(), Failure> {
    result.map_err(|Refused { errno, .. }| refused("move the network cards", errno))
}

/// Makes a network namespace: a socket in it, and itself. This thread stays in that of `here`.
fn another(here: &Socket) -> Result<(Socket, OwnedFd), Errno> {
    let own = here.namespace()?;
    // SAFETY: this thread's descriptors and memory stay as they are.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    let made = Socket::open().and_then(|there| {
        let namespace = there.namespace()?;
        Ok((there, namespace))
    });
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))?;
    made
}
