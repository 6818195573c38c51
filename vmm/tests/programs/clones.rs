//! The first process of a guest that is saved and goes on in several machines. The test compiles it, static and without crates. It
//! connects to port 1024 of its host and answers each line that it gets with the time on both processors.

use std::{
    ffi::{c_int, c_long},
    fs::File,
    io::{BufRead, BufReader, Error, Write},
    os::fd::FromRawFd,
    thread,
    time::Duration,
};

#[repr(C)]
struct Time {
    seconds: i64,
    nanoseconds: i64,
}

#[repr(C)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    zero: [u8; 4],
}

unsafe extern "C" {
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn connect(fd: c_int, address: *const Address, length: u32) -> c_int;
    fn clock_gettime(clock: c_int, time: *mut Time) -> c_int;
    fn sched_setaffinity(pid: c_int, size: usize, set: *const u64) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
}

const AF_VSOCK: c_int = 40;
const SOCK_STREAM: c_int = 1;
const HOST: u32 = 2;
const PORT: u32 = 1024;
const CLOCK_MONOTONIC: c_int = 1;
const SYS_CLOCK_GETTIME: c_long = 228;

fn main() {
    let stream = connected();
    let mut writer = stream.try_clone().unwrap();
    for line in BufReader::new(stream).lines() {
        line.unwrap();
        writeln!(writer, "{}", times()).unwrap();
    }
    println!("the connection ended");
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

fn connected() -> File {
    // SAFETY: the arguments are numbers.
    let fd = unsafe { socket(AF_VSOCK, SOCK_STREAM, 0) };
    assert!(fd >= 0, "{}", Error::last_os_error());
    let family = u16::try_from(AF_VSOCK).unwrap();
    let address = Address { family, reserved: 0, port: PORT, cid: HOST, zero: [0; 4] };
    // SAFETY: the address is a sockaddr_vm of the length that is said.
    let done = unsafe { connect(fd, &raw const address, 16) };
    assert!(done == 0, "{}", Error::last_os_error());
    // SAFETY: the descriptor was just made and nothing else has it.
    unsafe { File::from_raw_fd(fd) }
}

/// The time on each processor, in order, as the C library reads it and as the kernel says it.
fn times() -> String {
    let mut times = Vec::new();
    for processor in [0u64, 1, 0, 1] {
        let set = 1u64 << processor;
        // SAFETY: the set is a mask of 8 bytes.
        unsafe { sched_setaffinity(0, 8, &raw const set) };
        let mut time = Time { seconds: 0, nanoseconds: 0 };
        // SAFETY: the pointer is to a timespec of ours.
        unsafe { clock_gettime(CLOCK_MONOTONIC, &raw mut time) };
        times.push(time.seconds * 1_000_000_000 + time.nanoseconds);
        // SAFETY: as above.
        unsafe { syscall(SYS_CLOCK_GETTIME, CLOCK_MONOTONIC, &raw mut time) };
        times.push(time.seconds * 1_000_000_000 + time.nanoseconds);
    }
    times.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
