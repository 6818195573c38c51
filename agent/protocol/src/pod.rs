//! What the containers of one guest have in common.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Root, Token};

/// Where a guest has the file systems of [`crate::Create::memory`], each in a directory of its name: below [`crate::SHARES`], since what is
/// mounted there is seen by processes that were made ahead.
pub const MEMORY: &str = "/run/bulkhead/shares/:memory";

/// A namespace of another container of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shared {
    /// Its type, as in `linux.namespaces`: `network`, `ipc`, `uts` or `pid`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whose it is.
    pub container: String,
}

/// A tmpfs that several containers mount. It is made when the first of them is, and stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Its directory below [`MEMORY`]: 1 to 36 characters of `[A-Za-z0-9_.-]`.
    pub name: String,
    /// Bytes; 0: half of the guest's memory.
    pub size: u64,
}

/// A connection of the host's to a program in the guest that listens on a loopback address of a container's network. The agent connects to it,
/// and then opens the stream; or it says [`crate::Message::Refused`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// Whose network it is.
    pub container: String,
    /// Which address is tried first: `::1`, or `127.0.0.1`. The other one is the second: who forwards a port means the program, whichever it has.
    pub v6: bool,
    /// The TCP port, from 1.
    pub port: u16,
    /// What carries it, both ways with the half-closes.
    pub stream: Token,
}

impl Root {
    /// The block devices of which it is made.
    pub fn devices(&mut self) -> Vec<&mut PathBuf> {
        use crate::{Lower, Upper};
        let (lower, upper) = match self {
            Root::Directory { .. } => return Vec::new(),
            Root::Disk { device } => return vec![device],
            Root::Layers { lower, upper } => (lower, upper),
        };
        let lower = match lower {
            Lower::Erofs { device } | Lower::Ext4 { device } => device,
        };
        match upper {
            Upper::Ext4 { device } => vec![lower, device],
            Upper::None | Upper::Tmpfs | Upper::Directory { .. } => vec![lower],
        }
    }
}
