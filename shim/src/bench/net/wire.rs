//! A container's network namespace and that of its peer, with a veth between them (veth(4)). Nothing of the host's own network is touched.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
    thread,
};

use bulkhead_netlink::{Batch, Family, Socket, address, link};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::far;
use crate::bench::BenchError;

/// The peer's address.
pub(super) const FAR: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// The container's.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 2);
const PREFIX: u8 = 24;
/// The interface of either.
const NAME: &str = "eth0";
const LOOPBACK: &str = "lo";

/// linux/rtnetlink.h, linux/netlink.h, linux/if_link.h, linux/veth.h, linux/if_addr.h, linux/if.h.
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const CREATE: u16 = 0x400 | 0x200;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const UP: u32 = 1;
/// Bytes of a message's header (`struct nlmsghdr`), which an attribute has none of.
const HEADER: usize = 16;

/// A container's network namespace, which is there as long as this is.
#[derive(Debug)]
pub(super) struct Wire(OwnedFd);

impl Wire {
    /// Makes both namespaces and the veth, and lets the peer serve.
    ///
    /// # Errors
    /// The host refuses.
    pub(super) fn make() -> Result<Self, BenchError> {
        let made = elsewhere(|| {
            own_namespace()?;
            let near = File::open("/proc/thread-self/ns/net")?;
            Ok(OwnedFd::from(near))
        })
        .and_then(|near| {
            let there = near.try_clone()?;
            elsewhere(move || {
                own_namespace()?;
                join(&there)?;
                configure(FAR)?;
                move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network))?;
                configure(NEAR)
            })?;
            Ok(near)
        });
        made.map(Self).map_err(BenchError::host("make network namespaces with a veth"))
    }

    /// Where other processes open it.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }
}

/// In a thread of its own, whose namespaces are its own business.
fn elsewhere<T: Send + 'static>(
    body: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let ended = thread::Builder::new().spawn(body)?.join();
    ended.unwrap_or_else(|_| Err(io::Error::other("a thread failed")))
}

fn own_namespace() -> io::Result<()> {
    // SAFETY: this thread's descriptors and memory stay as they are.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// Makes a veth between this thread's namespace and another.
fn join(there: &OwnedFd) -> io::Result<()> {
    let mut peer = Batch::default();
    let there = there.as_raw_fd().cast_unsigned();
    peer.message(0, 0, &link(0, 0, 0)).text(IFLA_IFNAME, NAME).number(IFLA_NET_NS_FD, there);
    let peer = peer.bytes().get(HEADER..).unwrap_or_default();
    let mut batch = Batch::default();
    batch.message(NEW_LINK, CREATE, &link(0, 0, 0)).text(IFLA_IFNAME, NAME).nested(
        IFLA_LINKINFO,
        |info| {
            info.attribute(INFO_KIND, b"veth").nested(INFO_DATA, |data| {
                data.attribute(VETH_INFO_PEER, peer);
            });
        },
    );
    change(batch)
}

/// Gives the interface of this thread's namespace its address, and starts the peer's servers where it is the peer's.
fn configure(own: Ipv4Addr) -> io::Result<()> {
    loopback_up()?;
    let index = Socket::open()?.index(NAME)?;
    let mut batch = Batch::default();
    batch
        .message(NEW_ADDRESS, CREATE, &address(Family::V4, PREFIX, 0, index))
        .attribute(IFA_LOCAL, &own.octets())
        .attribute(IFA_ADDRESS, &own.octets());
    batch.message(NEW_LINK, 0, &link(index, UP, UP));
    change(batch)?;
    if own == FAR { far::serve(IpAddr::V4(own)) } else { Ok(()) }
}

/// Lets this thread's namespace reach itself.
pub(super) fn loopback_up() -> io::Result<()> {
    let index = Socket::open()?.index(LOOPBACK)?;
    let mut batch = Batch::default();
    batch.message(NEW_LINK, 0, &link(index, UP, UP));
    change(batch)
}

fn change(batch: Batch) -> io::Result<()> {
    Socket::open()?.change(batch).map_err(|refused| refused.errno.into())
}
