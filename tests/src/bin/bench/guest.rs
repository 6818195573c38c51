//! The guest that both VMMs boot for the comparison: a kernel, an EROFS disk whose only program is the probe as first
//! process, and a disk to read from; and what that program says on the console.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use bulkhead_tests::harness::{guest_kernel, probe};
use tempfile::TempDir;

use super::Reason;

/// MiB of memory.
pub(crate) const MEMORY: u64 = 128;
/// A guest that says nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(180);

/// The guest's files.
pub(crate) struct Guest {
    directory: TempDir,
    pub(crate) kernel: PathBuf,
    pub(crate) root: PathBuf,
    pub(crate) disk: PathBuf,
}

impl Guest {
    pub(crate) fn make() -> Result<Self, Reason> {
        let failed = |error: std::io::Error| format!("the guest's files: {error}");
        let directory = tempfile::tempdir().map_err(failed)?;
        let path = |name: &str| directory.path().join(name);
        let tree = path("tree");
        for name in ["tree", "tree/dev", "tree/proc"] {
            fs::create_dir(path(name)).map_err(failed)?;
        }
        fs::copy(probe(), tree.join("bench-init")).map_err(failed)?;
        let made = Command::new("mkfs.erofs").arg(path("root")).arg(&tree).output();
        let made = made.map_err(|error| format!("mkfs.erofs (package erofs-utils): {error}"))?;
        if !made.status.success() {
            return Err(format!("mkfs.erofs: {}", String::from_utf8_lossy(&made.stderr).trim()));
        }
        let mut bytes = Vec::new();
        let mut random = fs::File::open("/dev/urandom").map_err(failed)?.take(16 << 20);
        random.read_to_end(&mut bytes).map_err(failed)?;
        fs::write(path("disk"), bytes).map_err(failed)?;
        let (root, disk) = (path("root"), path("disk"));
        Ok(Self { directory, kernel: guest_kernel(), root, disk })
    }

    /// A path for a VMM's socket or configuration.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// One boot of the guest.
#[derive(Debug, Clone)]
pub(crate) struct Boot {
    /// Seconds from the VMM's start to the guest's first output.
    pub(crate) first_output: f64,
    /// Guest-kernel instructions by then, where KVM counts them.
    pub(crate) instructions: Option<f64>,
    /// KiB resident in the VMM beyond the guest's memory by then.
    pub(crate) vmm_kib: f64,
    /// The kernel's command line.
    pub(crate) words: String,
    /// MB/s of the disk by the guest's clock.
    pub(crate) read_inside: f64,
    /// MB/s of the disk by the host's clock.
    pub(crate) read_outside: f64,
}

/// Starts a VMM and follows its guest to the end of its measurements; `instructions` is asked at the first output.
pub(crate) fn follow(
    mut command: Command,
    instructions: impl FnOnce() -> Option<f64>,
) -> Result<Boot, Reason> {
    let program = command.get_program().to_string_lossy().into_owned();
    let begin = Instant::now();
    let mut vmm = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    let lines = lines_of(&mut vmm);
    let measured = measure(&vmm, &lines, begin, instructions);
    // It may have ended already.
    let _ = vmm.kill();
    let _ = vmm.wait();
    measured.map_err(|reason| format!("{program}: {reason}"))
}

fn measure(
    vmm: &Child,
    lines: &Receiver<(Instant, String)>,
    begin: Instant,
    instructions: impl FnOnce() -> Option<f64>,
) -> Result<Boot, Reason> {
    let output = wait_for(lines, "first-output")?;
    let first_output = output.0.duration_since(begin).as_secs_f64();
    let instructions = instructions();
    let vmm_kib = super::start::resident_beyond_guest(vmm.id())?;
    let words = wait_for(lines, "cmdline ")?.1;
    let read_begin = wait_for(lines, "read-begin")?.0;
    let read_end = wait_for(lines, "read-end")?.0;
    let said = wait_for(lines, "read ")?.1;
    let numbers: Vec<f64> = said.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [bytes, micros] = numbers[..] else { return Err(format!("the guest said {said}")) };
    Ok(Boot {
        first_output,
        instructions,
        vmm_kib,
        words,
        read_inside: bytes / micros,
        read_outside: bytes / 1e6 / read_end.duration_since(read_begin).as_secs_f64(),
    })
}

pub(crate) fn wait_for(
    lines: &Receiver<(Instant, String)>,
    what: &str,
) -> Result<(Instant, String), Reason> {
    let mut last = String::from("nothing");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok((at, line)) = lines.recv_timeout(left) else {
            return Err(format!(
                "the guest did not come to \"{what}\"; the last words were: {last}"
            ));
        };
        if let Some(said) = line.strip_prefix("@@ ")
            && let Some(rest) = said.strip_prefix(what)
        {
            return Ok((at, rest.to_owned()));
        }
        // Registers after these words are for the people who debug KVM.
        if line.contains("KVM internal error") || line.contains("KVM: entry failed") {
            return Err(format!("{line} before the guest came to \"{what}\""));
        }
        last = line;
    }
}

/// The lines of a VMM's standard output and error with the time of each.
pub(crate) fn lines_of(vmm: &mut Child) -> Receiver<(Instant, String)> {
    let (to, lines) = mpsc::channel();
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        vmm.stdout.take().map(|stream| Box::new(stream) as _),
        vmm.stderr.take().map(|stream| Box::new(stream) as _),
    ];
    for stream in streams.into_iter().flatten() {
        let to = to.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                if to.send((Instant::now(), text)).is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
    lines
}
