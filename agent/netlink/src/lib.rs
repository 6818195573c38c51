//! rtnetlink(7) as the agent and the monitor need it: one synchronous socket, many changes in one message, dumps that are read as they come.
//!
//! It is of this project because it is also in the guest: a crate that knows all of netlink would make the agent larger than its
//! whole work is, and each system call saved there is many instructions of the guest's kernel.

mod batch;
mod header;
mod parse;
mod socket;

pub use batch::{Batch, Message};
pub use header::{Family, address, link, neighbour, route, traffic};
pub use parse::{Attribute, Attributes, Parsed, attributes, messages};
pub use socket::{Refused, Socket};
