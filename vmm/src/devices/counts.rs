//! What the devices count while they run. The machine keeps a handle and reads them for its `Counters`.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only grows, shared between threads.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// The value now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }
}

/// One disk's counts.
#[derive(Debug, Default)]
pub struct BlockCounts {
    /// Requests that were answered, in whatever way.
    pub requests: Count,
    /// Bytes read from the files.
    pub read: Count,
    /// Bytes written to the files.
    pub written: Count,
    /// Requests that were malformed, refused or failed.
    pub errors: Count,
}

/// The socket device's counts.
#[derive(Debug, Default)]
pub struct VsockCounts {
    /// Packets in both directions.
    pub packets: Count,
    /// Packets that were malformed, not addressed to the host, or of no connection.
    pub errors: Count,
}

/// A share's counts.
#[derive(Debug, Default)]
pub struct FsCounts {
    /// Requests that were answered, in whatever way, or need no answer.
    pub requests: Count,
    /// Requests that were malformed or could not be served; not those about files that are not there or may not be touched.
    pub errors: Count,
}

/// A network card's counts. Bytes are those of Ethernet frames.
#[derive(Debug, Default)]
pub struct NetCounts {
    /// Frames for the guest.
    pub received: Count,
    /// Their bytes.
    pub received_bytes: Count,
    /// Frames from the guest that the host took.
    pub sent: Count,
    /// Their bytes.
    pub sent_bytes: Count,
    /// Frames that were lost: no tap, one that is down, no room in a guest's buffers, or in the way of a save.
    pub dropped: Count,
    /// Chains that were malformed, and frames that no driver may send or that the host refused.
    pub errors: Count,
}

/// The balloon's counts.
#[derive(Debug, Default)]
pub struct BalloonCounts {
    /// Pages of 4 KiB that went back to the host; one that was touched and went back again counts again.
    pub pages: Count,
    /// Requests and pages that were malformed, not in guest memory, or refused by the host.
    pub errors: Count,
}
