//! What a machine is made of, as its owner says it. `bulkhead-vmm` validates it before it touches KVM.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Nic;

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// The kernel: an ELF vmlinux, or a bzImage.
    pub kernel: PathBuf,
    /// An initial RAM disk (cpio archive), placed at the end of memory.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// Words added to the kernel's command line, after those that the VMM needs.
    #[serde(default)]
    pub cmdline: String,
    /// Virtual CPUs, 1 to 8.
    #[serde(default = "one")]
    pub vcpus: u8,
    /// Memory in MiB, from 64 to the host's.
    pub memory_mib: u64,
    /// Disks in the order in which the guest names them: `/dev/vda`, `/dev/vdb`, ….
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// The socket device.
    #[serde(default)]
    pub vsock: Option<Vsock>,
    /// Directories and files of the host that the guest can mount, one device for each share.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// Network cards in the order in which the guest names them: `eth0`, `eth1`, …; at most 8.
    #[serde(default)]
    pub nics: Vec<Nic>,
    /// Where the serial console's output goes; absent: the machine has no serial port.
    #[serde(default)]
    pub serial: Option<SerialOutput>,
    /// What kind of KVM this is.
    #[serde(default)]
    pub backend: Backend,
    /// A memory balloon that reports free pages (virtio 1.3, 5.5): memory that the guest does not use goes back to the host.
    #[serde(default)]
    pub balloon: bool,
    /// Media may be put into the slots while it runs ([`RequestKind::Insert`](super::RequestKind::Insert)): with shares, the VMM keeps the rights of a file server
    /// even when they are empty.
    #[serde(default)]
    pub exchange: bool,
    /// The files that [`RequestKind::Snapshot`](super::RequestKind::Snapshot) fills. They are made when the machine is (0600; nothing may be there), and
    /// stay empty until the request.
    #[serde(default)]
    pub snapshot: Option<SnapshotFiles>,
    /// Go on from these files instead of booting. The rest of the configuration says the machine's shape, which must be that of the machine
    /// that was saved, and the media of its slots: the files of its disks, the entries of its shares, the taps of its
    /// network cards, the path of its sockets.
    /// The kernel and the initial RAM disk must be the files that it was booted from; they are not read again.
    #[serde(default)]
    pub restore: Option<SnapshotFiles>,
}

/// A machine at rest, in two files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotFiles {
    /// What the machine is, and the state of its processors and devices.
    pub state: PathBuf,
    /// Its memory, with holes where it is zero.
    pub memory: PathBuf,
}

fn one() -> u8 {
    1
}

/// A virtio block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The device's serial number in the guest, at most 20 bytes of ASCII (virtio 1.3, 5.2.6: `VIRTIO_BLK_T_GET_ID`).
    pub id: String,
    /// The files whose bytes, one after the other, are the disk. Each but the last is a multiple of 512 bytes. None: a slot without a
    /// medium, of capacity 0.
    pub files: Vec<PathBuf>,
    /// The files are opened read-only and a write is answered with an I/O error.
    pub read_only: bool,
}

/// The virtio socket device. A guest's connection to port `N` of CID 2 becomes a connection to the Unix socket `<path>_N`;
/// a connection to the Unix socket `<path>` that says `CONNECT N\n` becomes one to port `N` of the guest, answered with `OK <host port>\n`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// The guest's context id, 3 or more.
    pub cid: u32,
    /// The Unix socket's path.
    pub path: PathBuf,
}

/// A virtio file system device (virtio 1.3, 5.11): a directory with one entry for each thing of the host that is shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The name by which the guest mounts it (`mount -t virtiofs TAG …`): a file name of at most 36 bytes.
    pub tag: String,
    /// What the guest may remember of it.
    #[serde(default)]
    pub cache: Cache,
    /// What is in the directory; there may be nothing.
    pub entries: Vec<ShareEntry>,
}

/// One thing of the host that is shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareEntry {
    /// Its name in the share's directory.
    pub name: String,
    /// The directory or file, with the mounts below it. What the host mounts there later appears too. No component is a symbolic link.
    pub path: PathBuf,
    /// The host's kernel refuses every change (`EROFS`).
    #[serde(default)]
    pub read_only: bool,
    /// Of the directory itself nothing is changed, and nothing is found in it but directories; what is in those can be written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
}

/// How long a guest may believe what it has seen of a share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cache {
    /// Names and attributes for a second; contents until the file is opened again.
    #[default]
    Auto,
    /// Not at all: each look asks the host. Mapping a file into memory still works.
    None,
}

/// Where the serial console's output goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SerialOutput {
    /// The VMM's standard output.
    Stdout,
    /// This file, created or appended to.
    File(PathBuf),
}

/// What kind of KVM the host has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// Find out.
    #[default]
    Auto,
    /// Intel VT-x or AMD-V: the guest's kernel runs natively.
    Hardware,
    /// The guest's kernel is interpreted by KVM's instruction emulator.
    Software,
}
