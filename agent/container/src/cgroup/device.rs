//! Loads a device program and attaches it to a group (bpf(2), `BPF_CGROUP_DEVICE`).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::device_program::{self, Instruction};
use crate::{
    error::{Error, at},
    spec::DeviceRule,
    sys,
};

const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

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
}

/// The part of `union bpf_attr` that `BPF_PROG_ATTACH` reads.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Rules for devices that the kernel has checked, for any group of version 2; absent when they allow all.
#[derive(Debug)]
pub(crate) struct DeviceFilter(Option<OwnedFd>);

impl DeviceFilter {
    /// # Errors
    /// [`Error::Invalid`] for a rule that cannot be, [`Error::System`].
    pub(crate) fn load(rules: &[DeviceRule]) -> Result<Self, Error> {
        let load = |instructions: Vec<Instruction>| {
            load(&instructions).map_err(at("load", "the filter of linux.resources.devices"))
        };
        device_program::compile(rules)?.map(load).transpose().map(Self)
    }

    /// Restricts a group to the devices that the rules allow.
    pub(super) fn attach(&self, cgroup: BorrowedFd<'_>) -> Result<(), Error> {
        let Some(program) = &self.0 else { return Ok(()) };
        let attach = Attach {
            target: cgroup.as_raw_fd().cast_unsigned(),
            program: program.as_raw_fd().cast_unsigned(),
            kind: BPF_CGROUP_DEVICE,
            flags: BPF_F_ALLOW_MULTI,
        };
        // SAFETY: both descriptors are open; the structure has no pointers.
        unsafe { sys::bpf(BPF_PROG_ATTACH, &attach) }
            .map_err(at("attach", "the filter of linux.resources.devices"))
            .map(drop)
    }
}

fn load(instructions: &[Instruction]) -> Result<OwnedFd, Errno> {
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
    };
    // SAFETY: the instructions and the licence outlive the call; the count is right.
    let number = unsafe { sys::bpf(BPF_PROG_LOAD, &load) }?;
    // SAFETY: the kernel has just made this descriptor, with close-on-exec set.
    unsafe { sys::own(number) }
}
