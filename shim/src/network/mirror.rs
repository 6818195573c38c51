//! Traffic control that hands all frames from one interface to another: an ingress queueing discipline on each, with a filter that
//! matches everything and redirects it (tc-mirred(8), tc-u32(8)).

use bulkhead_netlink::{self as netlink, Batch, Family, Message, Socket};
use rustix::io::Errno;

use super::{
    error::{NetworkError, failed},
    links::{Link, Tap, alias},
};

/// linux/netlink.h.
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
/// linux/pkt_sched.h: `TC_H_INGRESS`, and the handle of its discipline.
const INGRESS: u32 = 0xffff_fff1;
const HANDLE: u32 = 0xffff_0000;
/// linux/rtnetlink.h.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;

/// Joins an interface and the tap with this index. What comes to the tap's own addresses is nothing: it gets none.
pub(super) fn join(
    socket: &Socket,
    link: &Link,
    tap: u32,
    name: &str,
    container: &str,
) -> Result<(), NetworkError> {
    let Link { index, name: of, mtu, .. } = link;
    let mut batch = Batch::default();
    batch
        .message(libc::RTM_NEWLINK, 0, &netlink::link(tap, 0, 0))
        .text(libc::IFLA_IFALIAS, &alias(of, container))
        .number(libc::IFLA_MTU, *mtu);
    let set = socket.change(batch);
    set.map_err(|refused| failed(format!("set the tap {name}'s MTU to {mtu}"))(refused.errno))?;
    without_addresses(socket, tap);
    let up = libc::IFF_UP.unsigned_abs();
    let mut batch = Batch::default();
    batch.message(libc::RTM_NEWLINK, 0, &netlink::link(tap, up, up));
    add_ingress(&mut batch, tap);
    redirect(&mut batch, tap, *index);
    let done = socket.change(batch);
    done.map_err(|refused| failed(format!("redirect the tap {name} to {of}"))(refused.errno))?;
    let mut batch = Batch::default();
    add_ingress(&mut batch, *index);
    redirect(&mut batch, *index, tap);
    socket.change(batch).map_err(|refused| match refused.errno {
        Errno::EXIST => failed(format!("redirect {of} to the microVM"))(
            "it has an ingress queueing discipline already (see `tc qdisc show`)",
        ),
        errno => failed(format!("redirect {of} to the microVM"))(errno),
    })
}

/// Removes a tap, and the redirection to it.
pub(super) fn part(socket: &Socket, tap: &Tap) -> Result<(), NetworkError> {
    // The interface may be gone with its network.
    if let Ok(index) = socket.index(&tap.of) {
        let mut batch = Batch::default();
        batch.message(libc::RTM_DELQDISC, 0, &netlink::traffic(index, HANDLE, INGRESS, 0));
        // It had none when its maker was killed early.
        let _ = socket.change(batch);
    }
    let mut batch = Batch::default();
    batch.message(libc::RTM_DELLINK, 0, &netlink::link(tap.index, 0, 0));
    match socket.change(batch).map_err(|refused| refused.errno) {
        Ok(()) | Err(Errno::NODEV) => Ok(()),
        Err(errno) => Err(failed(format!("remove the tap {}", tap.name))(errno)),
    }
}

/// Keeps the host's own IPv6 from speaking on a tap. A host without IPv6 refuses, and need not be kept.
fn without_addresses(socket: &Socket, tap: u32) {
    /// linux/if_link.h.
    const ADDRESS_MODE: u16 = 8;
    const MODE_NONE: u8 = 1;
    let mut batch = Batch::default();
    batch.message(libc::RTM_NEWLINK, 0, &netlink::link(tap, 0, 0)).nested(
        libc::IFLA_AF_SPEC,
        |families| {
            families.nested(u16::from(Family::V6.0), |ipv6| {
                ipv6.attribute(ADDRESS_MODE, &[MODE_NONE]);
            });
        },
    );
    let _ = socket.change(batch);
}

fn add_ingress(batch: &mut Batch, index: u32) {
    batch
        .message(
            libc::RTM_NEWQDISC,
            CREATE | EXCLUSIVE,
            &netlink::traffic(index, HANDLE, INGRESS, 0),
        )
        .text(KIND, "ingress");
}

/// Everything that comes in on `from` goes out on `to`.
fn redirect(batch: &mut Batch, from: u32, to: u32) {
    /// Priority 1, and `ETH_P_ALL` in the network's byte order.
    const FIRST_OF_ALL: u32 = 1 << 16 | (0x0003_u16.to_be() as u32);
    /// linux/pkt_cls.h.
    const SELECTOR: u16 = 5;
    const ACTIONS: u16 = 7;
    let fixed = netlink::traffic(from, 0, HANDLE, FIRST_OF_ALL);
    batch.message(libc::RTM_NEWTFILTER, CREATE | EXCLUSIVE, &fixed).text(KIND, "u32").nested(
        OPTIONS,
        |options| {
            options.attribute(SELECTOR, &everything());
            options.nested(ACTIONS, |actions| {
                actions.nested(1, |action| mirred(action, to));
            });
        },
    );
}

/// `struct tc_u32_sel` with one key of mask 0, which every frame has.
fn everything() -> [u8; 32] {
    /// `TC_U32_TERMINAL`.
    const TERMINAL: u8 = 1;
    let mut selector = [0; 32];
    selector[0] = TERMINAL;
    // The number of keys.
    selector[2] = 1;
    selector
}

/// linux/tc_act/tc_mirred.h.
fn mirred(action: &mut Message<'_>, to: u32) {
    const PARAMETERS: u16 = 2;
    /// `TC_ACT_STOLEN` and `TCA_EGRESS_REDIR`.
    const STOLEN: u32 = 4;
    const REDIRECT: u32 = 1;
    action.text(KIND, "mirred").nested(OPTIONS, |options| {
        // `index`, `capab`, `action`, `refcnt`, `bindcnt`, `eaction`, `ifindex`.
        let numbers = [0, 0, STOLEN, 0, 0, REDIRECT, to];
        let bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_ne_bytes).collect();
        options.attribute(PARAMETERS, &bytes);
    });
}
