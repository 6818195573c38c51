//! Messages between the monitor on the host and the agent in a sandbox.
//!
//! The agent opens every connection, to the same two ports in both isolations: over vsock to CID 2, or, as a host
//! process, to the Unix sockets `<path>_1024` and `<path>_1025` that a VMM would have connected it to.
//!
//! * [`CONTROL_PORT`]: one connection. The agent says [`Message::Ready`] first; then the monitor sends [`Request`]s and
//!   the agent answers each with one [`Message::Reply`], in order, and sends [`Message::Exited`] whenever a process ended.
//!   A clone has its template's connection and says no [`Message::Ready`] of its own; its monitor sends [`Call::Awaken`] first.
//! * [`STREAM_PORT`]: one connection for each stdio stream, or connection to a port, that a request named by a [`Token`]. The agent sends one
//!   [`StreamHello`]; everything after it is the stream's raw bytes, with the half-closes of the sockets.
//!
//! A message is a little-endian `u32` length and as many bytes of JSON. The monitor trusts nothing that the agent sends:
//! its frames are bounded by [`MAX_FROM_AGENT`].

mod frame;
mod message;
pub mod network;
mod pod;
mod process;
pub mod stats;

pub use frame::{FrameError, Reader, read_frame, write_frame};
pub use message::{
    Awaken, Call, Create, Exec, ExitStatus, Exited, Failure, FailureKind, Lower, Message, Prepare,
    Ready, Reply, Request, Root, Stdio, StreamHello, Target, Token, Upper, WindowSize,
};

pub use network::{Network, Query, Resolved};
pub use pod::{Connect, MEMORY, Memory, Shared};
pub use process::ProcessInfo;
pub use stats::Stats;

/// More specifications than this are not prepared for ([`Prepare::specs`]).
pub const MAX_EXPECTED: usize = 16;

/// The version of these messages; a monitor refuses an agent of another one.
pub const VERSION: u32 = 5;
/// The port of the control connection.
pub const CONTROL_PORT: u32 = 1024;
/// The port of the streams' connections.
pub const STREAM_PORT: u32 = 1025;
/// Where a guest has the virtio-fs devices of [`Create::shares`], each in a directory of its tag's name.
pub const SHARES: &str = "/run/bulkhead/shares";
/// The vsock context id of the host (`VMADDR_CID_HOST`, vsock(7)).
pub const HOST_CID: u32 = 2;
/// The largest frame, in bytes, that a monitor accepts from an agent: a list of all processes.
pub const MAX_FROM_AGENT: usize = 4 << 20;
/// The largest frame, in bytes, that an agent accepts from its monitor: a runtime specification with its seccomp profile and environment.
pub const MAX_TO_AGENT: usize = 16 << 20;
