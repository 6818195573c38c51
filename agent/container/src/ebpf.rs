//! Programs for the kernel (bpf(2)): loading them, and attaching them where the engine and the monitor have use for one.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::sys;

/// `enum bpf_cmd`.
const MAP_CREATE: u32 = 0;
const MAP_UPDATE: u32 = 2;
const PROGRAM_LOAD: u32 = 5;
const PROGRAM_ATTACH: u32 = 8;
const LINK_CREATE: u32 = 28;

/// `struct bpf_insn`: code, destination and source register, offset, immediate.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub(crate) code: u8,
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

impl Instruction {
    /// One with these registers, which are under 16.
    #[must_use]
    pub fn new(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Self {
        Self { code, registers: from << 4 | to, offset, immediate }
    }
}

/// What a program is for: its type, and where it can be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Which devices the processes of a control group may use (`BPF_PROG_TYPE_CGROUP_DEVICE`).
    Devices,
    /// Which socket gets a connection or a datagram of a network namespace (`BPF_PROG_TYPE_SK_LOOKUP`).
    Sockets,
}

impl Purpose {
    /// `enum bpf_prog_type`, `enum bpf_attach_type`.
    fn numbers(self) -> (u32, u32) {
        match self {
            Self::Devices => (15, 6),
            Self::Sockets => (30, 36),
        }
    }
}

/// A program that the kernel has checked.
#[derive(Debug)]
pub struct Program {
    program: OwnedFd,
    purpose: Purpose,
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attaches: u32,
}

/// The part of `union bpf_attr` that `BPF_PROG_ATTACH` reads.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` reads.
#[repr(C)]
struct Link {
    program: u32,
    target: u32,
    kind: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_MAP_CREATE` reads.
#[repr(C)]
struct Map {
    kind: u32,
    key_size: u32,
    value_size: u32,
    most: u32,
}

/// The part of `union bpf_attr` that `BPF_MAP_UPDATE_ELEM` reads.
#[repr(C)]
struct Update {
    map: u32,
    unused: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Program {
    /// Loads one.
    ///
    /// # Errors
    /// The kernel's: `EPERM` without the right to, `EINVAL` for what it does not know, `EACCES` for what its verifier refuses.
    pub fn load(purpose: Purpose, instructions: &[Instruction]) -> Result<Self, Errno> {
        let (kind, attaches) = purpose.numbers();
        let load = Load {
            kind,
            count: u32::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?,
            instructions: instructions.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buffer: 0,
            kernel_version: 0,
            flags: 0,
            name: [0; 16],
            interface: 0,
            attaches,
        };
        // SAFETY: the instructions and the licence outlive the call; the count is right.
        let program = unsafe { make(PROGRAM_LOAD, &load) }?;
        Ok(Self { program, purpose })
    }

    /// Attaches it to a control group beside others, for as long as the group is there.
    pub(crate) fn attach(&self, cgroup: BorrowedFd<'_>) -> Result<(), Errno> {
        /// `BPF_F_ALLOW_MULTI`.
        const WITH_OTHERS: u32 = 2;
        let attach = Attach {
            target: cgroup.as_raw_fd().cast_unsigned(),
            program: self.program.as_raw_fd().cast_unsigned(),
            kind: self.purpose.numbers().1,
            flags: WITH_OTHERS,
        };
        // SAFETY: both descriptors are open; the structure has no pointers.
        unsafe { sys::bpf(PROGRAM_ATTACH, &attach) }.map(drop)
    }

    /// Attaches it to a network namespace beside others, for as long as what is returned is open in some process.
    ///
    /// # Errors
    /// The kernel's.
    pub fn link(&self, namespace: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let link = Link {
            program: self.program.as_raw_fd().cast_unsigned(),
            target: namespace.as_raw_fd().cast_unsigned(),
            kind: self.purpose.numbers().1,
            flags: 0,
        };
        // SAFETY: both descriptors are open; the structure has no pointers.
        unsafe { make(LINK_CREATE, &link) }
    }
}

/// A map with one socket at key 0 (`BPF_MAP_TYPE_SOCKMAP`), for programs that hand something to it.
///
/// # Errors
/// The kernel's.
pub fn map_of(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    const SOCKETS: u32 = 15;
    let map = Map { kind: SOCKETS, key_size: 4, value_size: 4, most: 1 };
    // SAFETY: the structure has no pointers.
    let map = unsafe { make(MAP_CREATE, &map) }?;
    let (key, value) = (0_u32, socket.as_raw_fd());
    let update = Update {
        map: map.as_raw_fd().cast_unsigned(),
        unused: 0,
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    // SAFETY: key and value outlive the call and have the sizes that the map was made with.
    unsafe { sys::bpf(MAP_UPDATE, &update) }?;
    Ok(map)
}

/// A command that makes something.
///
/// # Safety
/// As that of [`sys::bpf`]; the command returns a descriptor.
unsafe fn make<T>(command: u32, attr: &T) -> Result<OwnedFd, Errno> {
    // SAFETY: the caller vouches for the structure.
    let number = unsafe { sys::bpf(command, attr) }?;
    // SAFETY: the kernel has just made this descriptor, with close-on-exec set.
    unsafe { sys::own(number) }
}
