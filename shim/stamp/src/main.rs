//! `bulkhead-stamp [--hold | PROGRAM [ARGUMENT…]]`: reads the clocks with its first two system calls, prints
//! `bulkhead-stamp MONOTONIC REALTIME` (nanoseconds) with its third, then ends, waits to be killed, or becomes the program.
//!
//! It has its own entry point and calls nothing but the kernel: no library's code runs, nothing is allocated, no thread-local storage is set up.
//! So "first instruction" means what it says, and a start of it costs a guest as little as a program can.
#![no_main]
// A build that unwinds, as a developer's, takes the library for its panics' sake; no code of it runs there either.
#![cfg_attr(panic = "abort", no_std)]

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
use x86_64::system_call;

const WRITE: usize = 1;
const PAUSE: usize = 34;
const EXECVE: usize = 59;
const EXIT_GROUP: usize = 231;
const CLOCK_GETTIME: usize = 228;

const CLOCK_REALTIME: usize = 0;
const CLOCK_MONOTONIC: usize = 1;

const STDOUT: usize = 1;
const STDERR: usize = 2;

/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The longest path that is tried (PATH_MAX).
const PATH_MAX: usize = 4096;

/// A list of strings that ends with a null.
type Words = *const *const u8;

/// All of the program. `stack` is what the kernel left there: the count of words, pointers to them, a null, pointers to the
/// environment, a null.
///
/// # Safety
/// `stack` is the stack pointer at the program's entry.
#[unsafe(no_mangle)]
unsafe extern "C" fn stamp(stack: *const usize) -> ! {
    let monotonic = clock(CLOCK_MONOTONIC);
    let realtime = clock(CLOCK_REALTIME);
    let mut line = Line::default();
    line.add(b"bulkhead-stamp ");
    line.number(monotonic);
    line.add(b" ");
    line.number(realtime);
    line.add(b"\n");
    write(STDOUT, line.bytes());
    // SAFETY: the kernel wrote the count there, and so many pointers and a null behind it.
    let (count, words) = unsafe { (*stack, stack.add(1).cast::<*const u8>()) };
    if count < 2 {
        exit(0);
    }
    // SAFETY: the second word is there, and the environment's pointers are behind the words' null.
    let (name, program, environment) =
        unsafe { (text(*words.add(1)), words.add(1), words.add(count + 1)) };
    if name == b"--hold" {
        loop {
            // SAFETY: it only waits.
            unsafe { system_call(PAUSE, [0; 3]) };
        }
    }
    // SAFETY: both are lists of strings that end with a null, as the kernel made them.
    let code = unsafe { become_program(name, program, environment) };
    let mut line = Line::default();
    line.add(b"bulkhead-stamp: cannot execute ");
    line.add(name);
    line.add(b"\n");
    write(STDERR, line.bytes());
    exit(code)
}

/// Executes a program, looked for in the PATH unless there is a slash in its name. Returns the exit code of a shell that cannot.
///
/// # Safety
/// A null follows the name. `words` and `environment` are lists of strings that end with a null.
unsafe fn become_program(name: &[u8], words: Words, environment: Words) -> i32 {
    let mut found = false;
    let mut attempt = |path: *const u8| {
        // SAFETY: the path ends with a null; the caller vouches for the lists.
        let error =
            unsafe { system_call(EXECVE, [path as usize, words as usize, environment as usize]) };
        // Neither ENOENT nor ENOTDIR.
        found |= error != -2 && error != -20;
    };
    if name.contains(&b'/') {
        attempt(name.as_ptr());
    } else {
        // SAFETY: as the caller says.
        let path = unsafe { path_of(environment) }.unwrap_or(DEFAULT_PATH);
        for directory in path.split(|byte| *byte == b':') {
            let mut line = Line::default();
            line.add(if directory.is_empty() { b"." } else { directory });
            line.add(b"/");
            line.add(name);
            line.add(b"\0");
            if line.is_whole() {
                attempt(line.bytes().as_ptr());
            }
        }
    }
    if found { 126 } else { 127 }
}

/// The PATH of an environment.
///
/// # Safety
/// It is a list of strings that ends with a null.
unsafe fn path_of<'a>(mut environment: Words) -> Option<&'a [u8]> {
    // SAFETY: nothing is read behind the null.
    unsafe {
        while !(*environment).is_null() {
            let variable = text(*environment);
            if let Some(path) = variable.strip_prefix(b"PATH=") {
                return Some(path);
            }
            environment = environment.add(1);
        }
    }
    None
}

/// A string without its null.
///
/// # Safety
/// There is one.
unsafe fn text<'a>(start: *const u8) -> &'a [u8] {
    let mut length = 0;
    // SAFETY: nothing is read behind the null.
    unsafe {
        // Volatile: a loop that counts would become a call of a library's function.
        while start.add(length).read_volatile() != 0 {
            length += 1;
        }
        core::slice::from_raw_parts(start, length)
    }
}

/// Nothing here panics; the linker wants to know what would happen.
#[cfg(panic = "abort")]
#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(125)
}

/// A clock, in nanoseconds.
fn clock(which: usize) -> u64 {
    let mut time = [0_i64; 2];
    // SAFETY: the kernel writes seconds and nanoseconds there.
    unsafe { system_call(CLOCK_GETTIME, [which, time.as_mut_ptr() as usize, 0]) };
    time[0].unsigned_abs().wrapping_mul(1_000_000_000).wrapping_add(time[1].unsigned_abs())
}

fn write(to: usize, bytes: &[u8]) {
    // SAFETY: the kernel reads that slice. What it cannot write, nobody can be told.
    unsafe { system_call(WRITE, [to, bytes.as_ptr() as usize, bytes.len()]) };
}

fn exit(code: i32) -> ! {
    loop {
        // SAFETY: it does not come back.
        unsafe { system_call(EXIT_GROUP, [code.unsigned_abs() as usize, 0, 0]) };
    }
}

/// A text of limited length. It is filled byte by byte, since there is no library to copy with.
struct Line {
    bytes: [core::mem::MaybeUninit<u8>; PATH_MAX],
    length: usize,
    cut: bool,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [const { core::mem::MaybeUninit::uninit() }; PATH_MAX],
            length: 0,
            cut: false,
        }
    }
}

impl Line {
    fn add(&mut self, text: &[u8]) {
        for byte in text {
            match self.bytes.get_mut(self.length) {
                Some(place) => {
                    // Volatile: a loop that copies would become a call of a library's function.
                    // SAFETY: the place is the line's own.
                    unsafe { place.as_mut_ptr().write_volatile(*byte) };
                    self.length += 1;
                }
                None => self.cut = true,
            }
        }
    }

    fn number(&mut self, number: u64) {
        let mut divisor = 10_000_000_000_000_000_000;
        while divisor > 1 && number / divisor == 0 {
            divisor /= 10;
        }
        while divisor > 0 {
            // A digit is less than ten.
            self.add(&[b'0' + (number / divisor % 10).to_le_bytes()[0]]);
            divisor /= 10;
        }
    }

    fn is_whole(&self) -> bool {
        !self.cut
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes were written.
        unsafe { core::slice::from_raw_parts(self.bytes.as_ptr().cast(), self.length) }
    }
}
