//! Makes the attempts of [`bulkhead_scout::ATTEMPTS`]. Each ends at the check of permissions: beyond it, its arguments are wrong, or what was
//! opened is closed unused.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::{
            fs::OpenOptionsExt,
            net::{SocketAddr, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use bulkhead_scout::{ATTEMPTS, Attempt, Handle, Hints, Outcome, Scope};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, makedev, mknodat},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use crate::{
    child,
    files::{mounts, text},
    kernel::{Result, call, name, opened},
};

/// The user's keyring (keyctl(2)).
const USER_KEYRING: usize = -4_i32 as usize;
const SESSION_KEYRING: usize = -3_i32 as usize;
const GET_KEYRING_ID: usize = 0;
const SEARCH: usize = 10;
/// Bytes of the kernel's log that are read.
const LOG: usize = 64 << 10;
const MEMORY_DEVICE: (u32, u32) = (1, 1);
const KVM_DEVICE: (u32, u32) = (10, 232);

/// Makes those that are wanted. `canary` is the pid under which the host's process was seen.
pub(crate) fn all(
    hints: &Hints,
    canary: Option<u32>,
    wanted: fn(Scope) -> bool,
) -> BTreeMap<String, Outcome> {
    let one = |attempt: &Attempt| {
        let result = make(attempt.name, hints, canary);
        (attempt.name.to_owned(), outcome(attempt.name, result))
    };
    ATTEMPTS.iter().filter(|attempt| wanted(attempt.scope)).map(one).collect()
}

fn make(attempt: &str, hints: &Hints, canary: Option<u32>) -> Result<()> {
    match attempt {
        "host-file" => host_file(hints),
        "host-file-handle" => by_handle(hints),
        "host-socket" => host_socket(&hints.socket),
        "host-key" => find_key(&hints.nonce),
        "host-process" => match canary {
            Some(pid) => child::run(|| trace(pid)),
            None => Err(error(libc::ESRCH)),
        },
        "ptrace-neighbour" => child::neighbour(|pid| child::run(|| trace(pid))),
        "device-node" => match hints.block {
            Some(device) => node(FileType::BlockDevice, device, OFlags::RDONLY),
            None => Err(error(libc::ENODEV)),
        },
        "kvm" => node(FileType::CharacterDevice, KVM_DEVICE, OFlags::RDWR),
        "dev-mem" => node(FileType::CharacterDevice, MEMORY_DEVICE, OFlags::RDONLY),
        "kcore" => File::open("/proc/kcore").map(drop),
        "mount" => mount_tmpfs(),
        "unshare-user" => child::run(|| {
            // SAFETY: takes no pointers; this process has one thread and ends next.
            unsafe { call(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize]) }.map(drop)
        }),
        "sysrq" => writing("/proc/sysrq-trigger"),
        "core-pattern" => writing("/proc/sys/kernel/core_pattern"),
        "uevent-helper" => writing("/sys/kernel/uevent_helper"),
        "release-agent" => release_agent(),
        "cgroup-procs" => in_groups("cgroup.procs"),
        _ => system_call(attempt),
    }
}

/// The attempts that are one system call.
fn system_call(attempt: &str) -> Result<()> {
    // Far more than KEXEC_SEGMENT_MAX, and no known flags.
    const NONE: usize = 1 << 20;
    let no_file = usize::MAX;
    let no_flags = 0x7fff_fff0_usize;
    let mut ring = [0_u32; 30];
    let array = [2_u32, 4, 4, 1, 0, 0, 0, 0];
    let mut event = [0_u8; 64];
    // PERF_TYPE_SOFTWARE, the attributes' size, PERF_COUNT_SW_CPU_CLOCK; flags: disabled (perf_event_open(2)).
    event[0] = 1;
    event[4] = 64;
    event[40] = 1;
    let zone = [100_000_i32, 0];
    // SAFETY: pointers are to arrays of the lengths that the calls are told, which live until they return; what is opened is closed, what is
    // loaded is refused for its arguments.
    unsafe {
        match attempt {
            "kexec" => past(libc::SYS_kexec_load, [0, NONE, 0, no_flags], &[libc::EINVAL]),
            "init-module" => {
                past(libc::SYS_init_module, [0, 0, c"".as_ptr() as usize], &[libc::ENOEXEC])
            }
            "finit-module" => past(
                libc::SYS_finit_module,
                [no_file, c"".as_ptr() as usize, no_flags],
                &[libc::EINVAL, libc::EBADF],
            ),
            "delete-module" => past(
                libc::SYS_delete_module,
                [c"no module has this name".as_ptr() as usize, libc::O_NONBLOCK as usize],
                &[libc::ENOENT],
            ),
            "reboot" => past(libc::SYS_reboot, [0, 0, 0, 0], &[libc::EINVAL]),
            "set-clock" => {
                past(libc::SYS_settimeofday, [0, zone.as_ptr() as usize], &[libc::EINVAL])
            }
            "io-ports" => child::run(|| call(libc::SYS_ioperm, [0x80, 1, 1]).map(drop)),
            "bpf" => opened(libc::SYS_bpf, [0, array.as_ptr() as usize, size_of_val(&array)]),
            "perf" => {
                opened(libc::SYS_perf_event_open, [event.as_ptr() as usize, no_file, 0, no_file, 8])
            }
            "io-uring" => opened(libc::SYS_io_uring_setup, [1, ring.as_mut_ptr() as usize]),
            "userfaultfd" => {
                opened(libc::SYS_userfaultfd, [(libc::O_CLOEXEC | libc::O_NONBLOCK) as usize])
            }
            "keyctl" => call(libc::SYS_keyctl, [GET_KEYRING_ID, SESSION_KEYRING, 0]).map(drop),
            "raw-socket" => socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
            "packet-socket" => socket(libc::AF_PACKET, libc::SOCK_RAW, 0),
            "vsock" => socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0),
            _ => Err(error(libc::ENOSYS)),
        }
    }
}

/// A call that was let through is one that complains about its arguments with one of these errors.
///
/// # Safety
/// As [`call`].
unsafe fn past<const N: usize>(
    number: libc::c_long,
    arguments: [usize; N],
    through: &[i32],
) -> Result<()> {
    // SAFETY: as the caller promises.
    match unsafe { call(number, arguments) } {
        Err(error) if error.raw_os_error().is_some_and(|code| through.contains(&code)) => Ok(()),
        other => other.map(drop),
    }
}

/// What is not there is told from what is refused.
fn outcome(attempt: &str, result: Result<()>) -> Outcome {
    let Err(error) = result else { return Outcome::Allowed };
    let absent = [
        libc::ENOSYS,
        libc::ENOENT,
        libc::ENODEV,
        libc::ENXIO,
        libc::ESRCH,
        libc::ECONNREFUSED,
        libc::EAFNOSUPPORT,
        libc::EPROTONOSUPPORT,
        libc::ENOKEY,
        libc::ESTALE,
    ];
    // A filter answers so for these sockets, too, and nothing tells which it was.
    let is_absent = error.raw_os_error().is_some_and(|code| absent.contains(&code));
    let said = if attempt == "host-file" && error.kind() == io::ErrorKind::InvalidData {
        "another file".to_owned()
    } else {
        name(&error)
    };
    if is_absent || said == "another file" { Outcome::Absent(said) } else { Outcome::Denied(said) }
}

/// Bytes of the kernel's log.
pub(crate) fn log() -> Option<u64> {
    const READ_ALL: usize = 3;
    let mut buffer = vec![0_u8; LOG];
    // SAFETY: the buffer is as long as the call is told.
    let read = unsafe { call(libc::SYS_syslog, [READ_ALL, buffer.as_mut_ptr() as usize, LOG]) };
    read.ok().and_then(|read| u64::try_from(read).ok())
}

/// Looks for a key of type `user` in the user's keyring.
pub(crate) fn find_key(name: &str) -> Result<()> {
    let name = CString::new(name)?;
    let kind = c"user";
    let arguments = [SEARCH, USER_KEYRING, kind.as_ptr() as usize, name.as_ptr() as usize, 0];
    // SAFETY: two strings that live until the call returns.
    unsafe { call(libc::SYS_keyctl, arguments) }.map(drop)
}

fn error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// The file is the host's when it holds the word.
fn is_canary(mut file: impl Read, nonce: &str) -> Result<()> {
    let mut text = vec![0; nonce.len()];
    let read = file.read(&mut text)?;
    let same = !nonce.is_empty() && text.get(..read) == Some(nonce.as_bytes());
    if same { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn host_file(hints: &Hints) -> Result<()> {
    is_canary(File::open(&hints.file)?, &hints.nonce)
}

/// By way of every mount that there is: a handle counts in the whole file system of each.
fn by_handle(hints: &Hints) -> Result<()> {
    let Some(handle) = &hints.handle else { return Err(error(libc::EOPNOTSUPP)) };
    let raw = raw_handle(handle);
    let mut last = error(libc::ESTALE);
    for place in mounts().iter().map(|mount| &mount.point) {
        // What is not a regular file or directory is not opened.
        if !fs::metadata(place).is_ok_and(|data| data.is_file() || data.is_dir()) {
            continue;
        }
        let Ok(place) = File::open(place) else { continue };
        let flags = (libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC) as usize;
        let Ok(at) = usize::try_from(place.as_raw_fd()) else { continue };
        // SAFETY: the handle is a header and as many bytes as it says.
        let found =
            unsafe { call(libc::SYS_open_by_handle_at, [at, raw.as_ptr() as usize, flags]) };
        match found.map(descriptor) {
            Ok(file) => match is_canary(File::from(file?), &hints.nonce) {
                Err(_) => last = error(libc::ESTALE),
                same => return same,
            },
            Err(refused) if refused.raw_os_error() == Some(libc::EPERM) => return Err(refused),
            Err(_) => {}
        }
    }
    Err(last)
}

/// `struct file_handle`.
fn raw_handle(handle: &Handle) -> Vec<u8> {
    let bytes = handle.bytes.iter().copied().take(128);
    let mut raw = Vec::from(u32::try_from(bytes.len()).unwrap_or(0).to_ne_bytes());
    raw.extend(handle.kind.to_ne_bytes());
    raw.extend(bytes);
    raw
}

fn descriptor(number: i64) -> Result<OwnedFd> {
    let number = i32::try_from(number).map_err(io::Error::other)?;
    // SAFETY: a system call has just made it, so nobody else has it.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(number) })
}

fn host_socket(name: &str) -> Result<()> {
    let address = SocketAddr::from_abstract_name(name)?;
    UnixStream::connect_addr(&address).map(drop)
}

/// Begins to trace a process, which does not stop for it; the caller's end ends it.
fn trace(pid: u32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call(libc::SYS_ptrace, [libc::PTRACE_SEIZE as usize, pid as usize, 0, 0]) }.map(drop)
}

fn socket(family: i32, kind: i32, protocol: i32) -> Result<()> {
    let number = |number: i32| usize::try_from(number).unwrap_or(0);
    let kind = number(kind | libc::SOCK_CLOEXEC);
    // SAFETY: no pointers.
    unsafe { opened(libc::SYS_socket, [number(family), kind, number(protocol)]) }
}

/// A name for something that is made where containers may make something.
fn scratch() -> Result<PathBuf> {
    let places = ["/dev", "/tmp", "/run", "/"].map(Path::new);
    let mut last = error(libc::EROFS);
    for place in places {
        let path = place.join(format!(".bulkhead-scout-{}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => return fs::remove_dir(&path).map(|()| path),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn node(kind: FileType, (major, minor): (u32, u32), flags: OFlags) -> Result<()> {
    let path = scratch()?;
    mknodat(CWD, &path, kind, Mode::RUSR | Mode::WUSR, makedev(major, minor))?;
    let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&path, flags, Mode::empty());
    fs::remove_file(&path)?;
    opened.map(drop).map_err(io::Error::from)
}

fn mount_tmpfs() -> Result<()> {
    with_mount("tmpfs", c"size=4k", |_| Ok(()))
}

fn with_mount(
    kind: &str,
    options: &std::ffi::CStr,
    look: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let path = scratch()?;
    fs::create_dir(&path)?;
    let mounted = mount("none", &path, kind, MountFlags::empty(), options);
    let seen = mounted.map_err(io::Error::from).and_then(|()| {
        let seen = look(&path);
        unmount(&path, UnmountFlags::DETACH)?;
        seen
    });
    fs::remove_dir(&path)?;
    seen
}

/// Opens for writing, and neither makes nor empties it.
fn writing(path: impl AsRef<Path>) -> Result<()> {
    File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path).map(drop)
}

/// A file of the control groups that are mounted.
fn in_groups(file: &str) -> Result<()> {
    let mut last = error(libc::ENOENT);
    for mount in mounts().iter().filter(|mount| mount.kind.starts_with("cgroup")) {
        match writing(mount.point.join(file)) {
            Err(error) => last = error,
            done => return done,
        }
    }
    Err(last)
}

/// Where none is mounted, a hierarchy of version 1 that exists is.
fn release_agent() -> Result<()> {
    let groups = text("/proc/self/cgroup").unwrap_or_default();
    let controllers = groups.lines().filter_map(|line| line.split(':').nth(1));
    let first = in_groups("release_agent");
    let Some(controllers) = controllers.into_iter().find(|names| !names.is_empty()) else {
        return first;
    };
    if first.is_ok() {
        return first;
    }
    let options = match controllers.strip_prefix("name=") {
        Some(name) => format!("none,name={name}"),
        None => controllers.to_owned(),
    };
    with_mount("cgroup", &CString::new(options)?, |place| writing(place.join("release_agent")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attempt_has_a_way_to_make_it() {
        // These end the same wherever this runs, and prove that the names are those of the table.
        let hints =
            Hints { nonce: "nobody has this".into(), file: "/no/such".into(), ..Hints::default() };
        for (attempt, expected) in [
            ("host-file", Outcome::Absent("ENOENT".into())),
            ("host-process", Outcome::Absent("ESRCH".into())),
            ("host-socket", Outcome::Absent("ECONNREFUSED".into())),
            ("device-node", Outcome::Absent("ENODEV".into())),
        ] {
            assert_eq!(outcome(attempt, make(attempt, &hints, None)), expected, "{attempt}");
        }
        let mut names: Vec<&str> = ATTEMPTS.iter().map(|attempt| attempt.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ATTEMPTS.len());
    }

    #[test]
    fn another_file_at_the_hosts_path_is_not_the_hosts() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut hints = Hints {
            nonce: "the word".into(),
            file: file.path().to_string_lossy().into_owned(),
            ..Hints::default()
        };
        io::Write::write_all(&mut file, b"the word").unwrap();
        assert_eq!(outcome("host-file", host_file(&hints)), Outcome::Allowed);
        hints.nonce = "the wold".into();
        let other = outcome("host-file", host_file(&hints));
        assert_eq!(other, Outcome::Absent("another file".into()));
    }

    #[test]
    fn a_handle_has_its_length_first() {
        let raw = raw_handle(&Handle { kind: 7, bytes: vec![1, 2, 3] });
        assert_eq!(raw, [3, 0, 0, 0, 7, 0, 0, 0, 1, 2, 3]);
        assert_eq!(raw_handle(&Handle { kind: 7, bytes: vec![0; 4096] }).len(), 136);
    }
}
