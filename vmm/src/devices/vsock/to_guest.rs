//! Packets to the guest: the receive queue. Streams take turns; one turn is a packet without data, or data read from the Unix
//! socket straight into as many of the guest's buffers as one system call can fill.

use super::{
    packet::{HEADER, Header, Op},
    running::{Engine, Entry, MAX_RESETS},
    stream::{Next, QUANTUM, Stream},
    table::Token,
};
use crate::{
    devices::{
        VsockCounts,
        virtio::{Chain, IoVectors, QueueError, Virtqueue},
    },
    memory::GuestMemory,
};

/// Turns after which the event loop looks at its other events.
const TURNS: usize = 64;
/// The most of the guest's buffers that are filled at once.
const BUFFERS: usize = 16;

/// How a turn went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Done,
    /// The guest has given no buffer.
    NoBuffer,
}

impl Engine {
    /// Sends what there is to send, as far as the guest has given buffers.
    pub(super) fn give_to_guest(&mut self, memory: &GuestMemory) -> Result<(), QueueError> {
        let mut chains = Vec::new();
        self.rx.disable_doorbell(memory)?;
        let mut starved = false;
        let stopped = self.resets.len() >= MAX_RESETS;
        for _ in 0..TURNS {
            let turn = match (self.resets.front(), self.turns.front()) {
                (Some(reset), _) => {
                    let reset = *reset;
                    let turn = self.control(memory, &mut chains, &reset)?;
                    if turn == Turn::Done {
                        self.resets.pop_front();
                    }
                    turn
                }
                (None, Some(token)) => {
                    let token = *token;
                    self.turn(memory, &mut chains, token)?
                }
                (None, None) => break,
            };
            // With no buffer left the guest must say when there is one.
            starved = turn == Turn::NoBuffer && !self.rx.enable_doorbell(memory)?;
            if starved {
                break;
            }
        }
        let more = !self.turns.is_empty() || !self.resets.is_empty();
        if more && !starved {
            self.rx.come_back();
        }
        if stopped && self.resets.len() < MAX_RESETS {
            self.tx.come_back();
        }
        Ok(())
    }

    /// One turn of the stream at the head of the line; afterwards it is at the end or, with nothing more to say, not in it.
    fn turn<'m>(
        &mut self,
        memory: &'m GuestMemory,
        chains: &mut Vec<Chain<'m>>,
        token: Token,
    ) -> Result<Turn, QueueError> {
        let turn = match self.table.get(token) {
            Some(Entry::Stream(stream)) => match stream.next() {
                Some(Next::Control(op, flags)) => {
                    if next_buffer(&mut self.rx, &self.counts, memory, chains)? {
                        let header = stream.send(self.cid, op, flags, 0);
                        self.counts.packets.add(1);
                        give(&mut self.rx, memory, &chains[0], &header)?;
                        Turn::Done
                    } else {
                        Turn::NoBuffer
                    }
                }
                Some(Next::Data(room)) => {
                    data(&mut self.rx, &self.counts, memory, chains, self.cid, stream, room)?
                }
                None => Turn::Done,
            },
            _ => Turn::Done,
        };
        if turn == Turn::Done {
            self.turns.pop_front();
            if let Some(Entry::Stream(stream)) = self.table.get(token) {
                stream.queued = false;
            }
            self.schedule(token);
        }
        Ok(turn)
    }

    fn control<'m>(
        &mut self,
        memory: &'m GuestMemory,
        chains: &mut Vec<Chain<'m>>,
        header: &Header,
    ) -> Result<Turn, QueueError> {
        if !next_buffer(&mut self.rx, &self.counts, memory, chains)? {
            return Ok(Turn::NoBuffer);
        }
        self.counts.packets.add(1);
        give(&mut self.rx, memory, &chains[0], header)?;
        Ok(Turn::Done)
    }
}

/// Pops one buffer that can hold a header and more into `chains[0]`; false when there is none.
fn next_buffer<'m>(
    rx: &mut Virtqueue,
    counts: &VsockCounts,
    memory: &'m GuestMemory,
    chains: &mut Vec<Chain<'m>>,
) -> Result<bool, QueueError> {
    if chains.is_empty() {
        chains.push(Chain::default());
    }
    while rx.pop(memory, &mut chains[0])? {
        if is_buffer(&chains[0]) {
            return Ok(true);
        }
        counts.errors.add(1);
        rx.push(memory, chains[0].head(), 0)?;
    }
    Ok(false)
}

fn is_buffer(chain: &Chain<'_>) -> bool {
    chain.fault().is_none() && chain.writable.len() > HEADER
}

/// Fills in the header and gives the buffer, whose data are there already, to the guest.
fn give(
    rx: &mut Virtqueue,
    memory: &GuestMemory,
    chain: &Chain<'_>,
    header: &Header,
) -> Result<(), QueueError> {
    chain.writable.write(0, &header.encode());
    // No more than a quantum and the header.
    let written = header.len.saturating_add(44);
    rx.push(memory, chain.head(), written)
}

/// Reads up to `room` bytes from the stream's socket into the guest's buffers and sends what came.
fn data<'m>(
    rx: &mut Virtqueue,
    counts: &VsockCounts,
    memory: &'m GuestMemory,
    chains: &mut Vec<Chain<'m>>,
    cid: u64,
    stream: &mut Stream,
    room: u32,
) -> Result<Turn, QueueError> {
    if !next_buffer(rx, counts, memory, chains)? {
        return Ok(Turn::NoBuffer);
    }
    let room = room.min(QUANTUM) as usize;
    let mut count = 1;
    let mut capacity = chains[0].writable.len() - HEADER;
    while capacity < room && count < BUFFERS {
        if chains.len() == count {
            chains.push(Chain::default());
        }
        if !rx.pop(memory, &mut chains[count])? {
            break;
        }
        if !is_buffer(&chains[count]) {
            // It is answered when it is the first.
            rx.unpop(1);
            break;
        }
        capacity += chains[count].writable.len() - HEADER;
        count += 1;
    }
    let mut left = room;
    let mut pieces = chains[..count].iter().flat_map(|chain| {
        let length = left.min(chain.writable.len() - HEADER);
        left -= length;
        chain.writable.range(HEADER, length)
    });
    let mut left = stream.read(&IoVectors::new(&mut pieces));
    let mut used = 0;
    for chain in &chains[..count] {
        if left == 0 {
            break;
        }
        let length = u32::try_from(chain.writable.len() - HEADER).unwrap_or(u32::MAX).min(left);
        let header = stream.send(cid, Op::Data, 0, length);
        counts.packets.add(1);
        give(rx, memory, chain, &header)?;
        left -= length;
        used += 1;
    }
    rx.unpop(u16::try_from(count - used).unwrap_or(0));
    Ok(Turn::Done)
}
