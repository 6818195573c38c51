//! The container's network on the host. Somebody else has made it (docker, podman, CNI): a network namespace with interfaces. The
//! container is in a guest, so that beside each interface there comes a tap, which is the guest's network card, and the kernel hands all frames that come in on
//! the one out on the other. The guest gets the interface's name, addresses and routes; those in the namespace see no traffic any more.
//!
//! The monitor is in that namespace, and so is the VMM when it opens the taps.

mod entries;
mod error;
mod links;
mod loopback;
mod mirror;
mod read;
mod tap;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    net::Ipv4Addr,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use bulkhead_netlink::Socket;
use bulkhead_protocol as protocol;
use bulkhead_vmm::api::{Mac, Nic};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sha2::{Digest, Sha256};

pub use self::error::NetworkError;
pub(crate) use self::loopback::Loopback;
#[cfg(test)]
pub(crate) use self::tests::in_a_namespace;
use self::{error::failed, links::Tap};

/// How long the VMM of a monitor that was killed may hold its taps.
const PATIENCE: Duration = Duration::from_secs(3);
/// The largest packet of a network card: its driver takes this for the most that can be set later.
const MOST_MTU: u16 = u16::MAX;

/// What a microVM has of its network namespace.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// For the guest's agent; absent: there are no interfaces.
    pub(crate) guest: Option<protocol::Network>,
    /// For the VMM, in the order of the devices.
    pub(crate) nics: Vec<Nic>,
    /// What the guest does not get, a line each.
    pub(crate) notes: Vec<String>,
    /// There is a namespace, which had no interfaces.
    empty: bool,
}

/// The network card with this number, as the VMM begins with it: the agent gives it the address and the MTU that it is to have.
pub(crate) fn nic(device: u8, tap: Option<String>) -> Nic {
    Nic { mac: Mac([2, 0, 0, 0, 0, device.saturating_add(1)]), mtu: MOST_MTU, tap }
}

impl Network {
    /// Takes the interfaces of this thread's network namespace for the container's guest.
    ///
    /// # Errors
    /// [`NetworkError`]; what was made then is left for [`remove`].
    pub(crate) fn take(id: &str) -> Result<Self, NetworkError> {
        let socket = Socket::open().map_err(failed("make a netlink socket"))?;
        let mut found = links::read(&socket)?;
        if !found.taps.is_empty() {
            free(&socket, found.taps)?;
            found = links::read(&socket)?;
        }
        if found.links.is_empty() {
            return Ok(Self { notes: found.notes, empty: true, ..Self::default() });
        }
        let (guest, notes) = read::network(&socket, &found)?;
        let mut nics = Vec::new();
        for (device, link) in (0..).zip(&found.links) {
            let name = tap::name(id, device);
            tap::make(&name)?;
            let index = socket.index(&name).map_err(failed(format!("find the tap {name}")))?;
            mirror::join(&socket, link, index, &name, id)?;
            nics.push(nic(device, Some(name)));
        }
        Ok(Self { guest: Some(guest), nics, notes: [found.notes, notes].concat(), empty: false })
    }

    /// Looks whether somebody has put interfaces into the namespace, in which there were none.
    ///
    /// # Errors
    /// [`NetworkError::Late`]: the guest does not have them.
    pub(crate) fn still_fits(&self) -> Result<(), NetworkError> {
        if !self.empty {
            return Ok(());
        }
        let socket = Socket::open().map_err(failed("make a netlink socket"))?;
        let found = links::read(&socket)?;
        found.links.into_iter().next().map_or(Ok(()), |link| Err(NetworkError::Late(link.name)))
    }

    /// Those that are asked for the guest.
    pub(crate) fn name_servers(&self) -> &[Ipv4Addr] {
        self.guest.as_ref().map_or(&[], |guest| &guest.name_servers)
    }
}

/// What a guest would get of a namespace of which the kernel says this: messages of rtnetlink(7) about interfaces, addresses, routes and
/// neighbours. Beside it, a line for each thing that it would not get.
///
/// # Errors
/// [`NetworkError::Unfit`].
pub fn understand(said: &[u8]) -> Result<(protocol::Network, Vec<String>), NetworkError> {
    let found = links::of(said)?;
    let (guest, notes) = read::of(&found, &read::Entries::of(&found, said)?);
    guest.check()?;
    Ok((guest, [found.notes, notes].concat()))
}

/// Removes the taps of this container from this thread's network namespace.
pub(crate) fn release(id: &str) -> Result<(), NetworkError> {
    let socket = Socket::open().map_err(failed("make a netlink socket"))?;
    let mut found = links::read(&socket)?;
    found.taps.retain(|tap| tap.container == id);
    for tap in &found.taps {
        mirror::part(&socket, tap)?;
    }
    Ok(())
}

/// Removes the taps of this container from a network namespace, which may be gone.
///
/// # Errors
/// [`NetworkError`].
pub(crate) fn remove(namespace: &Path, id: &str) -> Result<(), NetworkError> {
    let Ok(file) = File::open(namespace) else { return Ok(()) };
    let (id, path) = (id.to_owned(), namespace.to_owned());
    // Only this thread goes there.
    let there = move || {
        // What is not a network namespace any more has no taps.
        match move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)) {
            Ok(()) => release(&id),
            Err(rustix::io::Errno::INVAL) => Ok(()),
            Err(errno) => Err(failed(format!("join {}", path.display()))(errno)),
        }
    };
    let joined = thread::Builder::new().spawn(there).map(thread::JoinHandle::join);
    joined.map_err(failed("start a thread"))?.unwrap_or(Ok(()))
}

/// Whether this thread's network namespace is the file's, or that of the host's first process.
pub(crate) fn is_hosts(namespace: &File) -> bool {
    let of = |path: &str| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let Ok(wanted) = namespace.metadata().map(|found| (found.dev(), found.ino())) else {
        return false;
    };
    ["/proc/thread-self/ns/net", "/proc/1/ns/net"]
        .into_iter()
        .any(|path| of(path).is_ok_and(|found| found == wanted))
}

/// An address of an interface, or where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) ip: Ipv4Addr,
    pub(crate) prefix: u8,
    /// The interface that has the address; absent: a route.
    pub(crate) interface: Option<u32>,
}

/// The addresses and routes of IPv4 of this thread's network namespace, and the number of the interface with this name.
///
/// # Errors
/// [`NetworkError`].
pub(crate) fn known(name: &str) -> Result<(Vec<Known>, Option<u32>), NetworkError> {
    let socket = Socket::open().map_err(failed("make a netlink socket"))?;
    Ok((read::known(&socket)?, socket.index(name).ok()))
}

/// Removes the taps that nobody holds.
fn free(socket: &Socket, mut taps: Vec<Tap>) -> Result<(), NetworkError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for tap in taps.iter().filter(|tap| !tap.held) {
            mirror::part(socket, tap)?;
        }
        let Some(tap) = taps.into_iter().find(|tap| tap.held) else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(NetworkError::Taken { tap: tap.name, container: tap.container });
        }
        thread::sleep(Duration::from_millis(10));
        taps = links::read(socket)?.taps;
    }
}

/// Hexadecimal digits by which a container's taps are told from others'.
fn digest(id: &str) -> String {
    Sha256::digest(id).iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}
