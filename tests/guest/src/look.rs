//! `probe look [WHAT…]`: all that a process sees of its container, as one line of JSON. WHAT is `path=PATH` (what it is and what
//! can be done with it), `list=DIRECTORY`, `read=FILE` or `sysctl=NAME`.

use std::{
    env, fs,
    io::{self, Read},
    mem::MaybeUninit,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::{major, minor};
use serde_json::{Map, Value, json};

const LIMITS: [(&str, u32); 16] = [
    ("RLIMIT_CPU", 0),
    ("RLIMIT_FSIZE", 1),
    ("RLIMIT_DATA", 2),
    ("RLIMIT_STACK", 3),
    ("RLIMIT_CORE", 4),
    ("RLIMIT_RSS", 5),
    ("RLIMIT_NPROC", 6),
    ("RLIMIT_NOFILE", 7),
    ("RLIMIT_MEMLOCK", 8),
    ("RLIMIT_AS", 9),
    ("RLIMIT_LOCKS", 10),
    ("RLIMIT_SIGPENDING", 11),
    ("RLIMIT_MSGQUEUE", 12),
    ("RLIMIT_NICE", 13),
    ("RLIMIT_RTPRIO", 14),
    ("RLIMIT_RTTIME", 15),
];

pub(crate) fn print(wanted: &[&str]) -> Result<(), String> {
    // Before anything else opens a file.
    let descriptors = descriptors();
    let mut seen = json!({
        "args": env::args().collect::<Vec<_>>(),
        "env": env::vars_os().map(|(key, value)| format!("{}={}", key.display(), value.display())).collect::<Vec<_>>(),
        "cwd": env::current_dir().map(|path| path.display().to_string()).unwrap_or_default(),
        "pid": std::process::id(),
        "status": status(),
        "names": names(),
        "rlimits": limits(),
        "namespaces": links("/proc/self/ns"),
        "descriptors": descriptors,
        "mounts": mounts(),
        "scheduler": scheduler(),
        "terminal": terminal(),
    });
    for (key, file) in [
        ("oom_score_adj", "/proc/self/oom_score_adj"),
        ("personality", "/proc/self/personality"),
        ("cgroup", "/proc/self/cgroup"),
        ("uid_map", "/proc/self/uid_map"),
        ("gid_map", "/proc/self/gid_map"),
        ("timens_offsets", "/proc/self/timens_offsets"),
        ("loginuid", "/proc/self/loginuid"),
    ] {
        seen[key] = text(file);
    }
    let mut more = Map::new();
    for what in wanted {
        let (kind, name) = what.split_once('=').ok_or_else(|| format!("{what} is no KIND=NAME"))?;
        let found = match kind {
            "path" => path(Path::new(name)),
            "read" => text(name),
            "sysctl" => text(&format!("/proc/sys/{}", name.replace('.', "/"))),
            "list" => list(name),
            _ => return Err(format!("{what}: there are path=, list=, read= and sysctl=")),
        };
        more.insert((*what).to_owned(), found);
    }
    seen["wanted"] = Value::Object(more);
    println!("{seen}");
    Ok(())
}

/// A file's text without the last line's end, or `{"error": …}`.
fn text(file: &str) -> Value {
    let mut bytes = Vec::new();
    match fs::File::open(file).and_then(|file| file.take(1 << 20).read_to_end(&mut bytes)) {
        Ok(_) => json!(String::from_utf8_lossy(&bytes).trim_end_matches('\n')),
        Err(error) => json!({"error": code(&error)}),
    }
}

fn list(directory: &str) -> Value {
    match fs::read_dir(directory) {
        Ok(items) => {
            let mut names: Vec<_> =
                items.flatten().map(|item| item.file_name().display().to_string()).collect();
            names.sort();
            json!(names)
        }
        Err(error) => json!({"error": code(&error)}),
    }
}

/// The name of an error number, as errno(3) has it.
pub(crate) fn code(error: &io::Error) -> String {
    let names = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::EIO, "EIO"),
        (libc::ENXIO, "ENXIO"),
        (libc::EBADF, "EBADF"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EACCES, "EACCES"),
        (libc::EBUSY, "EBUSY"),
        (libc::EEXIST, "EEXIST"),
        (libc::EXDEV, "EXDEV"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::EISDIR, "EISDIR"),
        (libc::EINVAL, "EINVAL"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EROFS, "EROFS"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ENOTTY, "ENOTTY"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
    ];
    let number = error.raw_os_error().unwrap_or(0);
    let name = names.iter().find(|(known, _)| *known == number);
    name.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

/// The fields of `/proc/self/status` that a container decides.
fn status() -> Value {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    let wanted = [
        "Umask",
        "Uid",
        "Gid",
        "Groups",
        "PPid",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Cpus_allowed_list",
        "SigIgn",
        "SigBlk",
    ];
    let found = fields.filter(|(key, _)| wanted.contains(key)).map(|(key, value)| {
        let words = value.split_whitespace().collect::<Vec<_>>().join(" ");
        (key.to_owned(), json!(words))
    });
    Value::Object(found.collect())
}

fn names() -> Value {
    let name = rustix::system::uname();
    json!({
        "host": name.nodename().to_string_lossy(),
        "domain": name.domainname().to_string_lossy(),
        "kernel": name.release().to_string_lossy(),
        "machine": name.machine().to_string_lossy(),
    })
}

/// `[soft, hard]` of each limit; -1 is none.
fn limits() -> Value {
    let each = LIMITS.iter().map(|(name, number)| {
        let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
        // SAFETY: the kernel writes one `rlimit` there; all zeroes is a value of it too.
        let limit = unsafe {
            libc::getrlimit(*number, limit.as_mut_ptr());
            limit.assume_init()
        };
        let number =
            |value: u64| if value == libc::RLIM_INFINITY { json!(-1) } else { json!(value) };
        ((*name).to_owned(), json!([number(limit.rlim_cur), number(limit.rlim_max)]))
    });
    Value::Object(each.collect())
}

/// Where each link of a directory points.
fn links(directory: &str) -> Value {
    let items = fs::read_dir(directory).into_iter().flatten().flatten();
    let each = items.filter_map(|item| {
        let target = fs::read_link(item.path()).ok()?;
        Some((item.file_name().display().to_string(), json!(target.display().to_string())))
    });
    Value::Object(each.collect())
}

/// Open descriptors but for the one that reads the directory.
fn descriptors() -> Value {
    let mut found = links("/proc/self/fd");
    if let Value::Object(fields) = &mut found {
        fields.retain(|_, target| {
            !target
                .as_str()
                .is_some_and(|target| target.starts_with("/proc/") && target.ends_with("/fd"))
        });
    }
    found
}

/// proc(5), mountinfo.
fn mounts() -> Value {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let each = text.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<_> = left.split(' ').collect();
        let right: Vec<_> = right.split(' ').collect();
        Some(json!({
            "root": left.get(3)?,
            "point": left.get(4)?,
            "options": left.get(5)?.split(',').collect::<Vec<_>>(),
            "propagation": left.get(6..)?,
            "type": right.first()?,
            "source": right.get(1)?,
            "super": right.get(2)?.split(',').collect::<Vec<_>>(),
        }))
    });
    Value::Array(each.collect())
}

fn scheduler() -> Value {
    // SAFETY: these calls ask for numbers of this process and touch no memory of it.
    let (policy, nice, io) = unsafe {
        let policy = libc::sched_getscheduler(0);
        let nice = libc::getpriority(libc::PRIO_PROCESS, 0);
        let io = libc::syscall(libc::SYS_ioprio_get, 1, 0);
        (policy, nice, io)
    };
    let mut parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel writes one `sched_param` there.
    unsafe { libc::sched_getparam(0, &raw mut parameters) };
    json!({"policy": policy, "nice": nice, "priority": parameters.sched_priority, "io_class": io >> 13, "io_priority": io & 0x1fff})
}

fn terminal() -> Value {
    use rustix::termios::{isatty, tcgetwinsize};
    let streams = [isatty(io::stdin()), isatty(io::stdout()), isatty(io::stderr())];
    let size = tcgetwinsize(io::stdout()).map(|size| [size.ws_row, size.ws_col]).ok();
    json!({"streams": streams, "size": size})
}

/// What is at a path, how many bytes can be read of it, and whether it takes a write.
fn path(path: &Path) -> Value {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return json!({"error": code(&error)}),
    };
    let kind = metadata.file_type();
    let name = if kind.is_dir() {
        "directory"
    } else if kind.is_symlink() {
        "link"
    } else if kind.is_fifo() {
        "fifo"
    } else if kind.is_char_device() {
        "char"
    } else if kind.is_block_device() {
        "block"
    } else if kind.is_socket() {
        "socket"
    } else {
        "file"
    };
    let mut found = json!({
        "kind": name,
        "mode": format!("{:04o}", metadata.mode() & 0o7777),
        "owner": format!("{}:{}", metadata.uid(), metadata.gid()),
        "device": format!("{}:{}", major(metadata.rdev()), minor(metadata.rdev())),
        "size": metadata.size(),
        "links": metadata.nlink(),
    });
    if kind.is_symlink() {
        found["target"] =
            json!(fs::read_link(path).map(|path| path.display().to_string()).unwrap_or_default());
        return found;
    }
    let done = |result: io::Result<u64>| {
        result.map_or_else(|error| json!(code(&error)), |count| json!(count))
    };
    // A fifo or a terminal would wait for its other side.
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
    if kind.is_dir() {
        found["read"] = done(fs::read_dir(path).map(|items| items.count() as u64));
        let file = path.join(".probe");
        let made = fs::OpenOptions::new().write(true).create_new(true).open(&file);
        found["write"] = done(made.and_then(|_| fs::remove_file(&file)).map(|()| 0));
    } else {
        let mut bytes = [0; 4096];
        let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
        found["read"] =
            done(opened.and_then(|mut file| file.read(&mut bytes)).map(|count| count as u64));
        let opened = fs::OpenOptions::new().write(true).custom_flags(flags).open(path);
        found["write"] = done(opened.map(|_| 0));
    }
    found
}
