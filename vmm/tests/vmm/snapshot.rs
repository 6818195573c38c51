//! Saving a machine and going on from it, with guests of a few instructions.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use bulkhead_vmm::api::{
    Backend, End, FromVmm, Messages, RequestKind, Response, SerialOutput, SnapshotFiles, VmConfig,
    Vmm,
};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use crate::guest::{Guest, guest, kvm, until_end};

// Counts on its console for ever, in a register and in memory; a difference between the two is a panic.
guest!(
    counter,
    "xor ecx, ecx; mov rbx, 0x200000; mov qword ptr [rbx], rcx",
    "2: cmp rcx, [rbx]; jne 9f; mov edx, 0x3f8; mov al, cl; out dx, al",
    "inc rcx; inc qword ptr [rbx]; jmp 2b",
    "9: mov edx, 0x505; mov al, 1; out dx, al; 98: jmp 98b",
);

pub(crate) fn ask(
    vmm: &mut Vmm,
    messages: &mut Messages,
    kind: RequestKind,
) -> Result<Response, String> {
    let asked = vmm.request(kind).unwrap();
    loop {
        match messages.next_message().unwrap() {
            FromVmm::Response { id, result } => {
                assert_eq!(id, asked);
                return result;
            }
            FromVmm::Ended(end) => return Err(format!("ended: {end}")),
            FromVmm::Mark { .. } => {}
        }
    }
}

fn files(guest: &Guest) -> SnapshotFiles {
    SnapshotFiles { state: guest.path("state"), memory: guest.path("memory") }
}

fn config(guest: &Guest, console: &str) -> VmConfig {
    VmConfig { serial: Some(SerialOutput::File(guest.path(console))), ..guest.config() }
}

/// Waits until the console has more than `length` bytes, and returns it.
fn console(path: &Path, length: usize) -> Vec<u8> {
    loop {
        let bytes = fs::read(path).unwrap_or_default();
        if bytes.len() > length {
            return bytes;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether each byte is the one before and one more.
fn counts(bytes: &[u8]) -> bool {
    bytes.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1))
}

/// Saves a machine that counts; returns what it had said by then.
fn save(guest: &Guest) -> Vec<u8> {
    let mut config = config(guest, "console");
    config.snapshot = Some(files(guest));
    let (mut vmm, mut messages) = guest.start(&config);
    console(&guest.path("console"), 600);
    assert_eq!(fs::metadata(guest.path("state")).unwrap().len(), 0, "nothing unasked");
    ask(&mut vmm, &mut messages, RequestKind::Snapshot).unwrap();
    let said = fs::read(guest.path("console")).unwrap();
    for name in ["state", "memory"] {
        let mode = fs::metadata(guest.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let again = ask(&mut vmm, &mut messages, RequestKind::Snapshot).unwrap_err();
    assert!(again.contains("saved already"), "{again}");
    ask(&mut vmm, &mut messages, RequestKind::Resume).unwrap();
    let more = console(&guest.path("console"), said.len() + 600);
    assert!(counts(&more), "it goes on itself");
    ask(&mut vmm, &mut messages, RequestKind::Stop).unwrap();
    said
}

#[test]
fn every_clone_goes_on_with_the_next_instruction() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(counter());
    let said = save(&guest);
    assert!(counts(&said));
    let mut clones: Vec<_> = (0..3)
        .map(|number| {
            let mut config = config(&guest, &format!("clone{number}"));
            config.restore = Some(files(&guest));
            guest.start(&config)
        })
        .collect();
    for (number, (vmm, messages)) in clones.iter_mut().enumerate() {
        let here = console(&guest.path(&format!("clone{number}")), 600);
        assert_eq!(here[0], said.last().unwrap().wrapping_add(1), "no byte twice, none lost");
        assert!(counts(&here));
        let Response::Counters(counters) = ask(vmm, messages, RequestKind::Counters).unwrap()
        else {
            panic!("no counters")
        };
        assert!(counters.guest_private_kib > 0, "{counters:?}");
        assert!(counters.guest_private_kib <= counters.guest_kib, "{counters:?}");
        ask(vmm, messages, RequestKind::Stop).unwrap();
        let outcome = until_end(messages);
        assert_eq!(outcome.end, End::Stopped);
    }
}

/// The line with which a machine of this configuration is refused.
fn refusal(guest: &Guest, config: &VmConfig) -> String {
    let (_vmm, mut messages) = guest.start(config);
    match until_end(&mut messages).end {
        End::Failed(why) => {
            assert!(!why.contains('\n'), "one line: {why}");
            why
        }
        end => panic!("{end:?}"),
    }
}

#[test]
fn another_machine_is_refused_by_what_differs() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(counter());
    save(&guest);
    let mut good = config(&guest, "clone");
    good.restore = Some(files(&guest));
    let refused = |change: &dyn Fn(&mut VmConfig), words: &[&str]| {
        let mut config = good.clone();
        change(&mut config);
        let why = refusal(&guest, &config);
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
    };
    refused(&|c| c.vcpus = 2, &["virtual CPUs", "of 1", "2"]);
    refused(&|c| c.memory_mib = 80, &["memory", "67108864", "83886080"]);
    refused(&|c| c.cmdline = "other".to_owned(), &["words", "\"other\""]);
    refused(&|c| c.serial = None, &["devices", "serial port"]);
    refused(&|c| c.balloon = true, &["devices", "balloon"]);
    refused(&|c| c.initrd = Some(guest.path("kernel")), &["initial RAM disk"]);
    refused(&|c| c.snapshot = Some(files(&guest)), &["exclude each other"]);
    let other = guest.path("other");
    fs::copy(guest.path("kernel"), &other).unwrap();
    refused(&|c| c.kernel = guest.path("other"), &["kernel", "inode"]);
    let kernel = File::options().write(true).open(guest.path("kernel")).unwrap();
    let modified = kernel.metadata().unwrap().modified().unwrap();
    kernel.set_modified(modified + Duration::from_millis(1)).unwrap();
    refused(&|_| (), &["kernel", "modified"]);
    kernel.set_modified(modified).unwrap();

    // One of them is what this host has.
    let right = [Backend::Hardware, Backend::Software].into_iter().filter(|backend| {
        let config = VmConfig { backend: *backend, ..good.clone() };
        let (mut vmm, mut messages) = guest.start(&config);
        let answer = ask(&mut vmm, &mut messages, RequestKind::Counters);
        answer.inspect_err(|why| assert!(why.contains("backend"), "{why}")).is_ok()
    });
    assert_eq!(right.count(), 1);

    let (mut vmm, mut messages) = guest.start(&good);
    ask(&mut vmm, &mut messages, RequestKind::Pause).unwrap();
    let why = ask(&mut vmm, &mut messages, RequestKind::Snapshot).unwrap_err();
    assert!(why.contains("no \"snapshot\""), "{why}");
}

#[test]
fn damaged_cut_and_foreign_files_are_refused() {
    if !kvm() {
        return;
    }
    let (guest, foreign) = (Guest::new(counter()), Guest::new(counter()));
    save(&guest);
    save(&foreign);
    let mut good = config(&guest, "clone");
    good.restore = Some(files(&guest));
    let (state, memory) = (guest.path("state"), guest.path("memory"));
    let refused = |words: &[&str]| {
        let why = refusal(&guest, &good);
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
    };
    let whole = fs::read(&state).unwrap();
    for at in [0, 8, 20, 40, 56, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&state, bytes).unwrap();
        refused(&["state", "cannot go on"]);
    }
    for length in [0, 7, 55, 56, whole.len() - 1] {
        fs::write(&state, &whole[..length]).unwrap();
        refused(&["state", "cannot go on"]);
    }
    fs::write(&state, vec![0; 16 << 20]).unwrap();
    refused(&["state", "longer than"]);
    fs::remove_file(&state).unwrap();
    refused(&["state", "cannot read", "No such file"]);
    fs::write(&state, &whole).unwrap();

    let wanted = fs::metadata(&memory).unwrap().len();
    fs::rename(&memory, guest.path("kept")).unwrap();
    refused(&["memory", "No such file"]);
    fs::copy(foreign.path("memory"), &memory).unwrap();
    refused(&["memory", "not the memory that was saved with this state"]);
    File::options().write(true).open(&memory).unwrap().set_len(4096).unwrap();
    refused(&["memory", "4096 bytes", &wanted.to_string()]);
    fs::rename(guest.path("kept"), &memory).unwrap();

    // The other way round: this machine's memory with the other's state.
    fs::copy(foreign.path("state"), &state).unwrap();
    refused(&["kernel"]);
    fs::write(&state, &whole).unwrap();
    let (_vmm, _messages) = guest.start(&good);
    console(&guest.path("clone"), 10);
}

#[test]
fn files_that_are_there_already_are_not_written_over() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(counter());
    let mut config = config(&guest, "console");
    config.snapshot = Some(files(&guest));
    fs::write(guest.path("memory"), "precious").unwrap();
    let why = refusal(&guest, &config);
    assert!(why.contains("memory") && why.contains("exists"), "{why}");
    assert_eq!(fs::read(guest.path("memory")).unwrap(), b"precious");
    assert!(!guest.path("state").exists(), "none is left behind");
}

#[test]
fn a_machine_that_is_killed_while_it_is_saved_leaves_nothing_to_go_on_from() {
    if !kvm() {
        return;
    }
    let (mut refused, mut whole) = (0, 0);
    // From "not begun" to "done", whatever the machine's speed: the time that a whole one takes is found out first.
    let mut longest = Duration::ZERO;
    for step in 0..12u32 {
        let guest = Guest::new(counter());
        let mut config = config(&guest, "console");
        config.snapshot = Some(files(&guest));
        let (mut vmm, mut messages) = guest.start(&config);
        console(&guest.path("console"), 10);
        let begin = Instant::now();
        vmm.request(RequestKind::Snapshot).unwrap();
        if step == 0 {
            while !matches!(messages.next_message().unwrap(), FromVmm::Response { .. }) {}
            longest = begin.elapsed();
        } else {
            thread::sleep(longest * step / 10);
        }
        // Kills it.
        drop(vmm);
        config = self::config(&guest, "clone");
        config.restore = Some(files(&guest));
        let (mut vmm, mut messages) = guest.start(&config);
        match ask(&mut vmm, &mut messages, RequestKind::Counters) {
            Ok(_) => {
                let said = fs::read(guest.path("console")).unwrap();
                let here = console(&guest.path("clone"), 10);
                assert_eq!(here[0], said.last().unwrap().wrapping_add(1));
                whole += 1;
            }
            Err(why) => {
                assert!(why.contains("cannot go on from the saved machine"), "{why}");
                assert!(
                    why.contains("save the machine again") || why.contains("was not saved"),
                    "{why}"
                );
                refused += 1;
            }
        }
    }
    println!("{refused} refused, {whole} whole, the longest {longest:?}");
    assert!(whole > 0, "the first at least");
}

/// A small file system, which goes with the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_told_and_the_machine_goes_on() {
    if !kvm() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root mounts a small file system");
        return;
    }
    let guest = Guest::new(counter());
    let mounted = Mounted(guest.path("small"));
    let small = &mounted.0;
    fs::create_dir(small).unwrap();
    mount("small", small, "tmpfs", MountFlags::empty(), Some(c"size=16k")).unwrap();
    let mut config = config(&guest, "console");
    let files = SnapshotFiles { state: small.join("state"), memory: small.join("memory") };
    config.snapshot = Some(files.clone());
    let (mut vmm, mut messages) = guest.start(&config);
    console(&guest.path("console"), 600);
    for _ in 0..2 {
        let why = ask(&mut vmm, &mut messages, RequestKind::Snapshot).unwrap_err();
        assert!(why.contains("cannot write") && why.contains("No space"), "{why}");
    }
    assert_eq!(fs::metadata(&files.state).unwrap().len(), 0);
    let said = fs::read(guest.path("console")).unwrap().len();
    ask(&mut vmm, &mut messages, RequestKind::Resume).unwrap();
    assert!(counts(&console(&guest.path("console"), said + 600)));
    // Room again: the next try succeeds.
    mount_remount(small, MountFlags::empty(), c"size=64m").unwrap();
    ask(&mut vmm, &mut messages, RequestKind::Snapshot).unwrap();
    ask(&mut vmm, &mut messages, RequestKind::Stop).unwrap();
    until_end(&mut messages);
    let mut config = self::config(&guest, "clone");
    config.restore = Some(files);
    let (_vmm, _messages) = guest.start(&config);
    assert!(counts(&console(&guest.path("clone"), 600)));
}
