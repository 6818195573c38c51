//! One request: from a descriptor chain to the server, and its answer back into the chain.

use rustix::io::Errno;

use super::{
    protocol::{Body, Header, IN_HEADER, OUT_HEADER, Opcode, WRITE_IN, out_header},
    server::{Call, Identity, Outcome, Server},
};
use crate::devices::{FsCounts, virtio::Chain};

/// The most bytes of a request's arguments: an extended attribute's value, its name, and the fields before them.
const MAX_BODY: usize = (64 << 10) + 4096;

/// What a thread keeps from one request to the next.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) identity: Identity,
    body: Vec<u8>,
    answer: Vec<u8>,
}

impl Desk {
    pub(super) fn new(identity: Identity) -> Self {
        Self { identity, body: Vec::new(), answer: Vec::new() }
    }
}

/// What a chain asks for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request {
    /// A request with a header; the opcode, if it is known.
    Whole(Header, Option<Opcode>),
    /// No request, and nobody knows which answer is waited for.
    Broken,
}

impl Request {
    pub(super) fn of(chain: &Chain<'_>) -> Self {
        let mut header = [0; IN_HEADER];
        if chain.fault().is_some() || !chain.readable.read(0, &mut header) {
            return Request::Broken;
        }
        let header = Header::parse(&header);
        Request::Whole(header, Opcode::of(header.opcode))
    }

    /// Whether the host may take long.
    pub(super) fn may_wait(&self) -> bool {
        matches!(self, Request::Whole(_, Some(opcode)) if opcode.may_wait())
    }

    /// Does it. Returns the number of bytes written into the chain.
    pub(super) fn answer(
        &self,
        chain: &Chain<'_>,
        server: &Server,
        desk: &mut Desk,
        counts: &FsCounts,
    ) -> u32 {
        counts.requests.add(1);
        let Request::Whole(header, opcode) = *self else {
            counts.errors.add(1);
            return 0;
        };
        desk.answer.clear();
        let outcome = Self::body(header, opcode, chain, &mut desk.body).and_then(|opcode| {
            let mut call = Call {
                header,
                body: Body(&desk.body),
                input: &chain.readable,
                output: &chain.writable,
                answer: &mut desk.answer,
                identity: &mut desk.identity,
            };
            server.handle(opcode, &mut call)
        });
        let silent = opcode.is_some_and(Opcode::is_silent);
        if outcome.is_err_and(is_fault) {
            counts.errors.add(1);
        }
        let written = match outcome {
            Ok(Outcome::Silence) => return 0,
            Err(_) if silent => return 0,
            Ok(Outcome::Data(length)) => write_head(chain, length, None, header.unique),
            Ok(Outcome::Answer) if fits(chain, desk.answer.len()) => {
                chain.writable.write(OUT_HEADER, &desk.answer);
                write_head(chain, desk.answer.len(), None, header.unique)
            }
            Ok(Outcome::Answer) => {
                counts.errors.add(1);
                write_head(chain, 0, Some(Errno::IO), header.unique)
            }
            Err(error) => write_head(chain, 0, Some(error), header.unique),
        };
        desk.shrink();
        written
    }

    /// Copies the arguments, so that the guest cannot change them while they are looked at.
    fn body(
        header: Header,
        opcode: Option<Opcode>,
        chain: &Chain<'_>,
        body: &mut Vec<u8>,
    ) -> Result<Opcode, Errno> {
        let opcode = opcode.ok_or(Errno::NOSYS)?;
        if !(IN_HEADER..=chain.readable.len()).contains(&header.length) {
            return Err(Errno::INVAL);
        }
        let length = match opcode {
            Opcode::Write => WRITE_IN.min(header.length - IN_HEADER),
            _ => header.length - IN_HEADER,
        };
        if length > MAX_BODY {
            return Err(Errno::TOOBIG);
        }
        body.resize(length, 0);
        if chain.readable.read(IN_HEADER, body) { Ok(opcode) } else { Err(Errno::INVAL) }
    }
}

impl Desk {
    /// Gives back what a large request took.
    fn shrink(&mut self) {
        const KEEP: usize = 8 << 10;
        for buffer in [&mut self.body, &mut self.answer] {
            if buffer.capacity() > KEEP {
                *buffer = Vec::new();
            }
        }
    }
}

fn fits(chain: &Chain<'_>, length: usize) -> bool {
    chain.writable.len() >= OUT_HEADER + length
}

/// Writes the answer's header; returns the bytes of the whole answer, or 0 when there is no room even for that.
fn write_head(chain: &Chain<'_>, length: usize, error: Option<Errno>, unique: u64) -> u32 {
    let whole = OUT_HEADER + length;
    match out_header(whole, error, unique) {
        Some(header) if fits(chain, 0) && chain.writable.write(0, &header) => {
            u32::try_from(whole).unwrap_or(0)
        }
        _ => 0,
    }
}

/// Whether an error says that the driver or this server is at fault, rather than that a file is not as somebody hoped.
fn is_fault(error: Errno) -> bool {
    matches!(
        error,
        Errno::INVAL | Errno::BADF | Errno::NFILE | Errno::TOOBIG | Errno::PROTO | Errno::IO
    )
}
