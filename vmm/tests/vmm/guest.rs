//! Guests: machine code in an ELF file that the VMM takes for a kernel, and the running of one.

use std::{
    fs,
    io::{self, BufReader, ErrorKind},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use bulkhead_vmm::api::{End, FromVmm, Mark, Messages, VmConfig, Vmm};
use tempfile::TempDir;

/// Where a guest's code lies, as far into its page as in its file (mmap(2) wants that of a program); its memory is identity-mapped, writable, and free from 2 MiB on.
const LOAD_ADDRESS: u64 = 0x10_0078;

/// Defines the guest `$name` from assembler source. It starts in ring 0 of long mode, with a stack and without interrupts.
macro_rules! guest {
    ($name:ident, $($source:expr),+ $(,)?) => {
        core::arch::global_asm!(
            ".pushsection .rodata",
            concat!("bulkhead_guest_", stringify!($name), ":"),
            $($source,)+
            concat!("bulkhead_guest_", stringify!($name), "_end:"),
            ".popsection",
        );
        pub(crate) fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!("bulkhead_guest_", stringify!($name))]
                static START: u8;
                #[link_name = concat!("bulkhead_guest_", stringify!($name), "_end")]
                static END: u8;
            }
            let (start, end) = (&raw const START, &raw const END);
            // SAFETY: both symbols are labels of the assembly above, in read-only data, in this order.
            unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
        }
    };
}
pub(crate) use guest;

/// How long a guest on a busy machine may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

guest!(idle, "2: in al, 0x80; jmp 2b");

/// Ends the guest: powered off, which these tests take for "all was as it should be".
macro_rules! succeed {
    () => {
        "mov edx, 0x505; mov al, 4; out dx, al; 99: jmp 99b"
    };
}
pub(crate) use succeed;

/// The label `9`: ends the guest with a panic, for "something was wrong".
macro_rules! fail_at_9 {
    () => {
        "9: mov edx, 0x505; mov al, 1; out dx, al; 98: jmp 98b"
    };
}
pub(crate) use fail_at_9;

/// Whether these tests can run here.
pub(crate) fn kvm() -> bool {
    let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if let Err(error) = opened {
        let required = std::env::var_os("BULKHEAD_REQUIRE_KVM").is_some_and(|value| value == "1");
        assert!(!required, "/dev/kvm cannot be opened: {error}");
        eprintln!("skipped: /dev/kvm cannot be opened: {error}");
        return false;
    }
    true
}

pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_bulkhead-vmm"))
}

/// A guest's image, and a place for files beside it.
pub(crate) struct Guest {
    directory: TempDir,
}

/// What a guest did.
pub(crate) struct Outcome {
    pub(crate) end: End,
    pub(crate) marks: Vec<Mark>,
}

impl Guest {
    pub(crate) fn new(code: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("kernel"), elf(code)).unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn config(&self) -> VmConfig {
        let kernel = self.path("kernel");
        serde_json::from_value(serde_json::json!({ "kernel": kernel, "memory_mib": 64 })).unwrap()
    }

    /// Starts it with this process as its owner.
    pub(crate) fn start(&self, config: &VmConfig) -> (Vmm, Messages) {
        Vmm::spawn(program(), config, Stdio::null(), Stdio::null()).unwrap()
    }

    /// Runs it to its end.
    pub(crate) fn run(&self) -> Outcome {
        let (vmm, mut messages) = self.start(&self.config());
        let outcome = until_end(&mut messages);
        drop(vmm);
        outcome
    }
}

/// Waits for the last message.
pub(crate) fn until_end(messages: &mut Messages) -> Outcome {
    let mut marks = Vec::new();
    loop {
        match messages.next_message().unwrap() {
            FromVmm::Mark { mark, .. } => marks.push(mark),
            FromVmm::Ended(end) => return Outcome { end, marks },
            FromVmm::Response { .. } => {}
        }
    }
}

/// The guest's connection to a port, once there is one; not if its `console` says that something is wrong. The listener does not block.
pub(crate) fn connection(listener: &UnixListener, console: &Path) -> BufReader<UnixStream> {
    let begin = Instant::now();
    loop {
        match listener.accept() {
            Ok((socket, _)) => {
                socket.set_nonblocking(false).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                return BufReader::new(socket);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let said = fs::read_to_string(console).unwrap_or_default();
        assert!(!said.contains("WRONG") && begin.elapsed() < PATIENCE, "{said}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Runs the program with a configuration on its standard input.
pub(crate) fn run_with_config(config: &str) -> Output {
    let mut child = Command::new(program())
        .args(["--config", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses at once may not read all of it.
    let _ = io::Write::write_all(&mut child.stdin.take().unwrap(), config.as_bytes());
    child.wait_with_output().unwrap()
}

/// An ELF executable for x86-64 with one segment.
fn elf(code: &[u8]) -> Vec<u8> {
    let mut elf = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for value in [LOAD_ADDRESS, 64, 0] {
        elf.extend(value.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    let length = code.len() as u64;
    for value in [120, LOAD_ADDRESS, LOAD_ADDRESS, length, length, 4096] {
        elf.extend(value.to_le_bytes());
    }
    elf.extend(code);
    elf
}
