//! Who may speak to a running machine: its owner, clients of a control socket, and signals; all in the event loop.

mod clients;
mod line;
mod owner;
mod signals;

pub use clients::{Clients, ListenError, Listener};
pub use line::{LineError, LineSocket};
pub use owner::{Owner, OwnerError, Supervisor};
pub use signals::{Signals, block_signals};

use crate::{
    api::{FromVmm, Request},
    machine::Machine,
};

/// The answer to a request that came over `socket`.
fn answer(machine: &Machine, request: Request, socket: &mut LineSocket) -> FromVmm {
    let descriptors = socket.take_descriptors(request.kind.descriptors());
    FromVmm::Response { id: request.id, result: machine.serve(request.kind, descriptors) }
}
