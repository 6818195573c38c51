//! A sandbox: what isolates a container. One microVM, its VMM as a child process and its agent over vsock.

mod agent;
pub mod vm;

pub use agent::{Agent, AgentError};
pub use vm::{Machine, StartError, Vm};

use std::os::unix::net::UnixStream;

use bulkhead_protocol::{Message, Token};
use bulkhead_vmm::api::FromVmm;

/// What a monitor waits for; every thread that waits for something sends it into one channel.
#[derive(Debug)]
pub enum Event {
    /// The VMM said something.
    Vmm(FromVmm),
    /// The VMM went away, with the last line that it wrote to its log, if any.
    VmmGone(Option<String>),
    /// The agent connected. It has said nothing yet.
    AgentConnected(UnixStream),
    /// The agent said something.
    Agent(Message),
    /// The agent's connection ended or cannot be understood; why.
    AgentGone(String),
    /// The agent opened a stdio stream.
    Stream(Token, UnixStream),
    /// A stream delivered its first byte at this time (`CLOCK_MONOTONIC`, nanoseconds).
    FirstOutput(u64),
    /// A stream delivered its last byte.
    StreamEnded(Token),
    /// This process got a signal.
    Signal(i32),
}
