//! What goes before each frame (virtio 1.3, 5.1.6, `struct virtio_net_hdr`), and the features that say what may be in it.

/// `VIRTIO_NET_F_CSUM`: the guest sends frames whose checksum is yet to be done.
pub(super) const CSUM: u64 = 1 << 0;
/// `VIRTIO_NET_F_GUEST_CSUM`: it takes such frames.
pub(super) const GUEST_CSUM: u64 = 1 << 1;
/// `VIRTIO_NET_F_MTU`.
pub(super) const MTU: u64 = 1 << 3;
/// `VIRTIO_NET_F_MAC`.
pub(super) const MAC: u64 = 1 << 5;
/// `VIRTIO_NET_F_GUEST_TSO4`: it takes TCP segments of IPv4 that are yet to be cut.
pub(super) const GUEST_TSO4: u64 = 1 << 7;
/// `VIRTIO_NET_F_GUEST_TSO6`: and of IPv6.
pub(super) const GUEST_TSO6: u64 = 1 << 8;
/// `VIRTIO_NET_F_GUEST_ECN`: also those with congestion marked.
pub(super) const GUEST_ECN: u64 = 1 << 9;
/// `VIRTIO_NET_F_HOST_TSO4`: it sends TCP segments of IPv4 that are yet to be cut.
pub(super) const HOST_TSO4: u64 = 1 << 11;
/// `VIRTIO_NET_F_HOST_TSO6`: and of IPv6.
pub(super) const HOST_TSO6: u64 = 1 << 12;
/// `VIRTIO_NET_F_HOST_ECN`: also those with congestion marked.
pub(super) const HOST_ECN: u64 = 1 << 13;
/// `VIRTIO_NET_F_MRG_RXBUF`: a frame may fill several of the driver's chains.
pub(super) const MRG_RXBUF: u64 = 1 << 15;
/// `VIRTIO_NET_F_STATUS`.
pub(super) const STATUS: u64 = 1 << 16;

/// All that the device offers of its own type.
pub(super) const ALL: u64 = CSUM
    | GUEST_CSUM
    | MTU
    | MAC
    | GUEST_TSO4
    | GUEST_TSO6
    | GUEST_ECN
    | HOST_TSO4
    | HOST_TSO6
    | HOST_ECN
    | MRG_RXBUF
    | STATUS;

/// Bytes of the header, with `num_buffers`, which devices that are not legacy always have.
pub(super) const HEADER: usize = 12;
/// Where `num_buffers` is in it.
pub(super) const NUM_BUFFERS: usize = 10;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// And of a VLAN's tag in it.
const TAG: usize = 4;
/// The most bytes of a frame and its header: 64 KiB of segments (`GSO_LEGACY_MAX_SIZE` in Linux).
pub(super) const LARGEST: usize = HEADER + ETHERNET + TAG + (64 << 10);

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_NONE`.
const GSO_NONE: u8 = 0;
/// `VIRTIO_NET_HDR_GSO_TCPV4`.
const GSO_TCPV4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV6`.
const GSO_TCPV6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_ECN`.
const GSO_ECN: u8 = 0x80;

/// The header to give the host for a frame of `length` bytes that a driver with `features` sends behind `header`. Fields that mean
/// nothing are zero. `None`: no driver may send it, or it is longer than `mtu` allows.
pub(super) fn to_host(
    header: [u8; HEADER],
    length: usize,
    features: u64,
    mtu: u16,
) -> Option<[u8; HEADER]> {
    let [flags, kind, h0, h1, s0, s1, a0, a1, o0, o1, ..] = header;
    let (hdr_len, gso_size) = (u16::from_le_bytes([h0, h1]), u16::from_le_bytes([s0, s1]));
    let (start, offset) = (u16::from_le_bytes([a0, a1]), u16::from_le_bytes([o0, o1]));
    let has = |feature| features & feature != 0;
    let mut sent = [0; HEADER];
    // Other flags are to be ignored (virtio 1.3, 5.1.6.2.2).
    let partial = flags & NEEDS_CSUM != 0;
    if partial {
        let field = usize::from(start) + usize::from(offset);
        if !has(CSUM) || field + 2 > length {
            return None;
        }
        sent[0] = NEEDS_CSUM;
        sent[6..10].copy_from_slice(&header[6..10]);
    }
    let whole = (ETHERNET..=LARGEST - HEADER).contains(&length);
    if kind == GSO_NONE {
        let fits = length <= usize::from(mtu) + ETHERNET + TAG;
        return (whole && fits).then_some(sent);
    }
    let marked = kind & GSO_ECN != 0;
    let known = match kind & !GSO_ECN {
        GSO_TCPV4 => has(HOST_TSO4),
        GSO_TCPV6 => has(HOST_TSO6),
        _ => false,
    };
    let sound = (1..=mtu).contains(&gso_size) && usize::from(hdr_len) <= length;
    sent[1..6].copy_from_slice(&header[1..6]);
    let may = partial && known && (!marked || has(HOST_ECN));
    (whole && may && sound).then_some(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flags, type, header's length, segment's size, checksum's start and offset; noise where nothing is meant.
    fn header(flags: u8, kind: u8, numbers: [u16; 4]) -> [u8; HEADER] {
        let mut header = [0xaa; HEADER];
        (header[0], header[1]) = (flags, kind);
        for (place, number) in header[2..10].chunks_mut(2).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        header
    }

    #[test]
    fn a_plain_frame_has_a_header_of_zeros_and_fits_the_mtu() {
        let plain = header(0xfe, 0, [1, 2, 3, 4]);
        assert_eq!(to_host(plain, 60, ALL, 1500), Some([0; HEADER]));
        assert_eq!(to_host(plain, 60, 0, 1500), Some([0; HEADER]));
        assert!(to_host(plain, 14, ALL, 68).is_some() && to_host(plain, 13, ALL, 68).is_none());
        assert!(to_host(plain, 1518, ALL, 1500).is_some());
        assert_eq!(to_host(plain, 1519, ALL, 1500), None);
        assert_eq!(to_host(plain, usize::MAX, ALL, u16::MAX), None);
    }

    #[test]
    fn a_checksum_to_be_done_lies_in_the_frame() {
        let partial = |start, offset| header(1, 0, [7, 7, start, offset]);
        let sent = to_host(partial(34, 16), 60, ALL, 1500).unwrap();
        assert_eq!(sent, [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]);
        assert!(to_host(partial(34, 24), 60, ALL, 1500).is_some());
        assert_eq!(to_host(partial(34, 25), 60, ALL, 1500), None);
        assert_eq!(to_host(partial(u16::MAX, u16::MAX), 60, ALL, 1500), None);
        assert_eq!(to_host(partial(34, 16), 60, ALL & !CSUM, 1500), None);
    }

    #[test]
    fn segments_are_those_that_were_agreed_on() {
        let segments = |kind, size| header(1, kind, [54, size, 34, 16]);
        let sent = to_host(segments(GSO_TCPV4 | GSO_ECN, 1448), 65_000, ALL, 1500).unwrap();
        assert_eq!(sent, [1, 0x81, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]);
        assert!(to_host(segments(GSO_TCPV6, 1500), 65_000, ALL, 1500).is_some());
        let longest = LARGEST - HEADER;
        assert!(to_host(segments(GSO_TCPV6, 1500), longest, ALL, 1500).is_some());
        for (header, length, without) in [
            (segments(GSO_TCPV4, 1448), 65_000, HOST_TSO4),
            (segments(GSO_TCPV6, 1448), 65_000, HOST_TSO6),
            (segments(GSO_TCPV4 | GSO_ECN, 1448), 65_000, HOST_ECN),
            (segments(GSO_TCPV4, 0), 65_000, 0),
            (segments(GSO_TCPV4, 1501), 65_000, 0),
            (segments(GSO_TCPV4, 1448), 53, 0),
            (segments(GSO_TCPV4, 1448), longest + 1, 0),
            (segments(3, 1448), 65_000, 0),
            (segments(0x7f, 1448), 65_000, 0),
            (segments(GSO_ECN, 1448), 60, 0),
            ([0, 1, 54, 0, 0, 5, 34, 0, 16, 0, 0, 0], 65_000, 0),
        ] {
            assert_eq!(to_host(header, length, ALL & !without, 1500), None, "{header:?}");
        }
    }
}
