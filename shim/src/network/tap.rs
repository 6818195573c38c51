//! Tap interfaces (Documentation/networking/tuntap.rst).

use std::{fs::File, io, os::fd::AsRawFd};

use super::{
    digest,
    error::{NetworkError, failed},
};

const TUN: &str = "/dev/net/tun";
/// linux/if_tun.h.
const SET_INTERFACE: libc::Ioctl = 0x4004_54ca;
const SET_PERSISTENT: libc::Ioctl = 0x4004_54cb;
const TAP: u16 = 0x0002;
const NO_PACKET_INFORMATION: u16 = 0x1000;
const NETWORK_HEADER: u16 = 0x4000;

/// `struct ifreq` with its flags.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// The name of a container's tap for the network card with this number: at most 15 bytes, as interfaces' names are.
pub(super) fn name(id: &str, device: u8) -> String {
    format!("bh{}-{device}", digest(id))
}

/// Makes a tap in this thread's network namespace that stays when nobody has it open.
pub(super) fn make(name: &str) -> Result<(), NetworkError> {
    let tun = File::options().read(true).write(true).open(TUN);
    let tun = tun.map_err(failed(format!("open {TUN} for the microVM's network card")))?;
    let flags = TAP | NO_PACKET_INFORMATION | NETWORK_HEADER;
    let mut request = Request { name: [0; 16], flags, rest: [0; 22] };
    // The last byte stays zero.
    for (to, from) in request.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: the kernel reads and writes a `struct ifreq`, which has these 40 bytes.
    let made = unsafe { libc::ioctl(tun.as_raw_fd(), SET_INTERFACE, &raw mut request) };
    check(made).map_err(failed(format!("make the tap {name}")))?;
    // SAFETY: takes a number.
    let kept = unsafe { libc::ioctl(tun.as_raw_fd(), SET_PERSISTENT, 1) };
    check(kept).map_err(failed(format!("keep the tap {name}")))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
