//! The first process of a guest that looks at its shares from inside. The test compiles it, static and without crates.
//! It says what it finds on its console, a line each, and ends the machine; the last line is "all good" or what was wrong.

use std::{
    ffi::{CString, c_char, c_int, c_long, c_ulong, c_void},
    fs::{self, File, OpenOptions, Permissions},
    io::{Error, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{
            fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink},
            net::UnixListener,
        },
    },
    path::Path,
    time::{Duration, Instant},
};

type Text = *const c_char;

unsafe extern "C" {
    fn mount(from: Text, to: Text, kind: Text, flags: c_ulong, data: *const c_void) -> c_int;
    fn reboot(how: c_int) -> c_int;
    fn renameat2(from: c_int, old: Text, to: c_int, new: Text, flags: u32) -> c_int;
    fn linkat(from: c_int, old: Text, to: c_int, new: Text, flags: c_int) -> c_int;
    fn mknod(path: Text, mode: u32, device: u64) -> c_int;
    fn mmap(
        at: *mut c_void,
        length: usize,
        rights: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> *mut c_void;
    fn msync(at: *mut c_void, length: usize, flags: c_int) -> c_int;
    fn setxattr(path: Text, name: Text, value: *const c_void, size: usize, flags: c_int) -> c_int;
    fn getxattr(path: Text, name: Text, value: *mut c_void, size: usize) -> isize;
    fn fallocate(fd: c_int, mode: c_int, offset: i64, length: i64) -> c_int;
    fn lseek(fd: c_int, offset: i64, whence: c_int) -> i64;
    fn copy_file_range(
        from: c_int,
        at: *mut i64,
        to: c_int,
        there: *mut i64,
        length: usize,
        flags: u32,
    ) -> isize;
    fn setgroups(count: usize, groups: *const u32) -> c_int;
    fn seteuid(uid: u32) -> c_int;
    fn setegid(gid: u32) -> c_int;
    fn umask(mask: u32) -> u32;
    fn flock(fd: c_int, how: c_int) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
}

type Checked = Result<(), String>;

const AT_FDCWD: c_int = -100;
const AT_EMPTY_PATH: c_int = 0x1000;
const ENOENT: i32 = 2;
const EPERM: i32 = 1;
const EACCES: i32 = 13;
const EROFS: i32 = 30;
const O_TMPFILE: i32 = 0o20_200_000;
const O_DIRECT: i32 = 0o40_000;

fn main() {
    // Like the kernel's own: what a program's parameter would be.
    let measures = std::env::var_os("measure").is_some();
    let done = mount_all().and_then(|()| if measures { measure() } else { check() });
    match &done {
        Ok(()) => say("all good"),
        Err(why) => say(&format!("WRONG {why}")),
    }
    // SAFETY: the call takes a number: restart.
    unsafe { reboot(0x0123_4567) };
}

fn say(line: &str) {
    println!("@@ {line}");
}

fn path(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn mount_all() -> Checked {
    for (from, to, kind) in
        [("devtmpfs", "/dev", "devtmpfs"), ("root", "/a", "virtiofs"), ("binds", "/b", "virtiofs"), ("/dev/vda", "/c", "ext4")]
    {
        // What is there already stays.
        let _ = fs::create_dir(to);
        let (from, on, kind) = (path(from), path(to), path(kind));
        // SAFETY: the strings are zero-terminated.
        let done = unsafe { mount(from.as_ptr(), on.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
        if done != 0 && to.len() == 2 && (to != "/c" || Path::new("/dev/vda").exists()) {
            return Err(format!("mount on {to}: {}", Error::last_os_error()));
        }
    }
    Ok(())
}

fn ok(what: &str, returned: i64) -> Checked {
    if returned < 0 { Err(format!("{what}: {}", Error::last_os_error())) } else { Ok(()) }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: T, should: T) -> Checked {
    if is == should { Ok(()) } else { Err(format!("{what}: {is:?} and not {should:?}")) }
}

fn tell<T>(what: &str, result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

fn refused<T>(what: &str, result: std::io::Result<T>, error: i32) -> Checked {
    same(what, result.err().and_then(|error| error.raw_os_error()), Some(error))
}

fn check() -> Checked {
    for (name, check) in [
        ("contents", contents as fn() -> Checked),
        ("read-only", read_only),
        ("links", links),
        ("mapping", mapping),
        ("unnamed", unnamed),
        ("names", names),
        ("special", special),
        ("attributes", attributes),
        ("users", users),
        ("ranges", ranges),
        ("file systems", file_systems),
        ("live", live),
        ("many", many),
    ] {
        let begin = Instant::now();
        check().map_err(|why| format!("{name}: {why}"))?;
        say(&format!("passed {name} in {} ms", begin.elapsed().as_millis()));
    }
    Ok(())
}

fn contents() -> Checked {
    same("read", tell("hello", fs::read_to_string("/a/rw/hello"))?, "from the host".into())?;
    tell("write", fs::write("/a/rw/made", [7; 300_000]))?;
    let mut file = tell("append", OpenOptions::new().append(true).open("/a/rw/made"))?;
    tell("append", file.write_all(b"end"))?;
    let is = tell("stat", fs::metadata("/a/rw/made"))?;
    say(&format!("stat {} {} {:o} {}", is.ino(), is.size(), is.mode(), is.nlink()));
    let mut options = OpenOptions::new();
    let mut direct = tell("direct", options.read(true).custom_flags(O_DIRECT).open("/a/rw/made"))?;
    let mut all = Vec::new();
    tell("direct", direct.read_to_end(&mut all))?;
    same("direct", (all.len(), all[299_999], &all[300_000..]), (300_003, 7, &b"end"[..]))?;
    // SAFETY: the descriptor is open.
    ok("flock", unsafe { flock(file.as_raw_fd(), 2) }.into())
}

fn read_only() -> Checked {
    same("read", tell("kept", fs::read_to_string("/b/ro/kept"))?, "as it was".into())?;
    refused("write", OpenOptions::new().write(true).open("/b/ro/kept"), EROFS)?;
    refused("create", fs::write("/b/ro/new", ""), EROFS)?;
    refused("unlink", fs::remove_file("/b/ro/kept"), EROFS)?;
    refused("chmod", fs::set_permissions("/b/ro/kept", Permissions::from_mode(0o777)), EROFS)?;
    refused("a file that is shared", fs::write("/b/file", ""), EROFS)?;
    same("it", tell("file", fs::read_to_string("/b/file"))?, "one file".into())?;
    refused("the share's root", fs::write("/b/new", ""), EROFS)
}

fn links() -> Checked {
    // They lead into the guest's own tree, where /etc is not and /init is.
    refused("to /etc/shadow", fs::read("/a/rw/shadow"), ENOENT)?;
    same("up", Path::new("/a/rw/up/init").exists(), true)?;
    refused("above the root", fs::read("/a/../../../../../../etc/shadow"), ENOENT)?;
    tell("symlink", symlink("/nowhere", "/a/rw/link"))?;
    same("target", tell("readlink", fs::read_link("/a/rw/link"))?, "/nowhere".into())
}

/// A mapping of a file's first page: shared (1) or private (2).
fn map(file: &File, flags: c_int) -> Result<*mut u8, String> {
    // SAFETY: a new mapping of a file that is open.
    let at = unsafe { mmap(std::ptr::null_mut(), 4096, 3, flags, file.as_raw_fd(), 0) };
    ok("mmap", at as i64).map(|()| at.cast())
}

fn mapping() -> Checked {
    let mut both = OpenOptions::new();
    both.read(true).write(true);
    let file = tell("map", both.open("/a/rw/hello"))?;
    let (shared, private) = (map(&file, 1)?, map(&file, 2)?);
    // SAFETY: both are mappings of a page of which the file has the first 13 bytes.
    unsafe {
        same("private", *private, b'f')?;
        *private.add(1) = b'X';
        *shared = b'F';
        ok("msync", msync(shared.cast(), 4096, 4).into())?;
    }
    same("seen", tell("read", fs::read_to_string("/a/rw/hello"))?, "From the host".into())?;
    // The same where nothing is cached.
    let file = tell("uncached", both.create(true).truncate(true).open("/b/rw/mapped"))?;
    tell("length", file.set_len(4096))?;
    let at = map(&file, 1)?;
    // SAFETY: as above.
    unsafe {
        *at = b'M';
        ok("msync", msync(at.cast(), 4096, 4).into())
    }
}

fn unnamed() -> Checked {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(O_TMPFILE).mode(0o600);
    let mut file = tell("open", options.open("/a/rw"))?;
    tell("write", file.write_all(b"had no name"))?;
    same("links", tell("stat", file.metadata())?.nlink(), 0)?;
    let (empty, name, fd) = (path(""), path("/a/rw/named"), file.as_raw_fd());
    // SAFETY: the strings are zero-terminated.
    ok("link", unsafe { linkat(fd, empty.as_ptr(), AT_FDCWD, name.as_ptr(), AT_EMPTY_PATH) }.into())
}

fn names() -> Checked {
    for name in ["one", "two"] {
        tell(name, fs::write(format!("/a/rw/{name}"), name))?;
    }
    let rename = |flags| {
        let (one, two) = (path("/a/rw/one"), path("/a/rw/two"));
        // SAFETY: the strings are zero-terminated.
        unsafe { renameat2(AT_FDCWD, one.as_ptr(), AT_FDCWD, two.as_ptr(), flags) }
    };
    same("no replacing", (rename(1), Error::last_os_error().raw_os_error()), (-1, Some(17)))?;
    ok("exchange", rename(2).into())?;
    same("exchanged", tell("one", fs::read_to_string("/a/rw/one"))?, "two".into())?;
    let mut open = tell("open", File::open("/a/rw/two"))?;
    ok("replace", rename(0).into())?;
    let mut text = String::new();
    tell("what was replaced", open.read_to_string(&mut text))?;
    same("what was replaced", text, "one".into())?;
    tell("hard link", fs::hard_link("/a/rw/two", "/a/rw/three"))?;
    let [a, b] = ["two", "three"].map(|name| fs::metadata(format!("/a/rw/{name}")).unwrap());
    same("one file", (a.ino(), a.nlink()), (b.ino(), 2))?;
    tell("mkdir", fs::create_dir_all("/a/rw/d/e/f"))?;
    tell("move", fs::rename("/a/rw/d/e", "/a/rw/e"))?;
    tell("rmdir", fs::remove_dir("/a/rw/e/f"))
}

fn special() -> Checked {
    for (name, mode) in [("fifo", 0o010_666), ("zero", 0o020_666)] {
        let place = path(&format!("/a/rw/{name}"));
        // SAFETY: the string is zero-terminated. The device is /dev/zero's.
        ok(name, unsafe { mknod(place.as_ptr(), mode, 0x105) }.into())?;
    }
    let mut fifo = tell("fifo", OpenOptions::new().read(true).write(true).open("/a/rw/fifo"))?;
    tell("fifo", fifo.write_all(b"ab"))?;
    let mut two = [0; 2];
    tell("fifo", fifo.read_exact(&mut two))?;
    same("fifo", two, *b"ab")?;
    // The guest's own device.
    let mut zero = tell("zero", File::open("/a/rw/zero"))?;
    tell("zero", zero.read_exact(&mut two))?;
    same("zero", two, [0; 2])?;
    let _listener = tell("socket", UnixListener::bind("/a/rw/socket"))?;
    same("socket", tell("stat", fs::metadata("/a/rw/socket"))?.file_type().is_socket(), true)
}

fn attributes() -> Checked {
    let (file, name) = (path("/a/rw/made"), path("user.colour"));
    let mut value = [0u8; 8];
    // SAFETY: the strings are zero-terminated and the buffers of the lengths that are said.
    let got = unsafe {
        ok("setxattr", setxattr(file.as_ptr(), name.as_ptr(), b"red".as_ptr().cast(), 3, 0).into())?;
        getxattr(file.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), 8)
    };
    same("getxattr", (got, &value[..3]), (3, &b"red"[..]))?;
    tell("chown", chown("/a/rw/made", Some(1234), Some(5678)))?;
    tell("chmod", fs::set_permissions("/a/rw/made", Permissions::from_mode(0o640)))
}

/// Becomes a user with one supplementary group for the time of `act`.
fn as_user(act: impl FnOnce() -> Checked) -> Checked {
    // SAFETY: numbers and an array of one.
    unsafe {
        ok("setgroups", setgroups(1, &77).into())?;
        ok("setegid", setegid(1000).into())?;
        ok("seteuid", seteuid(1000).into())?;
        let done = act();
        ok("seteuid", seteuid(0).into())?;
        ok("setegid", setegid(0).into())?;
        done
    }
}

fn users() -> Checked {
    for (name, mode, group) in [("group's", 0o770, 77), ("root's", 0o700, 0)] {
        let name = format!("/a/rw/{name}");
        tell(&name, fs::create_dir(&name))?;
        tell(&name, chown(&name, None, Some(group)))?;
        tell(&name, fs::set_permissions(&name, Permissions::from_mode(mode)))?;
    }
    let open = |mode| Permissions::from_mode(mode);
    tell("set-uid", fs::write("/a/rw/suid", "x"))?;
    tell("set-uid", fs::set_permissions("/a/rw/suid", open(0o4777)))?;
    // SAFETY: a number.
    unsafe { umask(0o027) };
    as_user(|| {
        tell("in the group's directory", fs::write("/a/rw/group's/users", "mine"))?;
        refused("in root's directory", fs::write("/a/rw/root's/users", ""), EACCES)?;
        refused("another's file", fs::set_permissions("/a/rw/suid", open(0o777)), EPERM)?;
        let mut suid = tell("set-uid", OpenOptions::new().append(true).open("/a/rw/suid"))?;
        tell("set-uid", suid.write_all(b"y"))
    })?;
    same("set-uid", tell("stat", fs::metadata("/a/rw/suid"))?.mode() & 0o7777, 0o777)?;
    let is = tell("stat", fs::metadata("/a/rw/group's/users"))?;
    same("owner", (is.uid(), is.gid(), is.mode() & 0o777), (1000, 1000, 0o640))
}

fn ranges() -> Checked {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let (file, copy) = (tell("open", options.open("/a/rw/sparse"))?, tell("copy", options.open("/a/rw/copy"))?);
    let fd = file.as_raw_fd();
    let (mut from, mut to) = (1i64 << 19, 0i64);
    // SAFETY: the descriptors are open and the pointers are to numbers of ours.
    unsafe {
        ok("fallocate", fallocate(fd, 0, 0, 1 << 20).into())?;
        ok("punch", fallocate(fd, 3, 0, 1 << 20).into())?;
        tell("write", file.write_all_at(b"island", 1 << 19))?;
        // SEEK_DATA and SEEK_HOLE.
        same("data", lseek(fd, 0, 3), 1 << 19)?;
        same("hole", lseek(fd, 0, 4), 0)?;
        same("copy", copy_file_range(fd, &mut from, copy.as_raw_fd(), &mut to, 6, 0), 6)?;
        // syncfs(2).
        ok("syncfs", syscall(306, fd))
    }
}

fn file_systems() -> Checked {
    let [a, b] = ["/b/rw", "/b/memory"].map(|name| fs::metadata(name).unwrap());
    same("one device", a.dev(), b.dev())?;
    say(&format!("numbers {} {}", a.ino(), b.ino()));
    same("mounted below", tell("below", fs::read_to_string("/b/rw/below/deep"))?, "deep".into())
}

/// Waits until a file is there.
fn wait_for(name: &str) -> Checked {
    let begin = Instant::now();
    while !Path::new(name).exists() {
        if begin.elapsed() > Duration::from_secs(120) {
            return Err(format!("{name} never came"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn live() -> Checked {
    same("before", tell("fresh", fs::read_to_string("/b/rw/fresh"))?, "before".into())?;
    let mut open = tell("open", File::open("/b/rw/fresh"))?;
    say("look");
    wait_for("/b/rw/go")?;
    // Without a cache it is new at once, for who has it open too.
    same("after", tell("fresh", fs::read_to_string("/b/rw/fresh"))?, "after!".into())?;
    let mut text = String::new();
    tell("open", open.read_to_string(&mut text))?;
    same("open", text, "after!".into())?;
    same("mounted since", tell("since", fs::read_to_string("/b/rw/since/new"))?, "new".into())?;
    refused("below a read-only one", fs::write("/b/ro/since/new", ""), EROFS)?;
    refused("removed on the host", fs::metadata("/b/rw/removed"), ENOENT)
}

fn many() -> Checked {
    let count = tell("many", fs::read_dir("/b/many"))?.count();
    say(&format!("entries {count}"));
    // The host reads its counters.
    wait_for("/b/rw/end")
}

/// Says a line and gives the host half a second to read its counters, in user mode, where nothing is counted.
fn mark(line: &str) {
    say(line);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(500) {
        std::hint::spin_loop();
    }
}

fn measure() -> Checked {
    for (name, at) in [("ext4", "/c"), ("virtiofs", "/a/rw"), ("virtiofs-uncached", "/b/rw")] {
        // Once without looking, so that what is loaded only once is loaded.
        let warm = format!("{at}/four");
        tell("write", fs::write(&warm, [1; 4096]))?;
        tell("read", fs::read(&warm))?;
        for (step, act) in [
            ("nothing", nothing as fn(&str) -> Checked),
            ("open-read-close-4k-10", read_one),
            ("create-100", create),
            ("stat-100", stat),
            ("read-100", read),
        ] {
            mark(&format!("begin {name} {step}"));
            act(at)?;
            mark(&format!("end {name} {step}"));
        }
    }
    Ok(())
}

const FILES: usize = 100;

fn nothing(_: &str) -> Checked {
    Ok(())
}

fn read_one(at: &str) -> Checked {
    for _ in 0..10 {
        let mut file = tell("open", File::open(format!("{at}/four")))?;
        let mut page = [0; 4096];
        tell("read", file.read_exact(&mut page))?;
    }
    Ok(())
}

fn create(at: &str) -> Checked {
    (0..FILES).try_for_each(|n| tell("create", fs::write(format!("{at}/small{n}"), "small")))
}

fn stat(at: &str) -> Checked {
    (0..FILES).try_for_each(|n| tell("stat", fs::metadata(format!("{at}/small{n}"))).map(|_| ()))
}

fn read(at: &str) -> Checked {
    (0..FILES).try_for_each(|n| tell("read", fs::read(format!("{at}/small{n}"))).map(|_| ()))
}
