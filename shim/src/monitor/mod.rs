//! The monitor: the process on the host that stands for a container in a microVM. It is a child of the process that made
//! the container, its pid is the container's pid, and it ends with the container's exit code.
//!
//! ```text
//! booting --agent ready--> creating --reply--> created --start--> running
//!    |                        |                   |                  |  first process ended
//!    +------ any fault -------+---> nothing left  +------------------+--> draining -> syncing -> over
//! ```
//!
//! A clone is creating as soon as its agent's connection is there; a fault before it is created makes it booting.
//!
//! One event loop owns all of it: the VMM, the agent, the clients of its socket, signals. Threads only copy the
//! container's standard streams and read what the VMM says.

mod awakening;
mod clients;
mod contained;
mod core;
mod counting;
mod ending;
mod execs;
mod fault;
mod guest;
mod machine;
pub(crate) mod message;
mod messages;
mod names;
pub(crate) mod oom;
mod place;
pub(crate) mod plan;
mod pod;
mod poll;
mod ports;
pub(crate) mod process;
pub(crate) mod relay;
mod requests;
pub(crate) mod signals;
pub(crate) mod sockets;
pub(crate) mod terminal;
pub(crate) mod view;
pub(crate) mod wire;

pub(crate) use self::{
    contained::system,
    core::{LOG, SAYS, VSOCK_DIRECTORY, VSOCK_NAME, log, run, tell},
    fault::{chain, printable},
    machine::last_words,
    place::{Place, clean, state_directory, write},
    process::LOST,
};
