//! Packets from the guest: the transmit queue.

use std::io;

use super::{
    host,
    packet::{HEADER, HOST_CID, Header, Key, Op, STREAM},
    running::{Engine, Entry, MAX_RESETS},
    stream::{Phase, Stream, Verdict},
    table::Token,
};
use crate::{
    devices::virtio::{Chain, QueueError},
    memory::GuestMemory,
};

/// Packets after which the event loop looks at its other events.
const BATCH: usize = 128;

impl Engine {
    /// Takes what the transmit queue has. It stops when resets pile up because the guest gives no buffers for them.
    pub(super) fn take_from_guest(&mut self, memory: &GuestMemory) -> Result<(), QueueError> {
        let mut chain = Chain::default();
        self.tx.disable_doorbell(memory)?;
        for _ in 0..BATCH {
            if self.resets.len() >= MAX_RESETS {
                return Ok(());
            }
            if self.tx.pop(memory, &mut chain)? {
                self.packet(&chain);
                self.tx.push(memory, chain.head(), 0)?;
            } else if !self.tx.enable_doorbell(memory)? {
                return Ok(());
            }
        }
        self.tx.come_back();
        Ok(())
    }

    fn packet(&mut self, chain: &Chain<'_>) {
        self.counts.packets.add(1);
        let mut bytes = [0; HEADER];
        if chain.fault().is_some() || !chain.readable.read(0, &mut bytes) {
            self.counts.errors.add(1);
            return;
        }
        let header = Header::decode(&bytes);
        if header.src_cid != self.cid || header.dst_cid != HOST_CID {
            self.counts.errors.add(1);
            return;
        }
        let key = Key { host: header.dst_port, guest: header.src_port };
        let length = header.len as usize;
        let sound = header.kind == STREAM
            && length <= chain.readable.len() - HEADER
            && (length == 0 || header.op == Op::Data);
        match self.table.find(key) {
            Some(token) if sound => self.packet_of_stream(token, &header, chain),
            Some(token) => {
                self.counts.errors.add(1);
                self.abort(token, key);
            }
            None if sound && header.op == Op::Request => self.connect(key, &header),
            None if header.op == Op::Reset => {}
            None => {
                self.counts.errors.add(1);
                self.refuse(key);
            }
        }
    }

    fn packet_of_stream(&mut self, token: Token, header: &Header, chain: &Chain<'_>) {
        let Some(Entry::Stream(stream)) = self.table.get(token) else { return };
        let key = stream.key;
        let is_left = if header.op == Op::Reset {
            stream.guest_reset()
        } else {
            match stream.receive(header, &chain.readable) {
                Verdict::Keep => return self.schedule(token),
                Verdict::Abort => {
                    self.counts.errors.add(1);
                    return self.abort(token, key);
                }
                Verdict::Close => {
                    let is_left = stream.guest_closed();
                    self.refuse(key);
                    is_left
                }
            }
        };
        // The guest may use the port again at once, whatever is left to deliver.
        self.table.unbind(key);
        if !is_left {
            self.forget(token);
        }
    }

    /// The guest asks for a connection.
    fn connect(&mut self, key: Key, header: &Header) {
        if self.table.is_full() {
            return self.refuse(key);
        }
        let joined = host::connect(&self.listener.place.port(key.host)).and_then(|socket| {
            let mut stream = Stream::new(key, socket, Phase::Connected);
            stream.heard(header);
            self.join(stream)
        });
        // Nobody listens there, or cannot take one more.
        if joined.is_err() {
            self.refuse(key);
        }
    }

    /// Puts a stream among the others and watches its socket.
    pub(super) fn join(&mut self, stream: Stream) -> io::Result<()> {
        let key = stream.key;
        let token = self.table.reserve().ok_or(io::ErrorKind::QuotaExceeded)?;
        let watched = self.watch.add(stream.socket(), token);
        if watched.is_err() {
            self.table.remove(token);
            return watched;
        }
        self.table.put(token, Entry::Stream(stream));
        self.table.bind(key, token);
        self.schedule(token);
        Ok(())
    }
}
