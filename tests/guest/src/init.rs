//! The probe as the first process of a guest, for the benchmark: says that it runs, reads its second disk, says how long
//! that took (or what files cost, [`costs`]), and ends the machine. It makes no other process, so that it runs on a software KVM without assistance too.

use std::{
    fs::File,
    io::{Read, Write},
    time::Instant,
};

use crate::costs;
use rustix::{
    mount::{MountFlags, mount},
    system::{RebootCommand, reboot},
};

/// Bytes that are read from the disk.
const LENGTH: usize = 4 << 20;

pub(crate) fn run() -> Result<(), String> {
    say("first-output");
    // The kernel hands words of its command line on that it does not know.
    let files = std::env::var_os("files").is_some();
    let result = prepare().and_then(|()| if files { costs::measure() } else { measure() });
    if let Err(reason) = &result {
        say(&format!("failed {reason}"));
    }
    reboot(RebootCommand::Restart).map_err(|error| format!("reboot: {error}"))?;
    result
}

fn prepare() -> Result<(), String> {
    for (kind, place) in [("devtmpfs", "/dev"), ("proc", "/proc")] {
        match mount(kind, place, kind, MountFlags::empty(), None) {
            // The kernel may have mounted it already.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => return Err(format!("{place}: {error}")),
        }
    }
    Ok(())
}

fn measure() -> Result<(), String> {
    let words = std::fs::read_to_string("/proc/cmdline");
    say(&format!("cmdline {}", words.map_err(|error| format!("/proc/cmdline: {error}"))?.trim()));
    let failed = |error: std::io::Error| format!("/dev/vdb: {error}");
    let mut disk = File::open("/dev/vdb").map_err(failed)?;
    let mut chunk = vec![0; 64 << 10];
    say("read-begin");
    let begin = Instant::now();
    let mut left = LENGTH;
    while left > 0 {
        disk.read_exact(&mut chunk).map_err(failed)?;
        left -= chunk.len();
    }
    let took = begin.elapsed();
    say("read-end");
    say(&format!("read {LENGTH} bytes {} us", took.as_micros()));
    Ok(())
}

pub(crate) fn say(line: &str) {
    // There is nobody to tell when the console is gone.
    let _ = writeln!(std::io::stdout(), "@@ {line}");
}
