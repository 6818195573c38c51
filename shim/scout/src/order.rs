//! What the bench orders of a scout in `bench io` and `bench net`, and what that tells.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One thing to do; a line of the scout's input. Files are of [`FILE`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Nothing, for what the order itself costs.
    Nothing,
    /// Read a part of the first of these files that reaches so far, in pieces.
    Read {
        /// Their paths.
        files: Vec<String>,
        /// Where the part begins.
        offset: u64,
        /// So many bytes at most.
        bytes: u64,
    },
    /// Write a new file in pieces, make it durable, and remove it.
    Write {
        /// The directory for it.
        directory: String,
        /// So many bytes.
        bytes: u64,
    },
    /// Make files, each written and made durable.
    Sync {
        /// The directory for them.
        directory: String,
        /// How many.
        count: u64,
    },
    /// Look at the attributes of files that [`Order::Sync`] has made.
    Stat {
        /// Their directory.
        directory: String,
        /// How many.
        count: u64,
    },
    /// Open, read and close them.
    Open {
        /// Their directory.
        directory: String,
        /// How many.
        count: u64,
    },
    /// Remove them.
    Remove {
        /// Their directory.
        directory: String,
        /// How many.
        count: u64,
    },
    /// Write so many bytes to standard output, then the answer.
    Output {
        /// How many.
        bytes: u64,
    },
    /// Read so many bytes from standard input, which follow the order's line.
    Input {
        /// How many.
        bytes: u64,
    },
    /// Answer each of the lines that follow with the same line.
    Echo {
        /// How many.
        count: u64,
    },
    /// Receive so many bytes on a connection.
    Fetch {
        /// Who sends as many bytes as the number says that it gets first, 8 bytes in little-endian order.
        from: SocketAddr,
        /// How many.
        bytes: u64,
    },
    /// Send so many bytes on a connection, and wait until they have arrived.
    Give {
        /// Who takes bytes to their end, and then sends one.
        to: SocketAddr,
        /// How many.
        bytes: u64,
    },
    /// Connect, and close the connection.
    Connect {
        /// To whom.
        to: SocketAddr,
        /// How many times.
        count: u64,
    },
    /// Send a byte on a connection and wait for its return.
    Bounce {
        /// Who sends back what it gets.
        with: SocketAddr,
        /// How many times.
        count: u64,
    },
    /// The same in datagrams, none of which may get lost.
    Datagrams {
        /// Who sends back what it gets.
        with: SocketAddr,
        /// How many times.
        count: u64,
    },
}

/// Bytes of the files of [`Order::Sync`], and of the pieces in which others are read and written in a guest's pages.
pub const FILE: usize = 4096;

/// What was done; a line of the scout's output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// System calls, files or lines: what the order counts.
    pub operations: u64,
    /// Bytes that were read or written.
    pub bytes: u64,
    /// How long it took by the clock there.
    pub nanoseconds: u64,
    /// Why it could not be done to the end.
    pub error: Option<String>,
}
