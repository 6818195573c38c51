//! System calls that rustix does not have, without the C library: a process that shares the agent's memory must not
//! touch the agent's `errno`.

use std::{
    ffi::{CStr, c_char},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use rustix::io::Errno;

/// Makes a system call (syscall(2), "Architecture calling conventions").
///
/// # Safety
/// The arguments are what the call wants; pointers among them stay valid while it runs.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn syscall(number: libc::c_long, args: [usize; 5]) -> Result<usize, Errno> {
    let result: isize;
    // SAFETY: the caller vouches for the call; the kernel changes rax, rcx and r11 only.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") self::number(number) => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2], in("r10") args[3], in("r8") args[4],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    decode(result)
}

/// Makes a system call (syscall(2), "Architecture calling conventions").
///
/// # Safety
/// The arguments are what the call wants; pointers among them stay valid while it runs.
#[cfg(target_arch = "aarch64")]
pub(crate) unsafe fn syscall(number: libc::c_long, args: [usize; 5]) -> Result<usize, Errno> {
    let result: isize;
    // SAFETY: the caller vouches for the call; the kernel changes x0 only.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") args[0] => result,
            in("x1") args[1], in("x2") args[2], in("x3") args[3], in("x4") args[4],
            options(nostack),
        );
    }
    decode(result)
}

/// A system call's number as a register holds it.
pub(crate) const fn number(number: libc::c_long) -> isize {
    #[expect(clippy::cast_possible_truncation, reason = "both have the machine's width")]
    let number = number as isize;
    number
}

/// A system call's result, or its error.
pub(crate) fn decode(result: isize) -> Result<usize, Errno> {
    match i32::try_from(result) {
        Ok(error @ -4095..=-1) => Err(Errno::from_raw_os_error(-error)),
        _ => Ok(result.cast_unsigned()),
    }
}

/// Replaces the process's program (execve(2)). Returns only an error.
///
/// # Safety
/// `program` is a C string; `argv` and `envp` are arrays of C strings that end with a null pointer.
pub(crate) unsafe fn execve(
    program: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
) -> Errno {
    // SAFETY: the caller vouches for the pointers.
    let result = unsafe {
        syscall(libc::SYS_execve, [program as usize, argv as usize, envp as usize, 0, 0])
    };
    result.err().unwrap_or(Errno::INVAL)
}

/// Ends the process, with nothing of the C library's clean-up.
pub(crate) fn exit(code: u8) -> ! {
    loop {
        // SAFETY: takes no pointers.
        let _ = unsafe { syscall(libc::SYS_exit_group, [usize::from(code), 0, 0, 0, 0]) };
    }
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MountAttr {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) propagation: u64,
    pub(crate) userns_fd: u64,
}

/// Changes the properties of the mount at `path`, or, when that is empty, of the one that `dir` refers to
/// (mount_setattr(2)).
pub(crate) fn mount_setattr(
    dir: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    attr: &MountAttr,
) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path and the structure outlive the call, and the length is the structure's.
    unsafe {
        syscall(
            libc::SYS_mount_setattr,
            [
                fd(dir.as_raw_fd()),
                path.as_ptr() as usize,
                flags.cast_unsigned() as usize,
                std::ptr::from_ref(attr) as usize,
                size_of::<MountAttr>(),
            ],
        )
    }
    .map(drop)
}

/// Unblocks every signal (sigprocmask(2)).
pub(crate) fn unblock_signals() -> Result<(), Errno> {
    /// `SIG_SETMASK`.
    const SET: usize = 2;
    let none = 0_u64;
    // SAFETY: the kernel reads the 8 bytes of its signal set and writes nothing.
    unsafe { syscall(libc::SYS_rt_sigprocmask, [SET, std::ptr::from_ref(&none) as usize, 0, 8, 0]) }
        .map(drop)
}

/// Signals a process by its descriptor (pidfd_send_signal(2)). Real-time signals have no names in rustix.
pub(crate) fn pidfd_send_signal(process: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: no pointers but a null one, which is allowed.
    unsafe { syscall(libc::SYS_pidfd_send_signal, [fd(process.as_raw_fd()), fd(signal), 0, 0, 0]) }
        .map(drop)
}

/// Signals a process by its number (kill(2)).
pub(crate) fn kill(pid: u32, signal: i32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    unsafe { syscall(libc::SYS_kill, [pid as usize, fd(signal), 0, 0, 0]) }.map(drop)
}

/// The `CLONE_NEW…` flag of the namespace that a file stands for (ioctl_ns(2)).
pub(crate) fn namespace_type(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    /// `NS_GET_NSTYPE`.
    const GET_TYPE: usize = 0xb703;
    // SAFETY: no pointers.
    unsafe { syscall(libc::SYS_ioctl, [fd(file.as_raw_fd()), GET_TYPE, 0, 0, 0]) }
        .map(|kind| kind as u64)
}

/// A block device of no size (ioctl `BLKGETSIZE64`): a drive without a medium.
pub(crate) fn is_empty_disk(device: &std::path::Path) -> bool {
    /// `BLKGETSIZE64`.
    const GET_SIZE: usize = 0x8008_1272;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let Ok(device) = rustix::fs::open(device, flags, rustix::fs::Mode::empty()) else {
        return false;
    };
    let mut bytes = 0_u64;
    let to = std::ptr::from_mut(&mut bytes) as usize;
    // SAFETY: the kernel writes the 8 bytes; other files refuse the request.
    let asked = unsafe { syscall(libc::SYS_ioctl, [fd(device.as_raw_fd()), GET_SIZE, to, 0, 0]) };
    asked.is_ok() && bytes == 0
}

/// Closes the descriptors from `first` to `last` (close_range(2)).
pub(crate) fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: no pointers. The caller is a new process that owns all of its descriptors.
    unsafe { syscall(libc::SYS_close_range, [first as usize, last as usize, 0, 0, 0]) }.map(drop)
}

/// Gives a signal its default action (sigaction(2)).
pub(crate) fn default_action(signal: i32) -> Result<(), Errno> {
    // The kernel's structure: handler, flags, restorer, mask; `SIG_DFL` is 0.
    let action = [0_u64; 4];
    // SAFETY: the kernel reads the structure, with a signal set of 8 bytes, and writes nothing.
    unsafe {
        syscall(libc::SYS_rt_sigaction, [fd(signal), std::ptr::from_ref(&action) as usize, 0, 8, 0])
    }
    .map(drop)
}

/// Sets the execution domain (personality(2)).
pub(crate) fn personality(domain: u32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    unsafe { syscall(libc::SYS_personality, [domain as usize, 0, 0, 0, 0]) }.map(drop)
}

/// Joins the session keyring of this name, which is made when it does not exist (keyctl(2)). A kernel without keyrings
/// needs none.
pub(crate) fn join_session_keyring(name: &CStr) -> Result<(), Errno> {
    /// `KEYCTL_JOIN_SESSION_KEYRING`.
    const JOIN: usize = 1;
    // SAFETY: the name outlives the call.
    let joined =
        unsafe { syscall(libc::SYS_keyctl, [JOIN, name.as_ptr() as usize, 0, 0, 0]) }.map(drop);
    match joined {
        Err(Errno::NOSYS) => Ok(()),
        joined => joined,
    }
}

/// `struct sched_attr` of sched_setattr(2), in its first version.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct SchedAttr {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

impl Default for SchedAttr {
    fn default() -> Self {
        // The structure has 48 bytes (SCHED_ATTR_SIZE_VER0).
        Self {
            size: 48,
            policy: 0,
            flags: 0,
            nice: 0,
            priority: 0,
            runtime: 0,
            deadline: 0,
            period: 0,
        }
    }
}

/// Sets this process's scheduling.
pub(crate) fn sched_setattr(attr: &SchedAttr) -> Result<(), Errno> {
    // SAFETY: the structure outlives the call and says its own size.
    unsafe { syscall(libc::SYS_sched_setattr, [0, std::ptr::from_ref(attr) as usize, 0, 0, 0]) }
        .map(drop)
}

/// Sets this process's I/O priority (ioprio_set(2)).
pub(crate) fn ioprio_set(priority: u16) -> Result<(), Errno> {
    /// `IOPRIO_WHO_PROCESS`.
    const PROCESS: usize = 1;
    // SAFETY: no pointers.
    unsafe { syscall(libc::SYS_ioprio_set, [PROCESS, 0, usize::from(priority), 0, 0]) }.map(drop)
}

/// Installs a filter for this process (seccomp(2), `SECCOMP_SET_MODE_FILTER`).
pub(crate) fn set_seccomp_filter(
    program: &[libc::sock_filter],
    flags: libc::c_ulong,
) -> Result<(), Errno> {
    let Ok(len) = u16::try_from(program.len()) else { return Err(Errno::TOOBIG) };
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads the program, whose length is right, and does not write it.
    unsafe {
        syscall(
            libc::SYS_seccomp,
            [
                libc::SECCOMP_SET_MODE_FILTER as usize,
                usize::try_from(flags).unwrap_or(0),
                std::ptr::from_ref(&filter) as usize,
                0,
                0,
            ],
        )
    }
    .map(drop)
}

/// A command of bpf(2).
///
/// # Safety
/// `attr` is what the command wants, and its pointers are valid.
pub(crate) unsafe fn bpf<T>(command: u32, attr: &T) -> Result<usize, Errno> {
    // SAFETY: the caller vouches for the structure, whose size is passed.
    unsafe {
        syscall(
            libc::SYS_bpf,
            [command as usize, std::ptr::from_ref(attr) as usize, size_of::<T>(), 0, 0],
        )
    }
}

/// Takes ownership of a descriptor that a system call has just returned.
///
/// # Safety
/// `number` is an open descriptor that nothing else owns.
pub(crate) unsafe fn own(number: usize) -> Result<OwnedFd, Errno> {
    let raw = RawFd::try_from(number).map_err(|_| Errno::BADF)?;
    // SAFETY: the caller vouches for it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// A descriptor as a system call's argument.
pub(crate) fn fd(raw: RawFd) -> usize {
    // Negative ones, AT_FDCWD among them, are sign-extended.
    (raw as isize).cast_unsigned()
}
