//! A host process runs from a sealed copy of its program in memory: a container that executes `/proc/self/exe` gets a
//! descriptor of that, and must not be able to write to what every later agent runs (CVE-2019-5736). In a guest the program
//! cannot be written, because the first process runs it as long as the guest does (`ETXTBSY`).

use std::{ffi::CString, os::fd::AsRawFd, os::unix::ffi::OsStringExt};

use rustix::{
    fs::{MemfdFlags, Mode, OFlags, SealFlags},
    io::Errno,
};

use crate::fault::{Fault, to};

const PROGRAM: &str = "/proc/self/exe";

/// Goes on in a sealed copy; returns when this process runs from one.
pub(crate) fn run_from_copy() -> Result<(), Fault> {
    let program = rustix::fs::open(PROGRAM, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(to("open the agent's program"))?;
    if rustix::fs::fcntl_get_seals(&program).is_ok_and(|seals| seals.contains(SealFlags::WRITE)) {
        return Ok(());
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create("bulkhead-agent", flags)
        .map_err(to("make room for a copy of the agent"))?;
    let mut left = rustix::fs::fstat(&program).map_err(to("look at the agent's program"))?.st_size;
    while left > 0 {
        let chunk = usize::try_from(left).unwrap_or(usize::MAX);
        match rustix::fs::sendfile(&copy, &program, None, chunk) {
            Ok(0) => break,
            Ok(count) => left -= i64::try_from(count).unwrap_or(left),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(to("copy the agent's program")(errno)),
        }
    }
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals).map_err(to("seal the agent's program"))?;

    let words: Vec<_> =
        std::env::args_os().filter_map(|word| CString::new(word.into_vec()).ok()).collect();
    let variables: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| {
            let entry = [name.into_vec(), vec![b'='], value.into_vec()].concat();
            CString::new(entry).ok()
        })
        .collect();
    let pointers = |strings: &[CString]| -> Vec<_> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(&words), pointers(&variables));
    // SAFETY: both arrays are of C strings that outlive the call, and end with a null pointer.
    unsafe { libc::fexecve(copy.as_raw_fd(), argv.as_ptr(), envp.as_ptr()) };
    let error = std::io::Error::last_os_error();
    Err(to("run the copy of the agent")(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
}
