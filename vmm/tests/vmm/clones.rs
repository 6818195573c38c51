//! The real guest kernel on two processors with a program in it (`tests/programs/clones.rs`): booted once and saved, then several machines
//! go on from it at once, and none of them notices.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use bulkhead_vmm::api::{
    Counters, FromVmm, Mark, Messages, RequestKind, Response, SerialOutput, SnapshotFiles,
    VmConfig, Vmm, Vsock,
};

use crate::{
    guest::{Guest, PATIENCE, idle, kvm, until_end},
    kernel::{compile, initrd, kernel},
};

/// What a clock may go wrong by, in nanoseconds: what KVM's and the host's differ by within a test.
const SLACK: i64 = 50_000_000;
/// The machine rests for so long before others go on, which none of them may notice.
const REST: Duration = Duration::from_secs(3);
const CLONES: usize = 3;

/// A machine and its program's connection.
struct Machine {
    vmm: Vmm,
    messages: Messages,
    marks: Vec<Mark>,
    reader: BufReader<UnixStream>,
    began: Instant,
}

impl Machine {
    /// Starts it and takes the connection of its program.
    fn start(guest: &Guest, config: &VmConfig) -> Self {
        let path = &config.vsock.as_ref().unwrap().path;
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(format!("{}_1024", path.display())).unwrap();
        let began = Instant::now();
        let (vmm, mut messages) = guest.start(config);
        listener.set_nonblocking(true).unwrap();
        let stream = loop {
            if let Ok((stream, _)) = listener.accept() {
                break stream;
            }
            let console = fs::read_to_string(guest.path("console")).unwrap_or_default();
            if began.elapsed() > PATIENCE || console.contains("panicked") {
                drop(vmm);
                panic!("{:?} {console}", messages.next_message());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { vmm, messages, marks: Vec::new(), reader: BufReader::new(stream), began }
    }

    /// The times that its program reads on both processors, which never go back.
    fn times(&mut self) -> Vec<i64> {
        writeln!(self.reader.get_mut()).unwrap();
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        let times: Vec<i64> =
            line.trim_end().split(' ').map(|word| word.parse().unwrap()).collect();
        assert!(times.is_sorted(), "{times:?}");
        times
    }

    fn ask(&mut self, kind: RequestKind) -> Result<Response, String> {
        self.vmm.request(kind).unwrap();
        loop {
            match self.messages.next_message().unwrap() {
                FromVmm::Response { result, .. } => return result,
                FromVmm::Mark { mark, .. } => self.marks.push(mark),
                FromVmm::Ended(end) => panic!("{end}"),
            }
        }
    }

    fn counters(&mut self) -> Counters {
        match self.ask(RequestKind::Counters).unwrap() {
            Response::Counters(counters) => *counters,
            Response::Done => panic!("no counters"),
        }
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap()
}

fn shape(guest: &Guest, name: &str, kernel: PathBuf) -> VmConfig {
    VmConfig {
        kernel,
        initrd: Some(guest.path("initrd")),
        memory_mib: 128,
        vcpus: 2,
        cmdline: "quiet".to_owned(),
        vsock: Some(Vsock { cid: 3, path: guest.path(name).join("socket") }),
        serial: Some(SerialOutput::File(guest.path("console"))),
        ..guest.config()
    }
}

#[test]
fn machines_go_on_from_one_that_was_saved() {
    let Some(kernel) = kernel().filter(|_| kvm()) else { return };
    let guest = Guest::new(idle());
    fs::write(guest.path("initrd"), initrd(&compile(&guest, "clones"))).unwrap();
    let files = SnapshotFiles { state: guest.path("state"), memory: guest.path("memory") };
    let mut config = shape(&guest, "template", kernel);
    config.snapshot = Some(files.clone());
    let mut template = Machine::start(&guest, &config);
    let booted = template.counters().instructions;
    let asked = Instant::now();
    let last = template.times().pop().unwrap();
    // It is saved only when nothing is under way on its connection.
    while let Err(why) = template.ask(RequestKind::Snapshot) {
        assert!(why.contains("busy") && asked.elapsed() < PATIENCE, "{why}");
        template.ask(RequestKind::Resume).unwrap();
    }
    let paused = last + nanoseconds(asked.elapsed());
    // It goes on itself as though nothing had been, and does not change what was saved.
    template.ask(RequestKind::Resume).unwrap();
    assert!(template.times()[0] > last);
    template.ask(RequestKind::Stop).unwrap();
    until_end(&mut template.messages);
    drop(template);
    std::thread::sleep(REST);

    let mut clones: Vec<_> = (0..CLONES)
        .map(|number| {
            let name = format!("clone{number}");
            let mut config = shape(&guest, &name, config.kernel.clone());
            config.restore = Some(files.clone());
            Machine::start(&guest, &config)
        })
        .collect();
    for (number, clone) in clones.iter_mut().enumerate() {
        let times = clone.times();
        let latest = paused + nanoseconds(clone.began.elapsed()) + SLACK;
        assert!(times[0] > last && times[7] < latest, "{last} {times:?} {latest}");
        let instructions = clone.counters().instructions;
        // They are counted from 0 on.
        assert!(instructions <= booted, "{instructions} {booted}");
        println!(
            "clone {number}: {instructions} instructions until the first answer, {booted} of the boot"
        );
        let later = clone.times();
        let latest = paused + nanoseconds(clone.began.elapsed()) + SLACK;
        assert!(later[0] > times[7] && later[7] < latest, "{times:?} {later:?} {latest}");
        let counters = clone.counters();
        println!("{counters:?}");
        assert_eq!(clone.marks, [Mark::ProcessStarted, Mark::KernelEntry]);
        assert!(counters.guest_private_kib < counters.guest_kib, "{counters:?}");
    }
    let console = fs::read_to_string(guest.path("console")).unwrap();
    let complaint = ["stall", "BUG", "lockup", "rror"].into_iter().find(|it| console.contains(it));
    assert_eq!(complaint, None, "{console}");
}
