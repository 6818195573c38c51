//! Keeps containers from writing to the program that makes them. A container whose program is `/proc/self/exe` executes
//! it and then has a way to its file (CVE-2019-5736); through a read-only mount of it, that way leads to no writing.

use std::{
    ffi::{CString, c_char},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
};

use rustix::{
    fs::{CWD, StatVfsMountFlags},
    mount::OpenTreeFlags,
    process::DumpableBehavior,
};

use crate::{
    error::{Error, at},
    sys::{self, MountAttr},
};

const PROGRAM: &str = "/proc/self/exe";

/// Goes on in this program, executed anew from a read-only mount that is nowhere to be found, with the same arguments and
/// environment; returns when this process runs from such a mount, and can not be looked into by processes of containers
/// that it joins (ptrace(2)). For a process that makes or joins containers on a host, before anything else.
///
/// # Errors
/// [`Error::System`].
pub fn run_from_read_only() -> Result<(), Error> {
    let stat = rustix::fs::statvfs(PROGRAM).map_err(at("look at", PROGRAM))?;
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(at("hide", "this process from containers"));
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let program =
        rustix::mount::open_tree(CWD, PROGRAM, flags).map_err(at("make a mount of", PROGRAM))?;
    let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    sys::mount_setattr(program.as_fd(), c"", false, &attr)
        .map_err(at("make a read-only mount of", PROGRAM))?;
    execute(&program)
}

fn execute(program: &OwnedFd) -> Result<(), Error> {
    let words: Vec<_> =
        std::env::args_os().filter_map(|word| CString::new(word.into_vec()).ok()).collect();
    let variables: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| {
            CString::new([name.into_vec(), vec![b'='], value.into_vec()].concat()).ok()
        })
        .collect();
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(&words), pointers(&variables));
    let path = c"".as_ptr();
    let flags = libc::AT_EMPTY_PATH.unsigned_abs() as usize;
    // SAFETY: the path is a C string; both arrays are of C strings that outlive the call, and end with a null pointer.
    let error = unsafe {
        sys::syscall(
            libc::SYS_execveat,
            [
                sys::fd(program.as_raw_fd()),
                path as usize,
                argv.as_ptr() as usize,
                envp.as_ptr() as usize,
                flags,
            ],
        )
    };
    error.map(drop).map_err(at("run from a read-only mount", PROGRAM))
}
