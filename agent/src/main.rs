//! The agent's program, without Rust's run-time start: a guest would pay for it, and it would leave SIGPIPE ignored in
//! every container.
#![no_main]

use std::{
    ffi::{CStr, OsStr, c_char, c_int},
    os::unix::ffi::OsStrExt,
};

/// Called by the C library's start-up code.
///
/// # Safety
/// `argv` has `argc` C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    // SAFETY: the C library vouches for both.
    let words = unsafe { words(argc, argv) };
    bulkhead_agent::run(&words)
}

/// The arguments after the program's name.
///
/// # Safety
/// `argv` has `argc` C strings, which live as long as the program.
unsafe fn words(argc: c_int, argv: *const *const c_char) -> Vec<&'static OsStr> {
    (1..usize::try_from(argc).unwrap_or(0))
        .map(|at| {
            // SAFETY: the caller vouches for `argc` strings.
            let word = unsafe { CStr::from_ptr(*argv.add(at)) };
            OsStr::from_bytes(word.to_bytes())
        })
        .collect()
}
