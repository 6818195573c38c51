//! What is done, in which order, and what it is called.

use std::net::{IpAddr, SocketAddr};

use bulkhead_scout::Order;

use super::{
    far::{ECHO, SINK, SOURCE},
    wire::FAR,
};
use crate::bench::orders::{Step, steps};

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(FAR), port)
}

/// All steps, in their order.
pub(super) const STEPS: &[Step] = steps! {
    Network Bytes "receive" "TCP, to the container" |sizes| Order::Fetch { from: at(SOURCE), bytes: sizes.bytes };
    Network Bytes "send" "TCP, from the container" |sizes| Order::Give { to: at(SINK), bytes: sizes.bytes };
    Network Things "turn" "TCP, a byte there and back" |sizes| Order::Bounce { with: at(ECHO), count: sizes.count };
    Network Things "datagram" "UDP, a byte there and back" |sizes| Order::Datagrams { with: at(ECHO), count: sizes.count };
    Network Things "connect" "TCP, connections made" |sizes| Order::Connect { to: at(ECHO), count: sizes.count };
};
