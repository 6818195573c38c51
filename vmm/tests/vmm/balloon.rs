//! The real guest kernel with a balloon: what its programs used and freed goes back to the host.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use bulkhead_vmm::api::{Counters, FromVmm, Messages, RequestKind, Response, SerialOutput, Vmm};

use crate::{
    guest::{Guest, PATIENCE, guest, kvm},
    kernel::{initrd, kernel},
};

const MIB: u64 = 1 << 10;

/// Takes so many bytes at 1 GiB (mmap(2)), advised so (madvise(2)), writes to each page, says "+", gives them back (munmap(2)), says "-",
/// and waits for ever (pause(2)).
macro_rules! takes_and_frees {
    ($name:ident, $bytes:literal, $advice:literal) => {
        guest!(
            $name,
            concat!("mov edi, 0x40000000; mov esi, ", $bytes, "; mov edx, 3; mov r10d, 0x32"),
            "mov r8, -1; xor r9d, r9d; mov eax, 9; syscall; cmp rax, 0x40000000; jne 5f",
            concat!("mov edi, 0x40000000; mov esi, ", $bytes, "; mov edx, ", $advice),
            "mov eax, 28; syscall; mov ebx, 0x40000000",
            concat!(
                "2: mov byte ptr [rbx], 1; add ebx, 4096; cmp ebx, 0x40000000 + ",
                $bytes,
                "; jne 2b"
            ),
            "mov byte ptr [rsp - 64], 43; call 6f",
            concat!(
                "mov edi, 0x40000000; mov esi, ",
                $bytes,
                "; mov eax, 11; syscall; test rax, rax; jnz 5f"
            ),
            "mov byte ptr [rsp - 64], 45; call 6f",
            "4: mov eax, 34; syscall; jmp 4b",
            "5: mov byte ptr [rsp - 64], 33; call 6f; jmp 4b",
            "6: mov edi, 1; lea rsi, [rsp - 56]; mov edx, 1; mov eax, 1; syscall; ret",
        );
    };
}

// MADV_HUGEPAGE.
takes_and_frees!(much, "(64 << 20)", "14");
// MADV_NORMAL: page by page.
takes_and_frees!(little, "(8 << 20)", "0");

struct Machine {
    vmm: Vmm,
    messages: Messages,
    guest: Guest,
}

impl Machine {
    fn start(program: &[u8], memory_mib: u64) -> Option<Self> {
        let kernel = kernel().filter(|_| kvm())?;
        let guest = Guest::new(program);
        let program = fs::read(guest.path("kernel")).unwrap();
        fs::write(guest.path("initrd"), initrd(&program)).unwrap();
        let mut config = guest.config();
        config.kernel = kernel;
        config.initrd = Some(guest.path("initrd"));
        config.cmdline = "quiet".to_owned();
        config.serial = Some(SerialOutput::File(guest.path("console")));
        config.balloon = true;
        config.memory_mib = memory_mib;
        let (vmm, messages) = guest.start(&config);
        Some(Self { vmm, messages, guest })
    }

    fn counters(&mut self) -> Counters {
        let asked = self.vmm.request(RequestKind::Counters).unwrap();
        loop {
            match self.messages.next_message().unwrap() {
                FromVmm::Response { id, result } => {
                    assert_eq!(id, asked);
                    let Response::Counters(counters) = result.unwrap() else { panic!("none") };
                    return *counters;
                }
                FromVmm::Ended(end) => panic!("{end}\n{}", self.console()),
                FromVmm::Mark { .. } => {}
            }
        }
    }

    fn console(&self) -> String {
        fs::read_to_string(self.guest.path("console")).unwrap_or_default()
    }

    /// Waits until `done` says so of the counters.
    fn until(&mut self, what: &str, mut done: impl FnMut(&Self, &Counters) -> bool) -> Counters {
        let began = Instant::now();
        loop {
            let counters = self.counters();
            if done(self, &counters) {
                return counters;
            }
            let console = self.console();
            assert!(began.elapsed() < PATIENCE, "waited in vain: {what}: {counters:?}\n{console}");
            assert!(!console.contains('!'), "{console}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The most memory that the VMM ever held, in KiB (proc(5), `VmHWM`).
    fn most_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.vmm.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap()
    }
}

#[test]
fn memory_that_a_guest_frees_goes_back_to_the_host() {
    // With less the guest's kernel has no huge pages, and touching so much takes it minutes where it is interpreted.
    let Some(mut machine) = Machine::start(much(), 640) else { return };
    machine.until("the memory is taken and freed", |machine, _| machine.console().contains('-'));
    let most = machine.most_kib();
    let after = machine.until("most of it is given back", |_, counters| {
        counters.guest_kib + counters.overhead_kib + 48 * MIB < most
    });
    assert!(after.balloon_pages * 4 >= 48 * MIB, "{after:?}");
    assert_eq!(after.balloon_errors, 0);
}

/// Linux alone reports blocks of 4 MiB, and none of a guest as small as this: what a program had page by page is in blocks of 512 KiB.
#[test]
fn a_small_guest_gives_back_what_was_taken_page_by_page() {
    let Some(mut machine) = Machine::start(little(), 128) else { return };
    machine.until("the memory is taken and freed", |machine, _| machine.console().contains('-'));
    let most = machine.most_kib();
    let after = machine.until("most of it is given back", |_, counters| {
        counters.guest_kib + counters.overhead_kib + 5 * MIB < most
    });
    assert!(after.balloon_pages * 4 >= 5 * MIB, "{after:?}");
    assert_eq!(after.balloon_errors, 0);
}
