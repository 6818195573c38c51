//! The real guest kernel with an init of a few instructions. The kernel is `BULKHEAD_KERNEL`, or what `make build` left in
//! `target/release`.

use std::{fs, path::PathBuf, process::Command};

use bulkhead_vmm::api::{End, Mark, SerialOutput};

use crate::guest::{Guest, guest, kvm, until_end};

// Says how many processors it may run on (sched_getaffinity), then restarts the machine (reboot(2)).
guest!(
    init,
    "xor edi, edi; mov esi, 8; lea rdx, [rsp - 64]; mov eax, 204; syscall",
    "movzx eax, byte ptr [rsp - 64]; xor ecx, ecx",
    "2: mov ebx, eax; and ebx, 1; add ecx, ebx; shr eax, 1; jnz 2b",
    "add ecx, 48; mov dword ptr [rsp - 64], 0x203a3a20; mov byte ptr [rsp - 64], cl",
    "mov edi, 1; lea rsi, [rsp - 64]; mov edx, 3; mov eax, 1; syscall",
    "mov edi, 0xfee1dead; mov esi, 672274793; mov edx, 0x1234567; mov eax, 169; syscall",
    "3: jmp 3b",
);

pub(crate) fn kernel() -> Option<PathBuf> {
    let given = std::env::var_os("BULKHEAD_KERNEL").map(PathBuf::from);
    let built = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/vmlinux"));
    let kernel = given.unwrap_or(built);
    if !kernel.exists() {
        eprintln!(
            "skipped: no guest kernel; `make kernel` builds it, BULKHEAD_KERNEL names another"
        );
        return None;
    }
    Some(kernel)
}

/// One member of a cpio archive (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
fn member(archive: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
    let fields = [
        0,
        mode,
        0,
        0,
        1,
        0,
        u32::try_from(data.len()).unwrap(),
        0,
        0,
        device.0,
        device.1,
        u32::try_from(name.len()).unwrap() + 1,
        0,
    ];
    archive.extend(b"070701");
    for field in fields {
        archive.extend(format!("{field:08x}").bytes());
    }
    archive.extend(name.bytes().chain([0]));
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// An initial RAM disk with this program as the first process.
pub(crate) fn initrd(program: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    member(&mut archive, "dev", 0o040_755, (0, 0), b"");
    member(&mut archive, "dev/console", 0o020_600, (5, 1), b"");
    member(&mut archive, "init", 0o100_755, (0, 0), program);
    member(&mut archive, "TRAILER!!!", 0, (0, 0), b"");
    archive
}

/// A program of `tests/programs` that is to be the guest's first process, static.
pub(crate) fn compile(guest: &Guest, name: &str) -> Vec<u8> {
    let source = format!("{}/tests/programs/{name}.rs", env!("CARGO_MANIFEST_DIR"));
    let made = guest.path("program");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(rustc)
        .args(["--edition", "2024", "-C", "target-feature=+crt-static", "-C", "opt-level=2"])
        .args(["-C", "strip=symbols", "-o"])
        .args([made.as_os_str(), source.as_ref()])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    fs::read(made).unwrap()
}

#[test]
fn the_guest_kernel_starts_its_init_on_every_processor() {
    let Some(kernel) = kernel().filter(|_| kvm()) else { return };
    let guest = Guest::new(init());
    let program = fs::read(guest.path("kernel")).unwrap();
    fs::write(guest.path("initrd"), initrd(&program)).unwrap();
    let mut config = guest.config();
    config.kernel = kernel;
    config.initrd = Some(guest.path("initrd"));
    config.vcpus = 2;
    config.cmdline = "quiet".to_owned();
    config.serial = Some(SerialOutput::File(guest.path("console")));
    let (_vmm, mut messages) = guest.start(&config);
    let outcome = until_end(&mut messages);
    let console = fs::read_to_string(guest.path("console")).unwrap();
    assert_eq!(outcome.end, End::PowerOff, "{console}");
    assert!(outcome.marks.contains(&Mark::InitExec), "{:?}", outcome.marks);
    assert!(console.contains("2::"), "{console}");
}
