//! `probe calls NAME…`: makes system calls, one line `NAME RESULT` for each: what a seccomp filter or a capability lets through.

use std::{ffi::CString, io};

use super::look::code;

pub(crate) fn run(names: &[&str]) -> Result<(), String> {
    for name in names {
        let (call, argument) = name.split_once(':').unwrap_or((name, ""));
        let result = make(call, argument)?;
        let said = match result {
            -1 => code(&io::Error::last_os_error()),
            other => other.to_string(),
        };
        println!("{name} {said}");
    }
    Ok(())
}

fn make(call: &str, argument: &str) -> Result<i64, String> {
    let number = || argument.parse::<i64>().map_err(|error| format!("{call}:{argument}: {error}"));
    let path = CString::new(argument).map_err(|error| format!("{call}: {error}"))?;
    let path = path.as_ptr();
    // SAFETY: the kernel reads strings that live until the call has returned, and writes nothing of this process.
    let result = unsafe {
        match call {
            "getppid" => libc::syscall(libc::SYS_getppid),
            "getpid" => libc::syscall(libc::SYS_getpid),
            "mkdir" => libc::syscall(libc::SYS_mkdir, path, 0o755),
            "rmdir" => libc::syscall(libc::SYS_rmdir, path),
            "chmod" => libc::syscall(libc::SYS_chmod, path, 0o700),
            "chown" => libc::syscall(libc::SYS_chown, path, 5, 6),
            "chroot" => libc::syscall(libc::SYS_chroot, path),
            "mknod" => libc::syscall(libc::SYS_mknod, path, libc::S_IFCHR | 0o600, 0x103),
            "mknod-disk" => libc::syscall(libc::SYS_mknod, path, libc::S_IFBLK | 0o600, 0xfe00),
            "open" => libc::syscall(libc::SYS_open, path, libc::O_RDONLY | libc::O_NONBLOCK),
            "mount" => {
                libc::syscall(libc::SYS_mount, c"none".as_ptr(), path, c"tmpfs".as_ptr(), 0, 0)
            }
            "umount" => libc::syscall(libc::SYS_umount2, path, 0),
            "remount" => {
                libc::syscall(libc::SYS_mount, 0, path, 0, libc::MS_REMOUNT | libc::MS_BIND, 0)
            }
            "sethostname" => libc::syscall(libc::SYS_sethostname, path, argument.len()),
            "unshare" => libc::syscall(libc::SYS_unshare, number()?),
            "personality" => libc::syscall(libc::SYS_personality, number()?),
            "socket" => libc::syscall(libc::SYS_socket, number()?, libc::SOCK_DGRAM, 0),
            "kill" => libc::syscall(libc::SYS_kill, number()?, 0),
            "setuid" => libc::syscall(libc::SYS_setuid, number()?),
            "nice" => libc::syscall(libc::SYS_setpriority, 0, 0, number()?),
            "sync" => libc::syscall(libc::SYS_sync),
            "reboot" => libc::syscall(libc::SYS_reboot, 0, 0, 0, 0),
            "swapoff" => libc::syscall(libc::SYS_swapoff, path),
            "bind" => bind(number()?),
            other => return Err(format!("no call {other}")),
        }
    };
    Ok(result)
}

/// Binds a UDP socket to a port of the loopback: ports below 1024 need CAP_NET_BIND_SERVICE.
fn bind(port: i64) -> i64 {
    let port = u16::try_from(port).unwrap_or(1);
    match std::net::UdpSocket::bind(("127.0.0.1", port)) {
        Ok(_) => 0,
        Err(error) => {
            // SAFETY: errno is this thread's own.
            unsafe { *libc::__errno_location() = error.raw_os_error().unwrap_or(0) };
            -1
        }
    }
}
