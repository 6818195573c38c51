//! Messages over the control sockets: one JSON object a line.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::VmConfig;

/// What a client sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToVmm {
    /// The machine; the owner's first message, and accepted once.
    Configure(Box<VmConfig>),
    /// Something to do or tell.
    Request(Request),
}

/// A numbered request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Comes back in the response.
    pub id: u64,
    /// What is asked.
    pub kind: RequestKind,
}

/// What can be asked of a running machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestKind {
    /// Stop the virtual CPUs between two instructions.
    Pause,
    /// Let them run again.
    Resume,
    /// End the machine now, as if its power were cut.
    Stop,
    /// Tell the counters.
    Counters,
    /// Pause, and write the machine into the files of [`VmConfig::snapshot`]. The machine stays paused, whether it could be written or not: `Resume` lets
    /// it go on, `Stop` ends it. Once it was written the files are not written again.
    Snapshot,
    /// Put media into slots, all of them or, with an error, none. Their open files come with the request (`SCM_RIGHTS`), in the order of the media.
    /// The guest hears of a disk's new size. Only for a machine with [`VmConfig::exchange`].
    Insert(Vec<Medium>),
    /// Take media out. An error is the first slot's from which nothing could be taken; the others are empty all the same. What the guest is reading or writing at this moment is finished; from then on it gets
    /// errors, and the VMM has nothing of the media open any more.
    Eject(Vec<Slot>),
}

/// Something to put into a slot, with open files that go along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Medium {
    /// For a disk of [`VmConfig::disks`] that has none.
    Disk {
        /// The disk's id.
        id: String,
        /// So many regular files or block devices, whose bytes are the disk as those of [`Disk::files`](super::Disk::files) are: open for reading only for a disk that is
        /// read-only, for reading and writing for another.
        files: u32,
    },
    /// For a share of [`VmConfig::shares`]: one more entry. One descriptor goes along, the root of a mount (open_tree(2)). It is found by its name; a list of
    /// the share's directory does not show it.
    Entry {
        /// The share's tag.
        share: String,
        /// The entry's name, which no other entry has had: a guest may remember what was there.
        name: String,
        /// Nothing is changed through it. The mount must be read-only.
        read_only: bool,
        /// As [`ShareEntry::sealed`](super::ShareEntry::sealed).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        sealed: bool,
    },
}

/// A place for a medium.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Slot {
    /// The disk of this id.
    Disk(String),
    /// An entry of a share.
    Entry {
        /// The share's tag.
        share: String,
        /// The entry's name.
        name: String,
    },
}

impl Medium {
    /// How many descriptors go along.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        match self {
            Medium::Disk { files, .. } => usize::try_from(*files).unwrap_or(usize::MAX),
            Medium::Entry { .. } => 1,
        }
    }

    /// Where it goes.
    #[must_use]
    pub fn slot(&self) -> Slot {
        match self {
            Medium::Disk { id, .. } => Slot::Disk(id.clone()),
            Medium::Entry { share, name, .. } => {
                Slot::Entry { share: share.clone(), name: name.clone() }
            }
        }
    }
}

impl RequestKind {
    /// How many descriptors go along.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        match self {
            RequestKind::Insert(media) => {
                media.iter().fold(0, |sum, medium| medium.descriptors().saturating_add(sum))
            }
            _ => 0,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Slot::Disk(id) => write!(f, "disk {id:?}"),
            Slot::Entry { share, name } => write!(f, "entry {name:?} of share {share:?}"),
        }
    }
}

/// What a VMM sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromVmm {
    /// The answer to a request.
    Response {
        /// The request's number.
        id: u64,
        /// The answer, or one line that says why not.
        result: Result<Response, String>,
    },
    /// A point of the start was passed. Sent to the owner.
    Mark {
        /// Which.
        mark: Mark,
        /// `CLOCK_MONOTONIC`, nanoseconds.
        monotonic_ns: u64,
        /// Guest-kernel instructions that KVM had interpreted by then, over all virtual CPUs; 0 on hardware.
        instructions: u64,
    },
    /// The machine ended; the last message.
    Ended(End),
}

/// The answer to a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// Done.
    Done,
    /// The counters.
    Counters(Box<Counters>),
}

/// Points of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// The VMM's `main` began.
    ProcessStarted,
    /// The first `KVM_RUN`: with a direct boot, the kernel's first instruction; else the instruction before which it was saved.
    KernelEntry,
    /// The guest's first process is about to execute its first instruction in user mode. A restored machine was past it.
    InitExec,
    /// The first process of a PID namespace inside the guest is about to execute its first instruction.
    ContainerExec,
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The guest powered off or reset itself in good order.
    PowerOff,
    /// The guest's kernel panicked.
    Panic,
    /// A virtual CPU met a triple fault.
    TripleFault,
    /// A client asked for it, or the owner closed its socket.
    Stopped,
    /// The machine could not be made or could not go on; one line that says why.
    Failed(String),
}

impl End {
    /// The VMM's exit code for it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            End::PowerOff | End::Stopped => 0,
            End::Failed(_) => 1,
            End::Panic => 2,
            End::TripleFault => 3,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::PowerOff => f.write_str("the guest powered off"),
            End::Panic => f.write_str("the guest's kernel panicked"),
            End::TripleFault => f.write_str("a virtual CPU met a triple fault"),
            End::Stopped => f.write_str("the machine was stopped"),
            End::Failed(why) => f.write_str(why),
        }
    }
}

/// What a VMM has counted since it began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Guest-kernel instructions that KVM interpreted, over all virtual CPUs; 0 on hardware.
    pub instructions: u64,
    /// Returns of `KVM_RUN`, over all virtual CPUs.
    pub exits: u64,
    /// Instructions that the VMM completed for a software KVM.
    pub assists: u64,
    /// Block requests that were answered.
    pub block_requests: u64,
    /// Bytes read from disks.
    pub block_read: u64,
    /// Bytes written to disks.
    pub block_written: u64,
    /// Block requests that were malformed or failed.
    pub block_errors: u64,
    /// vsock packets in both directions.
    pub vsock_packets: u64,
    /// vsock packets that were malformed or had no connection.
    pub vsock_errors: u64,
    /// Free pages of 4 KiB that the guest gave back to the host; one that it used again and gave back again counts again.
    pub balloon_pages: u64,
    /// What the balloon's driver asked for and could not be done.
    pub balloon_errors: u64,
    /// Requests about shared files that were answered or needed no answer.
    pub share_requests: u64,
    /// Those that were malformed or could not be served; not those about files that are not there or may not be touched.
    pub share_errors: u64,
    /// Ethernet frames that guests got from their taps; one may be many TCP segments.
    pub net_received: u64,
    /// Their bytes.
    pub net_received_bytes: u64,
    /// Ethernet frames that taps took from the guest.
    pub net_sent: u64,
    /// Their bytes.
    pub net_sent_bytes: u64,
    /// Frames that were lost: no tap, one that is down, no room in the guest's buffers.
    pub net_dropped: u64,
    /// Frames that were malformed, or that no driver may send.
    pub net_errors: u64,
    /// Resident memory of the VMM beyond the guest's memory, in KiB (from `/proc/self/smaps`).
    pub overhead_kib: u64,
    /// Resident memory of the guest, in KiB.
    pub guest_kib: u64,
    /// Of that, what this machine shares with no file, in KiB: all of it, but for a restored machine the pages that it wrote.
    pub guest_private_kib: u64,
}
