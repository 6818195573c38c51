//! The first process of a guest that is saved and goes on elsewhere, with media in its slots. The test compiles it, static and without
//! crates. What it finds it says to the host's port 7, to which it is connected all the time.

use std::{
    ffi::{CString, c_int, c_ulong, c_void},
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Error, Read, Seek, SeekFrom, Write},
    os::{
        fd::FromRawFd,
        unix::fs::FileExt,
    },
    thread,
    time::{Duration, Instant},
};

unsafe extern "C" {
    fn mount(
        from: *const i8,
        to: *const i8,
        kind: *const i8,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn reboot(how: c_int) -> c_int;
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn connect(socket: c_int, address: *const c_void, length: u32) -> c_int;
}

const AF_VSOCK: u16 = 40;
const SOCK_STREAM: c_int = 1;

fn main() {
    if let Err(why) = run() {
        println!("@@ WRONG {why}");
    }
    // SAFETY: the call takes a number: restart.
    unsafe { reboot(0x0123_4567) };
}

fn run() -> Result<(), String> {
    mount_on("devtmpfs", "/dev", "devtmpfs")?;
    mount_on("root", "/a", "virtiofs")?;
    let mut host = vsock(7)?;
    let mut other = vsock(8)?;
    let mut orders = BufReader::new(tell("clone", host.try_clone())?);
    tell("greet", writeln!(host, "{}", look()?))?;
    // The machine is saved while this waits.
    let mut order = String::new();
    tell("wait", orders.read_line(&mut order))?;
    let (filled, order) = order.trim().split_once(' ').unwrap_or(("", order.trim()));
    if filled == "filled" {
        let begin = Instant::now();
        while length("/dev/vda")? == 0 && begin.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_millis(1));
        }
    }
    let mut report = look()?;
    if length("/dev/vdb")? > 0 {
        let disk = tell("open vdb", OpenOptions::new().write(true).open("/dev/vdb"))?;
        tell("write", disk.write_all_at(order.as_bytes(), 512))?;
        tell("sync", disk.sync_all())?;
        tell("write in the share", fs::write("/a/rw/made", order))?;
    }
    let mut byte = [0];
    let heard = other.read(&mut byte).map_err(|error| error.kind());
    report.push_str(&format!(" other: {heard:?}"));
    tell("report", writeln!(host, "{report}"))?;
    // Until the host closes it.
    tell("end", orders.read_line(&mut String::new()))?;
    Ok(())
}

/// The disks' lengths, the first word on the first, and what is in the share.
fn look() -> Result<String, String> {
    let (first, second) = (length("/dev/vda")?, length("/dev/vdb")?);
    let mut word = vec![0; 8];
    let read = tell("open vda", File::open("/dev/vda"))?.read(&mut word);
    let word = match read {
        Ok(count) => String::from_utf8_lossy(&word[..count]).into_owned(),
        Err(error) => format!("{:?}", error.kind()),
    };
    let mut names = Vec::new();
    for entry in tell("list", fs::read_dir("/a"))? {
        names.push(tell("list", entry)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let text = fs::read_to_string("/a/rw/hello").unwrap_or_else(|error| format!("{:?}", error.kind()));
    Ok(format!("disks: {first} {second} word: {word:?} share: {names:?} {text:?}"))
}

fn length(disk: &str) -> Result<u64, String> {
    tell(disk, tell(disk, File::open(disk))?.seek(SeekFrom::End(0)))
}

fn mount_on(from: &str, to: &str, kind: &str) -> Result<(), String> {
    // What is there already stays.
    let _ = fs::create_dir(to);
    let [source, on, what] = [from, to, kind].map(|text| CString::new(text).unwrap_or_default());
    // SAFETY: the strings are zero-terminated.
    let done =
        unsafe { mount(source.as_ptr(), on.as_ptr(), what.as_ptr(), 0, std::ptr::null()) };
    if done != 0 && to != "/dev" {
        return Err(format!("mount {from}: {}", Error::last_os_error()));
    }
    Ok(())
}

/// A connection to a port of the host.
fn vsock(port: u32) -> Result<File, String> {
    // struct sockaddr_vm: family, reserved, port, cid, zeros.
    let mut address = [0u8; 16];
    address[..2].copy_from_slice(&AF_VSOCK.to_ne_bytes());
    address[4..8].copy_from_slice(&port.to_ne_bytes());
    address[8..12].copy_from_slice(&2u32.to_ne_bytes());
    // SAFETY: the calls take numbers and an address that outlives them.
    let file = unsafe {
        let socket = socket(AF_VSOCK.into(), SOCK_STREAM, 0);
        if socket < 0 || connect(socket, address.as_ptr().cast(), 16) != 0 {
            return Err(format!("connect to port {port}: {}", Error::last_os_error()));
        }
        File::from_raw_fd(socket)
    };
    Ok(file)
}

fn tell<T>(what: &str, result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}
