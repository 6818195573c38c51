//! The way to the monitor: vsock from a guest, Unix sockets on a host. Nothing else in the agent knows which it is.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
};

use bulkhead_protocol::HOST_CID;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

/// How the monitor is reached.
#[derive(Debug)]
pub(crate) enum Link {
    /// Ports of the host (vsock(7)).
    Vsock,
    /// Unix sockets with the port's number behind this path and an underscore.
    Unix(PathBuf),
}

impl Link {
    /// A socket that does not block, connected to a port or on its way there: writable when it is.
    pub(crate) fn connect(&self, port: u32) -> Result<OwnedFd, Errno> {
        match self {
            Link::Vsock => vsock(port),
            Link::Unix(path) => {
                let mut name = path.clone().into_os_string();
                name.push(format!("_{port}"));
                let flags = SocketFlags::CLOEXEC;
                let socket = stream(AddressFamily::UNIX, flags)?;
                // A full backlog makes this wait, where a socket that does not block would fail.
                rustix::net::connect(&socket, &SocketAddrUnix::new(PathBuf::from(name))?)?;
                rustix::io::ioctl_fionbio(&socket, true)?;
                Ok(socket)
            }
        }
    }
}

fn vsock(port: u32) -> Result<OwnedFd, Errno> {
    /// `AF_VSOCK` and the length of its addresses, in the types of connect(2).
    const FAMILY: libc::sa_family_t = 40;
    const LENGTH: libc::socklen_t = 16;
    let socket = stream(AddressFamily::VSOCK, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    be_patient(&socket)?;
    let address = libc::sockaddr_vm {
        svm_family: FAMILY,
        svm_reserved1: 0,
        svm_port: port,
        svm_cid: HOST_CID,
        svm_zero: [0; 4],
    };
    // SAFETY: the address is one of the socket's family, and the length its own.
    let result =
        unsafe { libc::connect(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), LENGTH) };
    if result < 0 {
        let error = std::io::Error::last_os_error();
        match Errno::from_io_error(&error) {
            Some(Errno::INPROGRESS) => {}
            errno => return Err(errno.unwrap_or(Errno::IO)),
        }
    }
    Ok(socket)
}

/// How long the host may take to answer: it ends the machine if it has lost interest. The kernel's own two seconds pass on a busy host, and a process would
/// have lost its streams.
fn be_patient(socket: &OwnedFd) -> Result<(), Errno> {
    /// `AF_VSOCK` as a level of options, and `SO_VM_SOCKETS_CONNECT_TIMEOUT` (linux/vm_sockets.h).
    const LEVEL: libc::c_int = 40;
    const CONNECT_TIMEOUT: libc::c_int = 6;
    /// Of a timeval.
    const LENGTH: libc::socklen_t = 16;
    let patience = libc::timeval { tv_sec: 3600, tv_usec: 0 };
    // SAFETY: the kernel reads the structure, whose length is its own.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            LEVEL,
            CONNECT_TIMEOUT,
            std::ptr::from_ref(&patience).cast(),
            LENGTH,
        )
    };
    if result < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(())
}

fn stream(family: AddressFamily, flags: SocketFlags) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(family, SocketType::STREAM, flags, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_waits_longer_for_a_busy_host_than_the_kernel_would() {
        let socket = match stream(AddressFamily::VSOCK, SocketFlags::CLOEXEC) {
            Err(Errno::AFNOSUPPORT) => {
                eprintln!("SKIPPED: this kernel has no AF_VSOCK");
                return;
            }
            socket => socket.unwrap(),
        };
        let seconds = || {
            let (mut time, mut length) = (libc::timeval { tv_sec: 0, tv_usec: 0 }, 16);
            // SAFETY: both pointers are to variables of ours with the sizes that the option has.
            let asked = unsafe {
                let time = (&raw mut time).cast();
                libc::getsockopt(socket.as_raw_fd(), 40, 6, time, &raw mut length)
            };
            assert_eq!(asked, 0);
            time.tv_sec
        };
        let before = seconds();
        be_patient(&socket).unwrap();
        assert!(before < 60 && seconds() == 3600);
    }
}
