//! The state file as a whole: what was written comes back, and whatever else stands in it is refused without a panic. `PROPTEST_CASES` makes the
//! random ones as many as one likes: `PROPTEST_CASES=1000000 cargo test -p bulkhead-vmm --release --lib snapshot::tests`.

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::arch::current::state;

fn sample() -> SavedMachine {
    let (vcpu, chips) = state::tests::sample();
    let kernel = FileIdentity::of(&std::fs::metadata("/proc/self/exe").unwrap());
    let shape = Shape {
        kernel,
        initrd: None,
        cmdline: "quiet".to_owned(),
        vcpus: 2,
        memory: 64 << 20,
        devices: vec!["read-only disk \"image\"".to_owned(), "share \"root\"".to_owned()],
    };
    let memory = crate::memory::allocate(&[(crate::memory::GuestAddress(0), 4096)]).unwrap();
    SavedMachine {
        identity: Identity::here(shape),
        kind: Kind::Software,
        memory: MemoryShape::new(&memory, [9; 16]),
        vcpus: vec![vcpu.clone(), vcpu],
        chips,
        serial: None,
        devices: Vec::new(),
    }
}

#[test]
fn a_machine_comes_back_as_it_was() {
    let saved = sample();
    let file = saved.encode().unwrap();
    let again = SavedMachine::decode(&file).unwrap();
    assert_eq!(again.identity, saved.identity);
    assert_eq!(again.encode().unwrap(), file);
    saved.identity.check(&again.identity).unwrap();
}

#[test]
fn bytes_that_belong_to_nothing_are_refused() {
    let file = sample().encode().unwrap();
    let mut body = frame::open(&file).unwrap().to_vec();
    body.extend([1, 2, 3]);
    let error = SavedMachine::decode(&frame::seal(&body).unwrap()).unwrap_err();
    assert!(matches!(error, DecodeError::TooMuch(3)), "{error}");
}

#[test]
fn each_difference_is_named_with_both_sides() {
    let saved = sample().identity;
    type Change = fn(&mut Identity);
    let changes: [(Change, &str, &str); 9] = [
        (|it| it.vmm = "9.9".to_owned(), "VMM's version", "9.9"),
        (|it| it.machine.cmdline = "loud".to_owned(), "words", "loud"),
        (|it| it.machine.vcpus = 3, "virtual CPUs", "3"),
        (|it| it.machine.memory = 7, "memory", "7"),
        (|it| it.machine.devices.swap(0, 1), "devices", "share \"root\", read-only"),
        (|it| it.machine.devices.truncate(1), "devices", "image"),
        (|it| it.host.kernel = "5.0".to_owned(), "host's kernel", "5.0"),
        (|it| it.host.modules = "kvm_x".to_owned(), "KVM modules", "kvm_x"),
        (|it| it.machine.initrd = Some(it.machine.kernel.clone()), "RAM disk", "that there was"),
    ];
    for (change, what, value) in changes {
        let mut here = saved.clone();
        change(&mut here);
        let line = saved.check(&here).unwrap_err().to_string();
        assert!(line.contains(what) && line.contains(value), "{line}");
    }
}

#[test]
fn what_a_file_says_is_shown_on_one_short_line() {
    let mut saved = sample().identity;
    let here = saved.clone();
    saved.host.kernel = format!("6.1\n\x1b[31m{}", "x".repeat(1 << 20));
    let line = saved.check(&here).unwrap_err().to_string();
    assert!(line.contains("6.1??[31mxxx") && line.contains("xxx ..."), "{line}");
    assert!(line.len() < 1000 && !line.chars().any(char::is_control), "{line}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Random bytes with a good checksum.
    #[test]
    fn any_body_is_decoded_or_refused(body in vec(any::<u8>(), 0..2000)) {
        if let Ok(saved) = SavedMachine::decode(&frame::seal(&body).unwrap()) {
            prop_assert!(saved.encode().is_ok());
        }
    }

    /// A good body, changed here and there, cut, and with parts of it in another order, with a good checksum.
    #[test]
    fn a_changed_body_is_decoded_or_refused(
        changes in vec((any::<Index>(), any::<u8>()), 0..8),
        cut in any::<Index>(),
        cuts in prop::bool::ANY,
        swap in prop::option::of((any::<Index>(), any::<Index>(), 1usize..600)),
    ) {
        let file = sample().encode().unwrap();
        let mut body = frame::open(&file).unwrap().to_vec();
        for (at, value) in changes {
            let at = at.index(body.len());
            body[at] = value;
        }
        if let Some((from, to, length)) = swap {
            let (from, to) = (from.index(body.len()), to.index(body.len()));
            let length = length.min(body.len() - from).min(body.len() - to);
            let moved = body[from..from + length].to_vec();
            let kept = body[to..to + length].to_vec();
            body[from..from + length].copy_from_slice(&kept);
            body[to..to + length].copy_from_slice(&moved);
        }
        if cuts {
            body.truncate(cut.index(body.len()));
        }
        if let Ok(saved) = SavedMachine::decode(&frame::seal(&body).unwrap()) {
            prop_assert!(saved.encode().is_ok());
            // However strange, it is compared without harm.
            let _ = sample().identity.check(&saved.identity);
        }
    }
}
