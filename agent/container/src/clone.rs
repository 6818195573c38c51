//! New processes (clone3(2)): with their namespaces and in their cgroup from the first instruction on.
//!
//! A process can share its maker's memory until it executes its program, which spares the kernel the copying of page
//! tables and both sides the faults afterwards. It runs on a stack of its own, and at most one of the two runs at a time:
//! the maker waits for the process's report, and once that is made the process only waits, executes and ends, with system
//! calls that touch nothing else ([`crate::child`]).

use std::{
    ffi::c_void,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    ptr,
};

use rustix::{
    io::Errno,
    mm::{MapFlags, MprotectFlags, ProtFlags},
    process::Pid,
};

use crate::sys;

/// Bytes of a process's stack; pages that it never touches cost nothing.
const STACK: usize = 256 << 10;
/// The page below it that nothing may touch.
const GUARD: usize = 4096;

/// linux/sched.h: handlers of signals become the default action.
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
/// linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

const SIGCHLD: u64 = libc::SIGCHLD.unsigned_abs() as u64;

/// `struct clone_args`, in its version with `cgroup`.
#[repr(C, align(8))]
#[derive(Debug, Default)]
struct Args {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A stack for a process that shares the maker's memory; it must outlive that.
#[derive(Debug)]
pub(crate) struct Stack(*mut c_void);

impl Stack {
    pub(crate) fn new() -> Result<Self, Errno> {
        let flags = MapFlags::PRIVATE | MapFlags::STACK | MapFlags::NORESERVE;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let stack =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), STACK, protection, flags) }
                .map(Self)?;
        // SAFETY: the first page of the mapping that has just been made.
        unsafe { rustix::mm::mprotect(stack.0, GUARD, MprotectFlags::empty()) }?;
        Ok(stack)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this stack's, and no process runs on it any more. It can only fail for a bad range.
        let _ = unsafe { rustix::mm::munmap(self.0, STACK) };
    }
}

/// A process that was made.
#[derive(Debug)]
pub(crate) struct Cloned {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

/// Makes a process that calls `entry` with `argument`. `flags`: namespaces. `stack`: it shares the memory.
///
/// # Safety
/// `entry` never returns. With a stack: what `argument` points to and the stack live until the process has executed its
/// program or ended, and the two processes never run Rust code at the same time.
pub(crate) unsafe fn clone(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    stack: Option<&Stack>,
    entry: unsafe extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> Result<Cloned, Errno> {
    let mut pidfd = -1_i32;
    let mut args = Args {
        flags: flags | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND,
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        // With CLONE_PARENT it is the maker's own.
        exit_signal: if flags & libc::CLONE_PARENT as u64 == 0 { SIGCHLD } else { 0 },
        ..Args::default()
    };
    if let Some(stack) = stack {
        args.flags |= libc::CLONE_VM as u64;
        args.stack = stack.0 as u64;
        args.stack_size = STACK as u64;
    }
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd().cast_unsigned().into();
    }
    // SAFETY: the structure is of the size that is passed; the caller vouches for the rest.
    let pid = unsafe { clone3(&args, entry, argument) }?;
    let fd = usize::try_from(pidfd).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has put a new descriptor there.
    let pidfd = unsafe { sys::own(fd) }?;
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    Ok(Cloned { pid, pidfd })
}

/// # Safety
/// As [`clone`].
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(
    args: &Args,
    entry: unsafe extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> Result<usize, Errno> {
    let result: isize;
    // SAFETY: in the maker, only rax, rcx and r11 change. The new process, where rax is 0, has the maker's registers but
    // for its stack, aligns it as the calling convention wants it and calls the function, which does not come back.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "and rsp, -16",
            "mov rdi, r9",
            "call r8",
            "ud2",
            "2:",
            inlateout("rax") sys::number(libc::SYS_clone3) => result,
            in("rdi") ptr::from_ref(args),
            in("rsi") size_of::<Args>(),
            in("r8") entry,
            in("r9") argument,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    sys::decode(result)
}

/// # Safety
/// As [`clone`].
#[cfg(target_arch = "aarch64")]
unsafe fn clone3(
    args: &Args,
    entry: unsafe extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> Result<usize, Errno> {
    let result: isize;
    // SAFETY: in the maker, only x0 changes. The new process, where x0 is 0, has the maker's registers but for its stack
    // and calls the function, which does not come back.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x10",
            "blr x9",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") ptr::from_ref(args) => result,
            in("x1") size_of::<Args>(),
            in("x9") entry,
            in("x10") argument,
            lateout("x30") _,
        );
    }
    sys::decode(result)
}
