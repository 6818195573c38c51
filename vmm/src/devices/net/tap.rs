//! A tap interface of the host (Linux Documentation/networking/tuntap.rst), opened before the jail closes.

use std::{
    fs::{File, OpenOptions},
    io, mem,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
};

use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};

use super::{
    frame::{self, HEADER},
    port::Port,
};
use crate::api::Mac;

const DEVICE: &str = "/dev/net/tun";

/// Why a network card cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The host has no taps, or not for this process.
    #[error("nic {mac}: cannot open {DEVICE}")]
    Device {
        /// The card.
        mac: Mac,
        /// Why.
        source: io::Error,
    },
    /// The interface cannot be used.
    #[error("nic {mac}: cannot use the tap {tap}; {hint}")]
    Tap {
        /// The card.
        mac: Mac,
        /// The interface.
        tap: String,
        /// What to look at.
        hint: &'static str,
        /// Why.
        source: io::Error,
    },
    /// There was none of this name.
    #[error(
        "nic {mac}: there is no persistent tap {tap} in this network namespace; make it first (ip tuntap add mode tap {tap})"
    )]
    Missing {
        /// The card.
        mac: Mac,
        /// The interface.
        tap: String,
    },
    /// The host's side cannot be watched.
    #[error("nic {mac}: cannot watch its tap")]
    Epoll {
        /// The card.
        mac: Mac,
        /// Why.
        source: io::Error,
    },
}

/// An open tap.
#[derive(Debug)]
pub(super) struct Tap(File);

impl Tap {
    /// Opens the persistent tap of this name. It gives headers with its frames, and takes all that the device offers.
    pub(super) fn open(mac: Mac, name: &str) -> Result<Self, NetError> {
        let failed = |hint, source| NetError::Tap { mac, tap: name.to_owned(), hint, source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(|source| NetError::Device { mac, source })?;
        let tap = Self(file);
        let persists = tap.attach(name).map_err(|source| failed(hint(&source), source))?;
        if !persists {
            // It was made by that and goes with the file.
            return Err(NetError::Missing { mac, tap: name.to_owned() });
        }
        let old = "this host's kernel is too old for its headers and offloads";
        tap.set_header_size().map_err(|source| failed(old, source))?;
        tap.offload(frame::ALL).map_err(|source| failed(old, source))?;
        Ok(tap)
    }

    /// Joins the file and the interface; whether that stays when the file is closed.
    fn attach(&self, name: &str) -> io::Result<bool> {
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let mut request = request(name, flags)?;
        // SAFETY: the requests read and write a `struct ifreq`, which this is.
        succeeded(unsafe { ioctl_with_ref(&self.0, libc::TUNSETIFF, &request) })?;
        // SAFETY: as above.
        succeeded(unsafe { ioctl_with_mut_ref(&self.0, libc::TUNGETIFF, &mut request) })?;
        // SAFETY: the kernel has set the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        Ok(libc::c_int::from(flags) & libc::IFF_PERSIST != 0)
    }

    fn set_header_size(&self) -> io::Result<()> {
        let size = libc::c_int::try_from(HEADER).map_err(io::Error::other)?;
        // SAFETY: the request reads an `int`.
        succeeded(unsafe { ioctl_with_ref(&self.0, libc::TUNSETVNETHDRSZ, &size) })
    }

    /// Lets the kernel give frames that a driver with these features takes.
    fn offload(&self, features: u64) -> io::Result<()> {
        let flags = offloads(features);
        // SAFETY: the request takes a number.
        succeeded(unsafe { ioctl_with_val(&self.0, libc::TUNSETOFFLOAD, flags.into()) })
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Port for Tap {
    fn accept(&self, features: u64) -> io::Result<()> {
        self.offload(features)
    }
}

/// The `TUN_F_` flags of the driver's features. It takes no segments without checksums to be done (virtio 1.3, 5.1.3.1).
fn offloads(features: u64) -> libc::c_uint {
    let flag = |feature, flag| if features & feature != 0 { flag } else { 0 };
    if features & frame::GUEST_CSUM == 0 {
        return 0;
    }
    let segments =
        flag(frame::GUEST_TSO4, libc::TUN_F_TSO4) | flag(frame::GUEST_TSO6, libc::TUN_F_TSO6);
    let marked = if segments != 0 { flag(frame::GUEST_ECN, libc::TUN_F_TSO_ECN) } else { 0 };
    libc::TUN_F_CSUM | segments | marked
}

fn request(name: &str, flags: libc::c_int) -> io::Result<libc::ifreq> {
    // SAFETY: all bits zero are a value of each of its fields.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The last byte stays zero.
    let places = request.ifr_name.iter_mut().rev().skip(1).rev();
    if name.len() > places.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in places.zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    Ok(request)
}

fn succeeded(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ResourceBusy => "something else holds it",
        io::ErrorKind::PermissionDenied => "it is another user's, or there is none of this name",
        io::ErrorKind::InvalidInput => "it is no tap, or one of several queues",
        _ => "is it a tap of this network namespace?",
    }
}
