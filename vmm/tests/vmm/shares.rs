//! Shares and the jail, with the real guest kernel and a program in it (`tests/programs/shares.rs`) that looks at everything from
//! inside while this looks from outside.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, symlink},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use bulkhead_vmm::api::{
    Cache, Counters, Disk, End, FromVmm, Messages, RequestKind, Response, SerialOutput, Share,
    ShareEntry, VmConfig, Vmm, Vsock,
};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};

use crate::{
    guest::{Guest, PATIENCE, idle, kvm, until_end},
    kernel::{compile, initrd, kernel},
};

/// Files in the large directory. A software KVM takes a millisecond for each.
const MANY: usize = 10_000;

/// A directory of the host on which mounts are shared, as on a host with systemd.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        mount_bind(directory.path(), directory.path()).unwrap();
        mount_change(directory.path(), MountPropagationFlags::SHARED).unwrap();
        let host = Self(directory);
        for name in ["rw", "ro", "many", "rw/below", "rw/since", "ro/since", "vsock"] {
            fs::create_dir(host.path(name)).unwrap();
        }
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn mount(&self, name: &str) {
        mount("tmpfs", self.path(name), "tmpfs", MountFlags::empty(), None).unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // With everything below it.
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

fn entry(name: &str, path: PathBuf, read_only: bool) -> ShareEntry {
    ShareEntry { name: name.to_owned(), path, read_only, sealed: false }
}

fn shares(host: &Host, memory: &Path) -> Vec<Share> {
    let rw = || entry("rw", host.path("rw"), false);
    let root = Share { tag: "root".to_owned(), cache: Cache::Auto, entries: vec![rw()] };
    let entries = vec![
        rw(),
        entry("ro", host.path("ro"), true),
        entry("file", host.path("file"), true),
        entry("memory", memory.to_owned(), false),
        entry("many", host.path("many"), false),
    ];
    vec![root, Share { tag: "binds".to_owned(), cache: Cache::None, entries }]
}

/// A guest with that program, and its configuration.
fn prepare(kernel: PathBuf, host: &Host, memory: &Path) -> (Guest, VmConfig) {
    let guest = Guest::new(idle());
    fs::write(guest.path("initrd"), initrd(&compile(&guest, "shares"))).unwrap();
    let mut config = guest.config();
    config.kernel = kernel;
    config.initrd = Some(guest.path("initrd"));
    config.memory_mib = 256;
    config.cmdline = "quiet".to_owned();
    config.serial = Some(SerialOutput::File(guest.path("console")));
    config.shares = shares(host, memory);
    config.vsock = Some(Vsock { cid: 3, path: host.path("vsock/socket") });
    (guest, config)
}

/// Waits until the guest says a line that begins so, and returns its rest.
fn hear(guest: &Guest, line: &str) -> String {
    let begin = Instant::now();
    loop {
        let said = fs::read_to_string(guest.path("console")).unwrap_or_default();
        let wrong = said.contains("@@ WRONG") || said.contains("panic");
        assert!(!wrong && begin.elapsed() < PATIENCE, "no {line:?} in:\n{said}");
        let found = said
            .split_inclusive('\n')
            .filter(|said| said.ends_with('\n'))
            .find_map(|said| said.strip_prefix("@@ ")?.strip_prefix(line));
        if let Some(rest) = found {
            return rest.trim().to_owned();
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn counters(vmm: &mut Vmm, messages: &mut Messages) -> Counters {
    vmm.request(RequestKind::Counters).unwrap();
    loop {
        if let FromVmm::Response { result, .. } = messages.next_message().unwrap() {
            match result.unwrap() {
                Response::Counters(counters) => return *counters,
                Response::Done => panic!("no counters"),
            }
        }
    }
}

pub(crate) fn ready() -> Option<PathBuf> {
    let kernel = kernel().filter(|_| kvm())?;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: shares need root");
        return None;
    }
    Some(kernel)
}

#[test]
fn a_guest_and_the_host_see_the_same_files() {
    let Some(kernel) = ready() else { return };
    let host = Host::new();
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    host.write("rw/hello", "from the host");
    host.write("rw/fresh", "before");
    host.write("rw/removed", "");
    host.write("ro/kept", "as it was");
    host.write("file", "one file");
    host.mount("rw/below");
    host.write("rw/below/deep", "deep");
    symlink("/etc/shadow", host.path("rw/shadow")).unwrap();
    symlink("../..", host.path("rw/up")).unwrap();
    for number in 0..MANY {
        host.write(&format!("many/{number}"), "");
    }
    let (guest, config) = prepare(kernel, &host, memory.path());
    let (mut vmm, mut messages) = guest.start(&config);

    let stat = hear(&guest, "stat ");
    let is = fs::metadata(host.path("rw/made")).unwrap();
    let (number, size, mode, links) = (is.ino(), is.size(), is.mode(), is.nlink());
    assert_eq!(stat, format!("{number} {size} {mode:o} {links}"));
    hear(&guest, "look");
    look_after_the_guest(&host, memory.path(), &hear(&guest, "numbers "));
    host.write("rw/fresh", "after!");
    host.mount("rw/since");
    host.write("rw/since/new", "new");
    host.mount("ro/since");
    fs::remove_file(host.path("rw/removed")).unwrap();
    host.write("rw/go", "");
    assert_eq!(hear(&guest, "entries "), MANY.to_string());
    let counted = counters(&mut vmm, &mut messages);
    assert!(counted.share_requests > 200, "{counted:?}");
    assert_eq!(counted.share_errors, 0, "{counted:?}");
    host.write("rw/end", "");
    hear(&guest, "all good");
    assert_eq!(until_end(&mut messages).end, End::PowerOff);
    assert_eq!(fs::read(host.path("ro/kept")).unwrap(), b"as it was");
    assert_eq!(fs::read_dir(host.path("ro/since")).unwrap().count(), 0);
    println!("{}", fs::read_to_string(guest.path("console")).unwrap());
}

/// What the guest has done by now, as the host has it.
fn look_after_the_guest(host: &Host, memory: &Path, numbers: &str) {
    let text = |name: &str| fs::read_to_string(host.path(name)).unwrap();
    let stat = |name: &str| fs::symlink_metadata(host.path(name)).unwrap();
    assert_eq!(text("rw/hello"), "From the host");
    assert_eq!(fs::read(host.path("rw/mapped")).unwrap()[0], b'M');
    assert_eq!(text("rw/named"), "had no name");
    assert_eq!(text("rw/three"), "two");
    assert_eq!((stat("rw/two").nlink(), stat("rw/two").ino()), (2, stat("rw/three").ino()));
    assert!(!host.path("rw/one").exists() && host.path("rw/e").is_dir());
    assert!(stat("rw/fifo").file_type().is_fifo());
    assert!(stat("rw/socket").file_type().is_socket());
    assert!(stat("rw/zero").file_type().is_char_device());
    let made = stat("rw/made");
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (1234, 5678, 0o640));
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(host.path("rw/made"), "user.colour", &mut value[..]);
    assert_eq!((length, &value[..3]), (Ok(3), &b"red"[..]));
    let users = stat("rw/group's/users");
    assert_eq!((users.uid(), users.gid(), users.mode() & 0o7777), (1000, 1000, 0o640));
    assert_eq!(text("rw/suid"), "xy");
    assert_eq!(stat("rw/suid").mode() & 0o7777, 0o777);
    assert_eq!(text("rw/copy"), "island");
    assert!(stat("rw/sparse").blocks() < 64, "{}", stat("rw/sparse").blocks());
    // Of the two file systems, that which was seen first keeps its numbers.
    let seen: Vec<u64> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
    assert_eq!(seen[0], stat("rw").ino());
    assert_eq!(seen[1] & ((1 << 48) - 1), fs::metadata(memory).unwrap().ino());
    assert_ne!(seen[1] >> 48, 0);
}

/// A line of `/proc/PID/status`.
fn status(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

/// All files that can be reached in the process's root directory, to this depth, by paths from there.
fn tree(root: &Path, depth: usize, names: &mut BTreeSet<String>, prefix: &str) {
    for item in fs::read_dir(root).unwrap() {
        let item = item.unwrap();
        let name = format!("{prefix}/{}", item.file_name().to_str().unwrap());
        if depth > 0 && item.file_type().unwrap().is_dir() {
            tree(&item.path(), depth - 1, names, &name);
        }
        names.insert(name);
    }
}

/// Starts a guest that does nothing and calls `look` with its process id when it runs.
fn while_it_runs(config: &VmConfig, guest: &Guest, look: impl FnOnce(u32)) {
    let (mut vmm, mut messages) = guest.start(config);
    while counters(&mut vmm, &mut messages).exits == 0 {}
    look(vmm.pid());
    vmm.request(RequestKind::Stop).unwrap();
    assert_eq!(until_end(&mut messages).end, End::Stopped);
}

/// What holds of every jail.
fn assert_shut_in(pid: u32) {
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000");
    }
    for namespace in ["mnt", "net", "ipc", "uts"] {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{namespace}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{namespace}");
    }
    // No descriptor of a directory that leads up to the host's.
    for item in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let fd = item.unwrap().path();
        if fs::metadata(&fd).is_ok_and(|facts| facts.is_dir()) {
            let names: BTreeSet<_> = fs::read_dir(fd.join("../.."))
                .unwrap()
                .map(|item| item.unwrap().file_name().into_string().unwrap())
                .collect();
            let inside = names.iter().all(|name| {
                matches!(name.as_str(), "shares" | "vsock") || name.parse::<u32>().is_ok()
            });
            assert!(inside, "{} leads to {names:?}", fd.display());
        }
    }
    // A core dump would hold the guest's memory.
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2);
}

#[test]
fn a_machine_without_shares_sees_nothing_and_may_do_nothing() {
    if !kvm() || !rustix::process::geteuid().is_root() {
        return;
    }
    let guest = Guest::new(idle());
    let config = guest.config();
    while_it_runs(&config, &guest, |pid| {
        assert_shut_in(pid);
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(status(pid, set), "0000000000000000");
        }
        let mut names = BTreeSet::new();
        tree(Path::new(&format!("/proc/{pid}/root/")), 3, &mut names, "");
        assert_eq!(names, BTreeSet::from(["/shares".to_owned()]));
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        assert!(mounts.contains(" / / ro,nosuid,nodev,noexec"), "{mounts}");
    });
}

#[test]
fn a_file_server_sees_what_is_shared_and_has_a_file_servers_capabilities() {
    if !kvm() || !rustix::process::geteuid().is_root() {
        return;
    }
    let host = Host::new();
    host.write("file", "one file");
    host.write("vsock/state.json", "the owner's");
    let guest = Guest::new(idle());
    let mut config = guest.config();
    config.shares = shares(&host, &host.path("rw"));
    config.vsock = Some(Vsock { cid: 3, path: host.path("vsock/socket") });
    let port = UnixListener::bind(host.path("vsock/socket_7")).unwrap();
    while_it_runs(&config, &guest, |pid| {
        assert_shut_in(pid);
        // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, MKNOD and SETFCAP.
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(status(pid, set), "00000000880000db");
        }
        let mut names = BTreeSet::new();
        tree(Path::new(&format!("/proc/{pid}/root/")), 2, &mut names, "");
        let wanted = [
            "/shares",
            "/shares/root",
            "/shares/root/rw",
            "/shares/binds",
            "/shares/binds/rw",
            "/shares/binds/ro",
            "/shares/binds/file",
            "/shares/binds/memory",
            "/shares/binds/many",
            "/vsock",
            "/vsock/socket",
            "/vsock/socket_7",
            "/vsock/state.json",
        ];
        assert_eq!(names, wanted.map(str::to_owned).into());
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let options = |place: &str| {
            let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(place)).unwrap();
            line.split(' ').nth(5).unwrap().to_owned()
        };
        assert_eq!(mounts.lines().count(), 8, "{mounts}");
        for place in ["/shares/binds/ro", "/shares/binds/file", "/vsock", "/"] {
            assert!(options(place).starts_with("ro,nosuid,nodev,noexec"), "{mounts}");
        }
        assert!(options("/shares/root/rw").starts_with("rw,nosuid,nodev,noexec"), "{mounts}");
        assert!(mounts.contains("master:"), "{mounts}");
        // Who waits for the guest can still come in.
        UnixStream::connect(host.path("vsock/socket")).unwrap();
    });
    drop(port);
}

#[test]
fn what_cannot_be_shared_is_named() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(idle());
    let mut config = guest.config();
    let link = guest.path("link");
    symlink("/tmp", &link).unwrap();
    for (path, word) in [(Path::new("/nonexistent/directory"), "No such file"), (&link, "levels")] {
        let entries = vec![entry("it", path.to_owned(), false)];
        config.shares = vec![Share { tag: "tag".to_owned(), cache: Cache::Auto, entries }];
        let (_vmm, mut messages) = guest.start(&config);
        let End::Failed(why) = until_end(&mut messages).end else { panic!("it ran") };
        let path = path.to_str().unwrap();
        assert!(why.contains("share tag") && why.contains(path) && why.contains(word), "{why}");
    }
}

/// Figures for people: `cargo test -p bulkhead-vmm --test vmm -- --ignored --nocapture costs`.
#[test]
#[ignore = "it measures, and a software KVM takes two minutes for it"]
fn costs_of_files_in_guest_kernel_instructions() {
    let Some(kernel) = ready() else { return };
    let host = Host::new();
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    host.write("file", "one file");
    let (guest, mut config) = prepare(kernel, &host, memory.path());
    config.cmdline = "quiet measure=1".to_owned();
    let disk = guest.path("disk");
    fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk).status().unwrap();
    assert!(made.success());
    config.disks = vec![Disk { id: "disk".into(), files: vec![disk], read_only: false }];
    let (mut vmm, mut messages) = guest.start(&config);
    for name in ["ext4", "virtiofs", "virtiofs-uncached"] {
        let mut idle = 0;
        for step in ["nothing", "open-read-close-4k-10", "create-100", "stat-100", "read-100"] {
            hear(&guest, &format!("begin {name} {step}"));
            let (before, begin) = (counters(&mut vmm, &mut messages), Instant::now());
            hear(&guest, &format!("end {name} {step}"));
            let (after, took) = (counters(&mut vmm, &mut messages), begin.elapsed());
            let instructions = after.instructions - before.instructions;
            idle = if step == "nothing" { instructions } else { idle };
            println!(
                "{name} {step}: {} guest-kernel instructions, {} requests, {} ms",
                instructions.saturating_sub(idle),
                after.share_requests - before.share_requests,
                took.as_millis().saturating_sub(500)
            );
        }
    }
    hear(&guest, "all good");
}

#[test]
fn a_socket_may_be_in_a_directory_with_a_long_path() {
    if !kvm() || !rustix::process::geteuid().is_root() {
        return;
    }
    let guest = Guest::new(idle());
    let deep = guest.path(&"d".repeat(150));
    fs::create_dir(&deep).unwrap();
    let mut config = guest.config();
    config.vsock = Some(Vsock { cid: 3, path: deep.join("socket") });
    while_it_runs(&config, &guest, |_| {
        assert!(deep.join("socket").exists());
    });
}
