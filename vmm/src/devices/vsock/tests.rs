//! The socket device between a driver that follows the rules, or does not, and Unix sockets.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Instant,
};

use tempfile::TempDir;

use super::{
    MAX_PATH, Vsock, VsockError,
    credit::HOST_BUFFER,
    packet::{HEADER, Header, Key, Op, STREAM, WILL_NOT_RECEIVE, WILL_NOT_SEND},
    table::MAX_CONNECTIONS,
};
use crate::{
    api,
    devices::{
        VsockCounts,
        testing::{Driver, PATIENCE, pattern},
        virtio::feature,
    },
};

const CID: u64 = 5;
const RX: usize = 0;
const TX: usize = 1;
/// Bytes of data in one of the guest's receive buffers, as in Linux.
const BUFFER: u32 = 4096;
/// What the guest says it can hold for each stream.
const GUEST_BUFFER: u32 = 32 << 10;

/// A guest: it gives receive buffers, sends packets, and keeps those that came.
struct Guest {
    directory: TempDir,
    path: PathBuf,
    counts: Arc<VsockCounts>,
    driver: Driver,
    /// The head of a receive chain and where its header is; its data follow.
    buffers: Vec<(u16, u64)>,
    scratch: u64,
    received: Vec<(Header, Vec<u8>)>,
}

impl Guest {
    fn new() -> Self {
        Self::without(0, 32)
    }

    /// A guest that refuses some features and gives `buffers` receive buffers.
    fn without(without: u64, buffers: usize) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("vsock");
        let device = Vsock::bind(&api::Vsock { cid: CID as u32, path: path.clone() }).unwrap();
        let counts = device.counts();
        let mut driver = Driver::start(device, without);
        let scratch = driver.allocate(HEADER + (128 << 10));
        let mut guest = Self {
            directory,
            path,
            counts,
            driver,
            buffers: Vec::new(),
            scratch,
            received: Vec::new(),
        };
        for _ in 0..buffers {
            let place = guest.driver.allocate(HEADER + BUFFER as usize);
            guest.give(place);
        }
        guest.driver.kick(RX);
        guest.driver.pump();
        guest
    }

    fn give(&mut self, place: u64) {
        let chain = [(place, HEADER as u32, true), (place + HEADER as u64, BUFFER, true)];
        let head = self.driver.add(RX, &chain);
        self.buffers.push((head, place));
    }

    /// Sends a packet. The header and the data are one buffer, as newer drivers do.
    fn send_raw(&mut self, header: &Header, data: &[u8]) {
        let scratch = self.scratch;
        self.driver.poke(scratch, &header.encode());
        self.driver.poke(scratch + HEADER as u64, data);
        let head = self.driver.add(TX, &[(scratch, (HEADER + data.len()) as u32, false)]);
        self.driver.kick(TX);
        let used = self.driver.wait_used(TX, 1);
        assert_eq!(used, [(head, 0)]);
    }

    fn send(&mut self, key: Key, op: Op, flags: u32, fwd_cnt: u32, data: &[u8]) {
        let header = header(key, op, flags, fwd_cnt, data.len() as u32);
        self.send_raw(&header, data);
    }

    /// Takes what the device sent, and gives the buffers back to it.
    fn collect(&mut self) {
        let used = self.driver.used(RX);
        for &(head, written) in &used {
            let index = self.buffers.iter().position(|buffer| buffer.0 == head).unwrap();
            let (_, place) = self.buffers.remove(index);
            let header = self.driver.bytes(place, HEADER);
            let header = Header::decode(&header.try_into().unwrap());
            assert_eq!(written, HEADER as u32 + header.len);
            assert_eq!((header.src_cid, header.dst_cid, header.kind), (2, CID, STREAM));
            let data = self.driver.bytes(place + HEADER as u64, header.len as usize);
            self.received.push((header, data));
            self.give(place);
        }
        if !used.is_empty() {
            self.driver.kick(RX);
        }
    }

    /// The next packet from the device.
    fn receive(&mut self) -> (Header, Vec<u8>) {
        let waiting = Instant::now();
        while self.received.is_empty() {
            assert!(waiting.elapsed() < PATIENCE, "no packet came");
            self.driver.pump_once();
            self.collect();
        }
        self.received.remove(0)
    }

    /// The next packet, which must be this.
    fn expect(&mut self, key: Key, op: Op) -> Header {
        let (header, data) = self.receive();
        assert_eq!((header.op, header.src_port, header.dst_port), (op, key.host, key.guest));
        assert!(data.is_empty());
        header
    }

    /// Nothing comes from the device now.
    fn expect_silence(&mut self) {
        self.driver.pump();
        self.collect();
        assert_eq!(self.received, []);
    }

    /// A listening socket for a port.
    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.directory.path().join(format!("vsock_{port}"))).unwrap()
    }

    /// A connection from the guest's port 1000 to `listener`'s.
    fn connect(&mut self, listener: &UnixListener, key: Key) -> UnixStream {
        self.send(key, Op::Request, 0, 0, &[]);
        let response = self.expect(key, Op::Response);
        assert_eq!(response.buf_alloc, HOST_BUFFER);
        listener.accept().unwrap().0
    }

    /// A connection from the host to the guest's port.
    fn accept(&mut self, port: u32) -> (UnixStream, Key) {
        let mut socket = UnixStream::connect(&self.path).unwrap();
        socket.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        let (request, _) = self.receive();
        assert_eq!((request.op, request.dst_port), (Op::Request, port));
        let key = Key { host: request.src_port, guest: port };
        self.send(key, Op::Response, 0, 0, &[]);
        let mut line = vec![0; format!("OK {}\n", key.host).len()];
        socket.read_exact(&mut line).unwrap();
        assert_eq!(line, format!("OK {}\n", key.host).as_bytes());
        (socket, key)
    }
}

fn header(key: Key, op: Op, flags: u32, fwd_cnt: u32, len: u32) -> Header {
    Header {
        src_cid: CID,
        dst_cid: 2,
        src_port: key.guest,
        dst_port: key.host,
        len,
        kind: STREAM,
        op,
        flags,
        buf_alloc: GUEST_BUFFER,
        fwd_cnt,
    }
}

/// Everything up to the end of file, or up to a reset.
fn drain(socket: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    bytes
}

const KEY: Key = Key { host: 7, guest: 1000 };
const BOTH: u32 = WILL_NOT_RECEIVE | WILL_NOT_SEND;

#[test]
fn the_configuration_is_the_context_id() {
    let guest = Guest::new();
    assert_eq!(u64::from_le_bytes(guest.driver.config(0)), CID);
    assert_eq!(guest.driver.config::<4>(6), [0; 4]);
}

#[test]
fn the_guest_connects_talks_and_closes() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    guest.send(KEY, Op::Data, 0, 0, b"question");
    let mut question = [0; 8];
    socket.read_exact(&mut question).unwrap();
    assert_eq!(&question, b"question");
    socket.write_all(b"answer").unwrap();
    let (header, data) = guest.receive();
    assert_eq!((header.op, header.fwd_cnt, &data[..]), (Op::Data, 8, &b"answer"[..]));
    guest.send(KEY, Op::Data, 0, 6, b"bye");
    guest.send(KEY, Op::Shutdown, BOTH, 6, &[]);
    guest.expect(KEY, Op::Reset);
    assert_eq!(drain(&mut socket), b"bye");
    // The ports are free again.
    drop(socket);
    let _socket = guest.connect(&listener, KEY);
    assert_eq!(guest.counts.errors.get(), 0);
}

#[test]
fn the_host_connects_talks_and_closes() {
    let mut guest = Guest::new();
    let (mut socket, key) = guest.accept(1024);
    socket.write_all(b"question").unwrap();
    let (_, data) = guest.receive();
    assert_eq!(data, b"question");
    guest.send(key, Op::Data, 0, 8, b"answer");
    let mut answer = [0; 6];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    socket.write_all(b"bye").unwrap();
    drop(socket);
    let (_, data) = guest.receive();
    assert_eq!(data, b"bye");
    let header = guest.expect(key, Op::Shutdown);
    assert_eq!(header.flags, BOTH);
    guest.send(key, Op::Reset, 0, 11, &[]);
    guest.expect_silence();
    assert_eq!(guest.counts.errors.get(), 0);
    let (_, other) = guest.accept(1024);
    assert_ne!(other, key);
}

#[test]
fn what_follows_the_greeting_is_data() {
    let mut guest = Guest::new();
    let mut socket = UnixStream::connect(&guest.path).unwrap();
    for piece in ["CON", "NECT 10", "24\nearly", " bird"] {
        socket.write_all(piece.as_bytes()).unwrap();
        guest.driver.pump();
    }
    let (request, _) = guest.receive();
    let key = Key { host: request.src_port, guest: 1024 };
    guest.expect_silence();
    guest.send(key, Op::Response, 0, 0, &[]);
    assert_eq!(guest.receive().1, b"early bird");
}

#[test]
fn bad_greetings_and_refusals_close_the_connection() {
    let mut guest = Guest::new();
    for line in [
        "\n",
        "CONNECT\n",
        "CONNECT x\n",
        "CONNECT 4294967296\n",
        "GET / HTTP/1.1\n",
        "no newline, and 32 bytes or more",
    ] {
        let mut socket = UnixStream::connect(&guest.path).unwrap();
        socket.write_all(line.as_bytes()).unwrap();
        guest.driver.pump();
        socket.set_nonblocking(true).unwrap();
        let mut rest = [0; 8];
        let end = socket.read(&mut rest);
        assert!(
            matches!(&end, Ok(0))
                || end.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset),
            "{line:?}: {end:?}"
        );
    }
    let mut half = UnixStream::connect(&guest.path).unwrap();
    half.write_all(b"CONNECT 1").unwrap();
    guest.driver.pump();
    half.shutdown(Shutdown::Write).unwrap();
    guest.driver.pump();
    assert!(half.read(&mut [0]).is_ok_and(|count| count == 0) || half.take_error().is_ok());
    guest.expect_silence();
    let mut socket = UnixStream::connect(&guest.path).unwrap();
    socket.write_all(b"CONNECT 9\n").unwrap();
    let (request, _) = guest.receive();
    guest.send(Key { host: request.src_port, guest: 9 }, Op::Reset, 0, 0, &[]);
    assert_eq!(drain(&mut socket), b"");
}

#[test]
fn a_port_where_nobody_listens_refuses() {
    let mut guest = Guest::new();
    guest.send(KEY, Op::Request, 0, 0, &[]);
    guest.expect(KEY, Op::Reset);
    // Nor does one whose listener is gone.
    drop(guest.listen(7));
    guest.send(KEY, Op::Request, 0, 0, &[]);
    guest.expect(KEY, Op::Reset);
}

#[test]
fn packets_that_belong_to_no_connection_are_reset_but_resets_are_not() {
    let mut guest = Guest::new();
    for op in
        [Op::Response, Op::Shutdown, Op::Data, Op::CreditUpdate, Op::CreditRequest, Op::Unknown(99)]
    {
        guest.send(KEY, op, 0, 0, &[]);
        guest.expect(KEY, Op::Reset);
    }
    assert_eq!(guest.counts.errors.get(), 6);
    guest.send(KEY, Op::Reset, 0, 0, &[]);
    guest.expect_silence();
}

#[test]
fn packets_that_are_not_for_the_host_or_from_the_guest_are_dropped() {
    let mut guest = Guest::new();
    let good = header(KEY, Op::Request, 0, 0, 0);
    for bad in [
        Header { src_cid: 6, ..good },
        Header { dst_cid: 3, ..good },
        Header { dst_cid: 1, ..good },
    ] {
        guest.send_raw(&bad, &[]);
    }
    guest.expect_silence();
    assert_eq!(guest.counts.errors.get(), 3);
    guest.send_raw(&Header { kind: 2, ..good }, &[]);
    guest.expect(KEY, Op::Reset);
}

#[test]
fn a_stream_that_breaks_the_rules_is_reset() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let bad: [(&str, Header); 5] = [
        ("a second request", header(KEY, Op::Request, 0, 0, 0)),
        ("a response to nothing", header(KEY, Op::Response, 0, 0, 0)),
        ("no such operation", header(KEY, Op::Unknown(0), 0, 0, 0)),
        ("more than there is", header(KEY, Op::Data, 0, 0, 10)),
        ("data where none belong", header(KEY, Op::CreditUpdate, 0, 0, 1)),
    ];
    for (what, header) in bad {
        let mut socket = guest.connect(&listener, KEY);
        guest.send_raw(&header, b"x");
        let (reset, _) = guest.receive();
        assert_eq!(reset.op, Op::Reset, "{what}");
        assert_eq!(drain(&mut socket), b"", "{what}");
    }
    let mut socket = guest.connect(&listener, KEY);
    guest.send(KEY, Op::Shutdown, WILL_NOT_SEND, 0, &[]);
    guest.send(KEY, Op::Data, 0, 0, b"after the end");
    guest.expect(KEY, Op::Reset);
    assert_eq!(drain(&mut socket), b"");
}

#[test]
fn malformed_chains_are_dropped_and_counted() {
    let mut guest = Guest::new();
    let scratch = guest.scratch;
    for chain in
        [(scratch, 43, false), (scratch, 44, true), (u64::MAX - 4, 44, false), (scratch, 0, false)]
    {
        guest.driver.add(TX, &[chain]);
        guest.driver.kick(TX);
        assert_eq!(guest.driver.wait_used(TX, 1)[0].1, 0);
    }
    assert_eq!(guest.counts.errors.get(), 4);
    guest.expect_silence();
}

#[test]
fn receive_buffers_that_are_none_are_given_back() {
    let mut guest = Guest::without(0, 0);
    let scratch = guest.scratch;
    for chain in [(scratch, 44, true), (scratch, 100, false), (u64::MAX - 4, 100, true)] {
        guest.driver.add(RX, &[chain]);
    }
    let place = guest.driver.allocate(HEADER + BUFFER as usize);
    guest.give(place);
    guest.driver.kick(RX);
    guest.send(KEY, Op::Request, 0, 0, &[]);
    let used = guest.driver.wait_used(RX, 4);
    assert_eq!(used.iter().map(|used| used.1).collect::<Vec<_>>(), [0, 0, 0, 44]);
    assert_eq!(guest.counts.errors.get(), 3);
}

#[test]
fn the_guest_half_closes() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    guest.send(KEY, Op::Data, 0, 0, b"all of it");
    guest.send(KEY, Op::Shutdown, WILL_NOT_SEND, 0, &[]);
    assert_eq!(drain(&mut socket), b"all of it");
    socket.write_all(b"the answer").unwrap();
    assert_eq!(guest.receive().1, b"the answer");
    drop(socket);
    assert_eq!(guest.expect(KEY, Op::Shutdown).flags, BOTH);
    guest.send(KEY, Op::Reset, 0, 10, &[]);
    guest.expect_silence();
}

#[test]
fn the_host_half_closes() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    socket.write_all(b"all of it").unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.receive().1, b"all of it");
    assert_eq!(guest.expect(KEY, Op::Shutdown).flags, WILL_NOT_SEND);
    guest.send(KEY, Op::Data, 0, 9, b"the answer");
    guest.send(KEY, Op::Shutdown, BOTH, 9, &[]);
    guest.expect(KEY, Op::Reset);
    assert_eq!(drain(&mut socket), b"the answer");
}

#[test]
fn the_guest_stops_receiving() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    guest.send(KEY, Op::Shutdown, WILL_NOT_RECEIVE, 0, &[]);
    let broken = loop {
        if let Err(error) = socket.write(&[0; 4096]) {
            break error;
        }
    };
    assert_eq!(broken.kind(), ErrorKind::BrokenPipe);
    guest.send(KEY, Op::Data, 0, 0, b"still talking");
    guest.send(KEY, Op::Shutdown, WILL_NOT_SEND, 0, &[]);
    guest.expect(KEY, Op::Reset);
    assert_eq!(drain(&mut socket), b"still talking");
}

#[test]
fn the_host_goes_away_and_everything_that_it_sent_arrives() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    let data = pattern(4, 100 << 10);
    socket.write_all(&data).unwrap();
    drop(socket);
    let (mut got, mut flags) = (Vec::new(), 0);
    while flags != BOTH {
        let (header, data) = guest.receive();
        got.extend(data);
        match header.op {
            Op::Data => {}
            Op::Shutdown => flags = header.flags,
            Op::CreditRequest => guest.send(KEY, Op::CreditUpdate, 0, got.len() as u32, &[]),
            other => panic!("{other:?}"),
        }
    }
    assert!(got == data);
    // What the guest sends now goes nowhere, and costs it no credit.
    guest.send(KEY, Op::Data, 0, got.len() as u32, &[1; 1000]);
    guest.send(KEY, Op::CreditRequest, 0, got.len() as u32, &[]);
    assert_eq!(guest.expect(KEY, Op::CreditUpdate).fwd_cnt, 1000);
}

#[test]
fn a_guest_that_cannot_hold_more_gets_no_more_until_it_says_so() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    let data = pattern(4, 3 * GUEST_BUFFER as usize);
    socket.write_all(&data).unwrap();
    let mut got = Vec::new();
    for round in 1..=3 {
        let end = (round * GUEST_BUFFER) as usize;
        while got.len() < end {
            let (header, data) = guest.receive();
            assert_eq!(header.op, Op::Data);
            got.extend(data);
        }
        assert_eq!(got.len(), end);
        if round < 3 {
            guest.expect(KEY, Op::CreditRequest);
            guest.expect_silence();
            guest.send(KEY, Op::CreditUpdate, 0, got.len() as u32 - GUEST_BUFFER, &[]);
            guest.expect(KEY, Op::CreditRequest);
            guest.expect_silence();
        }
        guest.send(KEY, Op::CreditUpdate, 0, got.len() as u32, &[]);
    }
    assert!(got == data);
}

#[test]
fn a_guest_that_sends_more_than_its_credit_is_reset() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    // The socket takes some, the device holds its buffer full, and then it is too much.
    let mut sent = 0;
    while guest.received.is_empty() {
        assert!(sent < 16 << 20, "the device holds more than it may");
        guest.send(KEY, Op::Data, 0, 0, &[7; 32 << 10]);
        sent += 32 << 10;
        guest.driver.pump();
        guest.collect();
        guest.received.retain(|(header, _)| header.op != Op::CreditUpdate);
    }
    guest.expect(KEY, Op::Reset);
    assert!(sent > HOST_BUFFER as usize);
    assert!(drain(&mut socket).len() < sent);
}

#[test]
fn ten_mebibytes_pass_both_ways_through_a_slow_host_and_a_slow_guest() {
    const TOTAL: usize = 10 << 20;
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let socket = guest.connect(&listener, KEY);
    let (to_host, to_guest) = (pattern(1, TOTAL), pattern(2, TOTAL));
    let mut writer = socket.try_clone().unwrap();
    let writing = {
        let to_guest = to_guest.clone();
        thread::spawn(move || {
            writer.write_all(&to_guest).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        })
    };
    let reading = thread::spawn(move || {
        let mut socket = socket;
        let (mut bytes, mut piece) = (Vec::<u8>::new(), [0; 1499]);
        loop {
            let count = socket.read(&mut piece).unwrap();
            if count == 0 {
                return bytes;
            }
            bytes.extend(&piece[..count]);
        }
    });
    let (mut sent, mut acknowledged, mut got, mut ended) = (0, 0, Vec::new(), false);
    let mut told = 0;
    while sent < TOTAL || !ended {
        let room = HOST_BUFFER as usize - (sent - acknowledged);
        let count = room.min(64 << 10).min(TOTAL - sent);
        if count > 0 {
            guest.send(KEY, Op::Data, 0, told, &to_host[sent..sent + count]);
            sent += count;
        } else {
            guest.driver.pump_once();
        }
        guest.collect();
        for (header, data) in std::mem::take(&mut guest.received) {
            acknowledged = header.fwd_cnt as usize;
            assert!(acknowledged <= sent);
            got.extend(data);
            match header.op {
                Op::Data | Op::CreditUpdate => {}
                // It forwards what it got only when it is asked: a slow reader.
                Op::CreditRequest => {
                    told = got.len() as u32;
                    guest.send(KEY, Op::CreditUpdate, 0, told, &[]);
                }
                Op::Shutdown => ended = true,
                other => panic!("{other:?}"),
            }
            assert!(got.len() as u32 - told <= GUEST_BUFFER, "more than the guest can hold");
        }
    }
    guest.send(KEY, Op::Shutdown, BOTH, told, &[]);
    guest.driver.until("the host to read everything", |_| reading.is_finished());
    writing.join().unwrap();
    assert!(reading.join().unwrap() == to_host);
    assert!(got == to_guest);
    assert_eq!(guest.counts.errors.get(), 0);
}

#[test]
fn what_the_guest_sent_before_it_closed_reaches_a_host_that_reads_late() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    for last in [Op::Shutdown, Op::Reset] {
        let mut socket = guest.connect(&listener, KEY);
        let data = pattern(3, 300 << 10);
        let (mut sent, mut acknowledged) = (0, 0);
        while sent < data.len() && sent - acknowledged < HOST_BUFFER as usize {
            let count = (32 << 10).min(data.len() - sent);
            guest.send(KEY, Op::Data, 0, 0, &data[sent..sent + count]);
            sent += count;
            guest.driver.pump();
            guest.collect();
            for (header, _) in std::mem::take(&mut guest.received) {
                acknowledged = header.fwd_cnt as usize;
            }
        }
        guest.send(KEY, Op::Shutdown, WILL_NOT_SEND, 0, &[]);
        guest.send(KEY, last, BOTH, 0, &[]);
        if last == Op::Shutdown {
            guest.expect(KEY, Op::Reset);
        }
        // The ports can be used again while the rest is delivered.
        let other = guest.connect(&listener, KEY);
        let reading = thread::spawn(move || drain(&mut socket));
        guest.driver.until("the rest", |_| reading.is_finished());
        assert!(reading.join().unwrap() == data[..sent]);
        drop(other);
        assert_eq!(guest.expect(KEY, Op::Shutdown).flags, BOTH);
        guest.send(KEY, Op::Reset, 0, 0, &[]);
    }
}

#[test]
fn many_streams_share_and_the_table_has_an_end() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut sockets = Vec::new();
    for port in 0..300 {
        let key = Key { host: 7, guest: port };
        sockets.push((key, guest.connect(&listener, key)));
    }
    for (key, socket) in &mut sockets {
        socket.write_all(&key.guest.to_le_bytes().repeat(1000)).unwrap();
    }
    let mut got = vec![Vec::new(); sockets.len()];
    while got.iter().any(|bytes| bytes.len() < 4000) {
        let (header, data) = guest.receive();
        got[header.dst_port as usize].extend(data);
    }
    for (key, socket) in &mut sockets {
        assert!(got[key.guest as usize] == key.guest.to_le_bytes().repeat(1000));
        guest.send(*key, Op::Data, 0, 4000, &key.guest.to_le_bytes());
        let mut echo = [0; 4];
        socket.read_exact(&mut echo).unwrap();
        assert_eq!(echo, key.guest.to_le_bytes());
        guest.send(*key, Op::Shutdown, BOTH, 4000, &[]);
        guest.expect(*key, Op::Reset);
    }
    drop(sockets);
    guest.expect_silence();
}

#[test]
fn a_busy_stream_does_not_starve_another() {
    let mut guest = Guest::without(0, 4);
    let listener = guest.listen(7);
    let other = Key { host: 7, guest: 2000 };
    let mut busy = guest.connect(&listener, KEY);
    let mut quiet = guest.connect(&listener, other);
    busy.write_all(&[1; 64 << 10]).unwrap();
    quiet.write_all(b"me too").unwrap();
    let mut before = 0;
    loop {
        let (header, data) = guest.receive();
        if header.dst_port == other.guest {
            assert_eq!(data, b"me too");
            break;
        }
        before += data.len();
    }
    assert!(before <= 8 * BUFFER as usize, "{before} bytes of the busy stream came first");
}

#[test]
fn resets_do_not_pile_up_when_the_guest_gives_no_buffers() {
    for without in [0, feature::EVENT_IDX] {
        let mut guest = Guest::without(without, 0);
        let scratch = guest.scratch;
        guest.driver.poke(scratch, &header(KEY, Op::Data, 0, 0, 0).encode());
        let mut taken = 0;
        for _ in 0..20 {
            for _ in 0..32 {
                guest.driver.add(TX, &[(scratch, HEADER as u32, false)]);
            }
            guest.driver.kick(TX);
            guest.driver.pump();
            let used = guest.driver.used(TX).len();
            taken += used;
            if used < 32 {
                break;
            }
        }
        assert_eq!(taken, super::running::MAX_RESETS);
        for _ in 0..32 {
            let place = guest.driver.allocate(HEADER + BUFFER as usize);
            guest.give(place);
        }
        guest.driver.kick(RX);
        let mut resets = 0;
        while resets < taken + 32 {
            let (reset, _) = guest.receive();
            assert_eq!(reset.op, Op::Reset);
            resets += 1;
        }
        guest.expect_silence();
    }
}

#[test]
fn the_table_is_full_at_its_limit_and_not_for_ever() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let enough = limit.current.is_none_or(|limit| limit > 2 * MAX_CONNECTIONS as u64 + 100);
    assert!(enough, "the test needs more than {limit:?} descriptors");
    let mut sockets = Vec::new();
    for port in 0..MAX_CONNECTIONS as u32 {
        sockets.push(guest.connect(&listener, Key { host: 7, guest: port }));
    }
    let one_more = Key { host: 7, guest: 5000 };
    guest.send(one_more, Op::Request, 0, 0, &[]);
    guest.expect(one_more, Op::Reset);
    // The host's connection waits on the listening socket until there is room.
    let mut waiting = UnixStream::connect(&guest.path).unwrap();
    waiting.write_all(b"CONNECT 80\n").unwrap();
    guest.expect_silence();
    let key = Key { host: 7, guest: 3 };
    guest.send(key, Op::Shutdown, BOTH, 0, &[]);
    guest.expect(key, Op::Reset);
    let (request, _) = guest.receive();
    assert_eq!((request.op, request.dst_port), (Op::Request, 80));
}

#[test]
fn a_reset_closes_everything_and_the_device_starts_again() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    guest.buffers.clear();
    guest.driver.restart(0);
    assert_eq!(drain(&mut socket), b"");
    for _ in 0..8 {
        let place = guest.driver.allocate(HEADER + BUFFER as usize);
        guest.give(place);
    }
    guest.driver.kick(RX);
    let _socket = guest.connect(&listener, KEY);
    guest.accept(99);
}

#[test]
fn the_sockets_file_comes_and_goes_with_the_device() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("vsock");
    let bind = |cid, path: PathBuf| Vsock::bind(&api::Vsock { cid, path });
    let device = bind(3, path.clone()).unwrap();
    assert!(path.exists());
    assert!(matches!(bind(3, path.clone()), Err(VsockError::Bind { .. })));
    assert!(path.exists());
    drop(device);
    assert!(!path.exists());
    for cid in [0, 1, 2, u32::MAX] {
        assert!(matches!(bind(cid, path.clone()), Err(VsockError::Cid { .. })));
    }
    let long = directory.path().join("x".repeat(MAX_PATH));
    assert!(matches!(bind(3, long), Err(VsockError::PathTooLong { .. })));
    let missing = directory.path().join("missing/vsock");
    let error = bind(3, missing.clone()).unwrap_err();
    assert!(error.to_string().contains(missing.to_str().unwrap()));
}
