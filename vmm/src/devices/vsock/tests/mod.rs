//! The socket device between a driver that follows the rules, or does not, and Unix sockets.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

mod flow;
mod rules;
pub(in crate::devices) mod saved;
mod streams;

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
    MAX_NAME, Vsock, VsockError,
    credit::HOST_BUFFER,
    packet::{HEADER, Header, Key, Op, STREAM, WILL_NOT_RECEIVE, WILL_NOT_SEND},
    running::MAX_RESETS,
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
        self.collect();
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
