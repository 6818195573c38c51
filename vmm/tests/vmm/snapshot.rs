//! Saving a machine and going on from it, with guests of a few instructions.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use bulkhead_vmm::api::{
    End, FromVmm, Messages, RequestKind, Response, SerialOutput, SnapshotFiles, VmConfig, Vmm,
};

use crate::guest::{Guest, fail_at_9, guest, kvm, until_end};

// Counts on its console for ever, in a register and in memory; a difference between the two is a panic.
guest!(
    counter,
    "xor ecx, ecx; mov rbx, 0x200000; mov qword ptr [rbx], rcx",
    "2: cmp rcx, [rbx]; jne 9f; mov edx, 0x3f8; mov al, cl; out dx, al",
    "inc rcx; inc qword ptr [rbx]; jmp 2b",
    fail_at_9!(),
);

// Puts something into every kind of register, then counts on its console and looks whether all is still there.
guest!(
    keeper,
    "mov rax, cr4; or rax, 0x200; mov cr4, rax; mov rbx, 0x200000",
    "mov rax, 0x1122334455667788; mov [rbx], rax; mov [rbx + 8], rax; movups xmm7, [rbx]",
    "mov rax, 0x99aabbccddeeff00; mov [rbx + 16], rax; mov [rbx + 24], rax",
    "movups xmm15, [rbx + 16]; mov rax, 0x1234000; mov dr0, rax; mov rax, 0x5678000; mov cr2, rax",
    "mov ecx, 0xc0000082; mov eax, 0x81234567; mov edx, 0xffffffff; wrmsr",
    "mov ecx, 0xc0000102; mov eax, 0x89abcdef; mov edx, 0x7fff; wrmsr",
    "mov ecx, 0xc0000100; mov eax, 0x200000; xor edx, edx; wrmsr; xor esi, esi",
    "2: mov edx, 0x3f8; mov eax, esi; out dx, al; inc esi",
    "movups [rbx + 64], xmm7; mov rax, [rbx]; cmp [rbx + 64], rax; jne 9f; cmp [rbx + 72], rax; jne 9f",
    "movups [rbx + 64], xmm15; mov rax, [rbx + 16]; cmp [rbx + 64], rax; jne 9f",
    "mov rax, dr0; cmp rax, 0x1234000; jne 9f; mov rax, cr2; cmp rax, 0x5678000; jne 9f",
    "mov ecx, 0xc0000082; rdmsr; cmp eax, 0x81234567; jne 9f; inc edx; jnz 9f",
    "mov ecx, 0xc0000102; rdmsr; cmp eax, 0x89abcdef; jne 9f; cmp edx, 0x7fff; jne 9f",
    "mov rax, fs:[8]; cmp rax, [rbx]; jne 9f; jmp 2b",
    fail_at_9!(),
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

/// How long a guest on a busy machine may take.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn files(guest: &Guest) -> SnapshotFiles {
    SnapshotFiles { state: guest.path("state"), memory: guest.path("memory") }
}

pub(crate) fn config(guest: &Guest, console: &str) -> VmConfig {
    VmConfig { serial: Some(SerialOutput::File(guest.path(console))), ..guest.config() }
}

/// Waits until the console has more than `length` bytes, and returns it.
pub(crate) fn console(path: &Path, length: usize) -> Vec<u8> {
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < PATIENCE, "the guest says no more");
        let bytes = fs::read(path).unwrap_or_default();
        if bytes.len() > length {
            return bytes;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether each byte is the one before and one more.
pub(crate) fn counts(bytes: &[u8]) -> bool {
    bytes.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1))
}

/// Saves a machine that counts; returns what it had said by then.
pub(crate) fn save(guest: &Guest) -> Vec<u8> {
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

#[test]
fn every_kind_of_register_is_taken_along() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(keeper());
    let said = save(&guest);
    let mut config = config(&guest, "clone");
    config.restore = Some(files(&guest));
    let (mut vmm, mut messages) = guest.start(&config);
    let here = console(&guest.path("clone"), 600);
    assert_eq!(here[0], said.last().unwrap().wrapping_add(1));
    ask(&mut vmm, &mut messages, RequestKind::Stop).unwrap();
    assert_eq!(until_end(&mut messages).end, End::Stopped);
}
