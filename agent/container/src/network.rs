//! The loopback interface (netdevice(7)): down in every new network namespace.

use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::{
    error::{Error, at},
    sys,
};

/// `struct ifreq` with its flags.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// linux/sockios.h.
const SIOCSIFFLAGS: usize = 0x8914;

/// Brings `lo` up in this process's network namespace.
///
/// # Errors
/// [`Error::System`].
pub fn loopback_up() -> Result<(), Error> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(at("make", "a socket"))?;
    /// `IFF_UP`.
    const UP: u16 = 1;
    let mut request = Request { name: [0; 16], flags: UP, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: SIOCSIFFLAGS reads a `struct ifreq`, which has these 40 bytes.
    unsafe {
        sys::syscall(
            libc::SYS_ioctl,
            [
                sys::fd(socket.as_raw_fd()),
                SIOCSIFFLAGS,
                std::ptr::from_ref(&request) as usize,
                0,
                0,
            ],
        )
    }
    .map(drop)
    .map_err(at("bring up", "lo"))
}
