//! How a container that outlives its maker is started: its first process listens on a socket of the container's state
//! directory, and whoever starts it connects, says so, and hears what came of it.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

use crate::{
    error::{Error, Kind, at},
    report::{self, Report},
};

/// The first process waits to be started and returns the connection of the one who does it. Those who hang up without a
/// word only wanted to know whether it waits.
pub(crate) fn wait(listener: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    loop {
        let connection = match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            accepted => accepted?,
        };
        if report::wait(std::os::fd::AsFd::as_fd(&connection)) {
            return Ok(connection);
        }
    }
}

/// Some process waits behind the socket at this path, which need not exist.
pub(crate) fn is_waited_at(socket: &Path) -> Result<bool, Error> {
    match connect(socket, SocketFlags::NONBLOCK) {
        // A full backlog is one that somebody empties.
        Ok(_) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(errno) => Err(at("connect to", socket.display())(errno)),
    }
}

/// Starts the process that waits behind the socket.
pub(crate) fn open(container: &str, socket: &Path) -> Result<(), Error> {
    let connection = match connect(socket, SocketFlags::empty()) {
        Err(Errno::CONNREFUSED | Errno::NOENT) => {
            return Err(Error::state(container, "does not wait to be started"));
        }
        connected => connected.map_err(at("connect to", socket.display()))?,
    };
    report::go(&connection)?;
    match report::receive(&connection)? {
        Report::Failed(error) => Err(error),
        Report::Closed => Ok(()),
        _ => Err(Error::Child {
            kind: Kind::System,
            message: format!("container {container} gave a start no sensible answer"),
        }),
    }
}

fn connect(socket: &Path, flags: SocketFlags) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(socket)?;
    let flags = flags | SocketFlags::CLOEXEC;
    let end = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&end, &address)?;
    Ok(end)
}
