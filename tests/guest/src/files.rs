//! `probe files DIRECTORY`: what a file system must be able to do, one line `NAME RESULT` for each.
//! `probe many DIRECTORY COUNT`: makes, finds and removes so many files and says how long each took.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink},
            net::UnixListener,
        },
    },
    path::Path,
    time::Instant,
};

use rustix::{
    fs::{Mode, OFlags, XattrFlags, getxattr, mkfifoat, setxattr},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

use super::look::code;

type Check = fn(&Path) -> io::Result<String>;

const CHECKS: [(&str, Check); 16] = [
    ("append", append),
    ("truncate", truncate),
    ("sparse", sparse),
    ("rename", rename),
    ("rename-exchange", exchange),
    ("rename-noreplace", no_replace),
    ("hardlink", hard_link),
    ("symlink", symbolic_link),
    ("unlinked", unlinked),
    ("tmpfile", temporary),
    ("mmap-shared", shared_map),
    ("xattr", extended_attributes),
    ("fifo", fifo),
    ("socket", socket),
    ("owner", owner),
    ("lock", lock),
];

pub(crate) fn check(directory: &str) -> Result<(), String> {
    let directory = Path::new(directory);
    for (name, check) in CHECKS {
        let place = directory.join(name);
        let done = fs::create_dir(&place).and_then(|()| check(&place));
        println!("{name} {}", done.unwrap_or_else(|error| code(&error)));
    }
    Ok(())
}

fn append(at: &Path) -> io::Result<String> {
    fs::write(at.join("f"), "one\n")?;
    OpenOptions::new().append(true).open(at.join("f"))?.write_all(b"two\n")?;
    Ok(format!("{:?}", fs::read_to_string(at.join("f"))?))
}

fn truncate(at: &Path) -> io::Result<String> {
    fs::write(at.join("f"), vec![b'x'; 10_000])?;
    let file = OpenOptions::new().write(true).open(at.join("f"))?;
    file.set_len(3)?;
    file.set_len(6)?;
    Ok(format!("{:?}", fs::read(at.join("f"))?))
}

fn sparse(at: &Path) -> io::Result<String> {
    let mut file = File::create(at.join("f"))?;
    file.seek(SeekFrom::Start(1 << 30))?;
    file.write_all(b"end")?;
    file.sync_all()?;
    let metadata = fs::metadata(at.join("f"))?;
    Ok(format!("{} {}", metadata.size(), metadata.blocks() < 1000))
}

fn rename(at: &Path) -> io::Result<String> {
    fs::write(at.join("a"), "a")?;
    fs::write(at.join("b"), "b")?;
    fs::rename(at.join("a"), at.join("b"))?;
    fs::create_dir(at.join("d"))?;
    fs::rename(at.join("b"), at.join("d/b"))?;
    fs::rename(at.join("d"), at.join("e"))?;
    fs::read_to_string(at.join("e/b"))
}

fn rename_with(at: &Path, flags: u32) -> io::Result<()> {
    let path = |name: &str| CString::new(at.join(name).as_os_str().as_bytes());
    let (a, b) = (path("a")?, path("b")?);
    // SAFETY: both paths live until the call has returned.
    match unsafe { libc::renameat2(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), flags) }
    {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn exchange(at: &Path) -> io::Result<String> {
    fs::write(at.join("a"), "a")?;
    fs::write(at.join("b"), "b")?;
    rename_with(at, libc::RENAME_EXCHANGE)?;
    Ok(format!("{} {}", fs::read_to_string(at.join("a"))?, fs::read_to_string(at.join("b"))?))
}

fn no_replace(at: &Path) -> io::Result<String> {
    fs::write(at.join("a"), "a")?;
    fs::write(at.join("b"), "b")?;
    rename_with(at, libc::RENAME_NOREPLACE).map(|()| "replaced".to_owned())
}

fn hard_link(at: &Path) -> io::Result<String> {
    fs::write(at.join("a"), "a")?;
    fs::hard_link(at.join("a"), at.join("b"))?;
    fs::write(at.join("b"), "both")?;
    let (a, b) = (fs::metadata(at.join("a"))?, fs::metadata(at.join("b"))?);
    Ok(format!("{} {} {}", fs::read_to_string(at.join("a"))?, a.nlink(), a.ino() == b.ino()))
}

fn symbolic_link(at: &Path) -> io::Result<String> {
    fs::write(at.join("a"), "a")?;
    symlink("a", at.join("b"))?;
    symlink("/nowhere", at.join("c"))?;
    let gone = fs::read(at.join("c")).err().map(|error| code(&error));
    Ok(format!("{} {}", fs::read_to_string(at.join("b"))?, gone.unwrap_or_default()))
}

fn unlinked(at: &Path) -> io::Result<String> {
    let mut file = File::options().read(true).write(true).create_new(true).open(at.join("f"))?;
    fs::remove_file(at.join("f"))?;
    file.write_all(b"still here")?;
    file.seek(SeekFrom::Start(0))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(format!("{text} {}", file.metadata()?.nlink()))
}

fn temporary(at: &Path) -> io::Result<String> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).open(at)?;
    file.write_all_at(b"unnamed", 0)?;
    let mut bytes = [0; 7];
    file.read_exact_at(&mut bytes, 0)?;
    let before = fs::read_dir(at)?.count();
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(
        rustix::fs::CWD,
        from.as_str(),
        rustix::fs::CWD,
        at.join("named"),
        rustix::fs::AtFlags::SYMLINK_FOLLOW,
    )?;
    Ok(format!("{before} {}", fs::read_to_string(at.join("named"))?))
}

fn shared_map(at: &Path) -> io::Result<String> {
    let file = File::options().read(true).write(true).create_new(true).open(at.join("f"))?;
    file.set_len(8192)?;
    // SAFETY: a new mapping of a file that nothing else maps; its two pages are written within their bounds and then unmapped.
    unsafe {
        let map = mmap(
            std::ptr::null_mut(),
            8192,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            &file,
            0,
        )?;
        map.cast::<u8>().add(5000).write(b'!');
        rustix::mm::msync(map, 8192, rustix::mm::MsyncFlags::SYNC)?;
        munmap(map, 8192)?;
    }
    let mut byte = [0];
    File::open(at.join("f"))?.read_exact_at(&mut byte, 5000)?;
    Ok(char::from(byte[0]).to_string())
}

fn extended_attributes(at: &Path) -> io::Result<String> {
    let file = at.join("f");
    fs::write(&file, "")?;
    setxattr(&file, "user.colour", b"blue", XattrFlags::CREATE)?;
    let mut value = [0; 16];
    let length = getxattr(&file, "user.colour", &mut value[..])?;
    Ok(String::from_utf8_lossy(&value[..length]).into_owned())
}

fn fifo(at: &Path) -> io::Result<String> {
    mkfifoat(rustix::fs::CWD, at.join("f"), Mode::from_raw_mode(0o600))?;
    let reader = rustix::fs::open(at.join("f"), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
    OpenOptions::new().write(true).open(at.join("f"))?.write_all(b"through")?;
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text)?;
    Ok(text)
}

fn socket(at: &Path) -> io::Result<String> {
    let listener = UnixListener::bind(at.join("s"))?;
    let mut client = std::os::unix::net::UnixStream::connect(at.join("s"))?;
    client.write_all(b"hello")?;
    drop(client);
    let mut text = String::new();
    listener.accept()?.0.read_to_string(&mut text)?;
    Ok(text)
}

fn owner(at: &Path) -> io::Result<String> {
    let file = at.join("f");
    fs::write(&file, "")?;
    chown(&file, Some(1234), Some(5678))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751))?;
    let metadata = fs::metadata(&file)?;
    Ok(format!("{}:{} {:o}", metadata.uid(), metadata.gid(), metadata.mode() & 0o7777))
}

fn lock(at: &Path) -> io::Result<String> {
    use rustix::fs::{FlockOperation, flock};
    let open = || File::options().create(true).truncate(false).write(true).open(at.join("f"));
    let (first, second) = (open()?, open()?);
    flock(&first, FlockOperation::LockExclusive)?;
    let refused = flock(&second, FlockOperation::NonBlockingLockExclusive).is_err();
    Ok(format!("refused {refused}"))
}

pub(crate) fn many(directory: &str, count: u64) -> Result<(), String> {
    let failed = |error: io::Error| format!("{directory}: {error}");
    let at = Path::new(directory).join("many");
    fs::create_dir(&at).map_err(failed)?;
    let name = |index: u64| at.join(format!("file-{index}"));
    let timed =
        |what: &str, begin: Instant| println!("{what} {count} {}", begin.elapsed().as_micros());
    let begin = Instant::now();
    for index in 0..count {
        fs::write(name(index), b"content of a small file\n").map_err(failed)?;
    }
    timed("create", begin);
    let begin = Instant::now();
    for index in 0..count {
        fs::metadata(name(index)).map_err(failed)?;
    }
    timed("stat", begin);
    let begin = Instant::now();
    let mut bytes = 0;
    for index in 0..count {
        bytes += fs::read(name(index)).map_err(failed)?.len();
    }
    timed("read", begin);
    let begin = Instant::now();
    let found = fs::read_dir(&at).map_err(failed)?.count();
    timed("list", begin);
    let begin = Instant::now();
    fs::remove_dir_all(&at).map_err(failed)?;
    timed("remove", begin);
    println!("found {found} bytes {bytes}");
    Ok(())
}

/// `probe count DIRECTORY`: how many entries reading it gives, and how many different ones.
pub(crate) fn count(directory: &str) -> Result<(), String> {
    let failed = |error: io::Error| format!("{directory}: {error}");
    let mut names = std::collections::HashSet::new();
    let mut entries = 0;
    for item in fs::read_dir(directory).map_err(failed)? {
        names.insert(item.map_err(failed)?.file_name());
        entries += 1;
    }
    println!("entries {entries} different {}", names.len());
    Ok(())
}
