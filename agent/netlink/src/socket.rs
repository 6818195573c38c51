//! The socket.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send,
        socket_with,
    },
};

use crate::{Batch, Parsed, messages};

/// The kernel's answers to a dump come in at most this (`NLMSG_GOODSIZE`, `min_dump_alloc` in net/netlink/af_netlink.c are less).
const BUFFER: usize = 64 << 10;
/// linux/netlink.h.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
/// How often a dump is asked for again because something changed meanwhile.
const TRIES: u32 = 8;

/// The kernel's no to a message of a [`Batch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Which one, from 0. [`Batch::count`]: what came back could not be read.
    pub index: u32,
    /// Why.
    pub errno: Errno,
}

/// A `NETLINK_ROUTE` socket of the network namespace that this thread was in when it was made.
#[derive(Debug)]
pub struct Socket {
    socket: OwnedFd,
}

impl Socket {
    /// Makes one.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> Result<Self, Errno> {
        // Protocol 0 of this family is `NETLINK_ROUTE`.
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket })
    }

    /// The number of the interface with this name.
    ///
    /// # Errors
    /// `ENODEV`: there is none.
    pub fn index(&self, name: &str) -> Result<u32, Errno> {
        netdevice::name_to_index(&self.socket, name)
    }

    /// Its network namespace.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_ADMIN there.
    pub fn namespace(&self) -> Result<OwnedFd, Errno> {
        /// linux/sockios.h: `SIOCGSKNS`.
        const NAMESPACE_OF: libc::Ioctl = 0x894c;
        // SAFETY: takes no pointer.
        let namespace = unsafe { libc::ioctl(self.socket.as_raw_fd(), NAMESPACE_OF) };
        if namespace < 0 {
            let error = std::io::Error::last_os_error();
            return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
    }

    /// Sends all messages in one, which the kernel handles one after the other. After one that it refuses it goes on
    /// with the next; the first refusal is the answer.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn change(&self, mut batch: Batch) -> Result<(), Refused> {
        let count = batch.count();
        let Some(last) = count.checked_sub(1) else { return Ok(()) };
        let lost = |errno| Refused { index: count, errno };
        let bytes = batch.finish();
        self.send(bytes).map_err(lost)?;
        let mut refused = None;
        let mut buffer = [0; 4096];
        loop {
            let answers = self.receive(&mut buffer, RecvFlags::empty()).map_err(lost)?;
            for answer in messages(answers).filter(|answer| answer.kind == ERROR) {
                let result = outcome(&answer);
                if let Err(errno) = result {
                    refused.get_or_insert(Refused { index: answer.sequence, errno });
                }
                if answer.sequence == last {
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Asks for everything of a kind (`RTM_GET…` with this fixed part), and hands each message to `each`. When something changed
    /// meanwhile it begins again, with `begin`.
    ///
    /// # Errors
    /// The kernel's, or that of `each`, which ends it.
    pub fn dump<T, E: From<Errno>>(
        &self,
        kind: u16,
        fixed: &[u8],
        begin: impl Fn() -> T,
        mut each: impl FnMut(&mut T, Parsed<'_>) -> Result<(), E>,
    ) -> Result<T, E> {
        let mut buffer = vec![0; BUFFER];
        let mut tries = 1;
        loop {
            let mut batch = Batch::default();
            batch.message(kind, DUMP, fixed);
            self.send(batch.finish())?;
            let mut all = begin();
            let mut interrupted = false;
            'parts: loop {
                let part = self.receive(&mut buffer, RecvFlags::TRUNC)?;
                for message in messages(part) {
                    interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                    match message.kind {
                        DONE => break 'parts,
                        ERROR => outcome(&message)?,
                        _ => each(&mut all, message)?,
                    }
                }
            }
            if !interrupted {
                return Ok(all);
            }
            if tries == TRIES {
                return Err(Errno::INTR.into());
            }
            tries += 1;
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        loop {
            match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    fn receive<'b>(&self, buffer: &'b mut [u8], flags: RecvFlags) -> Result<&'b [u8], Errno> {
        let length = loop {
            match recv(&self.socket, &mut *buffer, flags) {
                Ok((_, length)) => break length,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        };
        // Longer: with RecvFlags::TRUNC, something was cut off.
        buffer.get(..length).ok_or(Errno::MSGSIZE)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What an `NLMSG_ERROR` says (`struct nlmsgerr`); 0 is none.
fn outcome(answer: &Parsed<'_>) -> Result<(), Errno> {
    match answer.body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw_os_error(code.saturating_neg())),
        None => Err(Errno::BADMSG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{attributes, link};

    #[test]
    fn the_loopback_device_is_there() {
        let socket = Socket::open().unwrap();
        let fixed = link(0, 0, 0);
        let names = socket.dump(libc::RTM_GETLINK, &fixed, Vec::new, |names, message| {
            let name = attributes(message.body, fixed.len())
                .find(|attribute| attribute.kind == libc::IFLA_IFNAME);
            names.extend(name.and_then(|name| Some(name.text()?.to_owned())));
            Ok::<(), Errno>(())
        });
        assert!(names.unwrap().contains(&"lo".to_owned()));
        assert_eq!(socket.index("lo"), Ok(1));
        assert_eq!(socket.index("no-such"), Err(Errno::NODEV));
    }

    #[test]
    fn the_first_refusal_is_told() {
        let socket = Socket::open().unwrap();
        let mut batch = Batch::default();
        // An interface that does not exist, in the middle of two questions.
        batch.message(libc::RTM_NEWLINK, 0, &link(1, 0, 0));
        batch.message(libc::RTM_NEWLINK, 0, &link(0x7fff_fff0, 0, 0));
        batch.message(libc::RTM_NEWLINK, 0, &link(0x7fff_fff1, 0, 0));
        let refused = socket.change(batch).unwrap_err();
        assert!([Errno::NODEV, Errno::PERM].contains(&refused.errno), "{refused:?}");
        assert_eq!(socket.change(Batch::default()), Ok(()));
    }
}
