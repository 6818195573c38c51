//! Saved machines that are refused: those of another machine, damaged ones, and ones that somebody made up.

use std::{
    fs::{self, File},
    ops::Range,
    time::Duration,
};

use bulkhead_vmm::api::{Backend, End, RequestKind, VmConfig};
use sha2::{Digest, Sha256};

use crate::{
    guest::{Guest, kvm, until_end},
    snapshot::{ask, config, console, counter, files, save},
};

/// The line with which a machine of this configuration is refused.
pub(crate) fn refusal(guest: &Guest, config: &VmConfig) -> String {
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

/// A state file whose body was changed by whoever could also make its checksum right.
fn forged(whole: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    const CHECKSUM: Range<usize> = 24..56;
    let mut body = whole[CHECKSUM.end..].to_vec();
    change(&mut body);
    let mut file = whole[..CHECKSUM.end].to_vec();
    file[16..24].copy_from_slice(&(body.len() as u64).to_le_bytes());
    file[CHECKSUM].copy_from_slice(&Sha256::digest(&body));
    file.extend(body);
    file
}

#[test]
fn a_forged_state_is_refused_or_runs_but_does_not_break_the_vmm() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(counter());
    save(&guest);
    let whole = fs::read(guest.path("state")).unwrap();
    let mut config = config(&guest, "clone");
    config.restore = Some(files(&guest));
    // Xorshift: the same numbers each time.
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    let (mut refused, mut ran) = (0, 0);
    for round in 0..60 {
        let file = forged(&whole, |body| {
            for _ in 0..=next(6) {
                let at = next(body.len());
                body[at] = u8::try_from(next(256)).unwrap();
            }
            if round % 10 == 9 {
                body.truncate(next(body.len()));
            }
        });
        fs::write(guest.path("state"), file).unwrap();
        let (mut vmm, mut messages) = guest.start(&config);
        // An answer, or the end with a line: a VMM that broke would be gone without one.
        match ask(&mut vmm, &mut messages, RequestKind::Counters) {
            Ok(_) => ran += 1,
            Err(why) => {
                assert!(!why.contains('\n'), "{why}");
                refused += 1;
            }
        }
    }
    println!("{refused} refused, {ran} ran");
    assert!(refused > 0 && ran > 0, "{refused} {ran}");
}
