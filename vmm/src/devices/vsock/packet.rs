//! The header of a packet (virtio 1.3, 5.10.6). Read here rather than with the virtio-vsock crate, which expects the header
//! and the data in one descriptor each; a device must not (2.7.4.1).

use serde::{Deserialize, Serialize};

/// Bytes in a header.
pub(super) const HEADER: usize = 44;
/// The host's context id.
pub(super) const HOST_CID: u64 = 2;
/// `VIRTIO_VSOCK_TYPE_STREAM`.
pub(super) const STREAM: u16 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`: the sender of the packet will receive no more.
pub(super) const WILL_NOT_RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`: the sender of the packet will send no more.
pub(super) const WILL_NOT_SEND: u32 = 2;

/// A connection, as both sides name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    /// The port on the host.
    pub(super) host: u32,
    /// The port in the guest.
    pub(super) guest: u32,
}

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    /// Asks for a connection.
    Request,
    /// Accepts it.
    Response,
    /// Ends it, or says that there is none.
    Reset,
    /// Says that no more will be sent or received.
    Shutdown,
    /// Carries data.
    Data,
    /// Tells the credit.
    CreditUpdate,
    /// Asks for the credit.
    CreditRequest,
    /// Something else.
    Unknown(u16),
}

impl Op {
    fn decode(number: u16) -> Self {
        match number {
            1 => Op::Request,
            2 => Op::Response,
            3 => Op::Reset,
            4 => Op::Shutdown,
            5 => Op::Data,
            6 => Op::CreditUpdate,
            7 => Op::CreditRequest,
            other => Op::Unknown(other),
        }
    }

    fn encode(self) -> u16 {
        match self {
            Op::Request => 1,
            Op::Response => 2,
            Op::Reset => 3,
            Op::Shutdown => 4,
            Op::Data => 5,
            Op::CreditUpdate => 6,
            Op::CreditRequest => 7,
            Op::Unknown(other) => other,
        }
    }
}

/// `struct virtio_vsock_hdr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) op: Op,
    pub(super) flags: u32,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

impl Header {
    /// A packet from the host to the guest's `cid`, without data, flags or credit.
    pub(super) fn to_guest(cid: u64, key: Key, op: Op) -> Self {
        Self {
            src_cid: HOST_CID,
            dst_cid: cid,
            src_port: key.host,
            dst_port: key.guest,
            len: 0,
            kind: STREAM,
            op,
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }

    pub(super) fn decode(bytes: &[u8; HEADER]) -> Self {
        let long = |at: usize| u64::from_le_bytes(field(bytes, at));
        let word = |at: usize| u32::from_le_bytes(field(bytes, at));
        let short = |at: usize| u16::from_le_bytes(field(bytes, at));
        Self {
            src_cid: long(0),
            dst_cid: long(8),
            src_port: word(16),
            dst_port: word(20),
            len: word(24),
            kind: short(28),
            op: Op::decode(short(30)),
            flags: word(32),
            buf_alloc: word(36),
            fwd_cnt: word(40),
        }
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.src_cid.to_le_bytes());
        put(8, &self.dst_cid.to_le_bytes());
        put(16, &self.src_port.to_le_bytes());
        put(20, &self.dst_port.to_le_bytes());
        put(24, &self.len.to_le_bytes());
        put(28, &self.kind.to_le_bytes());
        put(30, &self.op.encode().to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.buf_alloc.to_le_bytes());
        put(40, &self.fwd_cnt.to_le_bytes());
        bytes
    }
}

fn field<const N: usize>(bytes: &[u8; HEADER], at: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[at + index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_wire() {
        let header = Header {
            src_cid: 0x0102_0304_0506_0708,
            dst_cid: 3,
            src_port: 0x1112_1314,
            dst_port: 0x2122_2324,
            len: 0x3132_3334,
            kind: 0x4142,
            op: Op::Unknown(0x5152),
            flags: 0x6162_6364,
            buf_alloc: 0x7172_7374,
            fwd_cnt: 0x8182_8384,
        };
        let bytes = header.encode();
        assert_eq!(bytes[16..20], [0x14, 0x13, 0x12, 0x11]);
        assert_eq!(bytes[30..32], [0x52, 0x51]);
        assert_eq!(Header::decode(&bytes), header);
        for number in 0..10 {
            assert_eq!(Op::decode(number).encode(), number);
        }
    }
}
