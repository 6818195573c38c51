//! The keeper of a started container: the process that makes it, gives it its standard streams, writes its log, serves those who attach
//! themselves, waits for its end, writes down how it ended, and removes what goes with its end.
//!
//! ```text
//! bulkhead run|start ----starts----> guardian ----starts----> keeper ----makes----> the container's process
//!        |                              |                       |
//!        +------- socket pair: what becomes of the start, streams, the end -------+
//! bulkhead attach|wait|stop|… ---------- keeper.sock -----------+
//! ```
//!
//! The guardian does nothing but wait. When the keeper does not end by itself, it ends the container, so that none runs without its output being
//! read and its end being noticed, and says so in the container's state. If both are killed at once, the next command does it.

mod clients;
mod error;
pub mod frames;
mod guardian;
mod input;
mod launch;
mod make;
mod process;
mod serve;
mod streams;

pub use error::KeeperError;
pub use guardian::guard;
pub use launch::{Launched, connect, launch};
pub use process::keep;

/// The name of the keeper's socket.
const SOCKET: &str = "keeper.sock";
