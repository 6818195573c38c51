//! Requests to a running machine, from its owner and over the control socket, and signals.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use bulkhead_vmm::api::{
    Counters, End, FromVmm, Messages, RequestKind, Response, SerialOutput, Vmm,
};
use rustix::process::{Pid, Resource, Rlimit};

use crate::guest::{Guest, guest, kvm, program, until_end};

// Fills its console for ever.
guest!(chatter, "mov edx, 0x3f8; mov al, 46; 2: out dx, al; jmp 2b");
// Leaves KVM for ever: its exits show that it runs.
guest!(busy, "2: in al, 0x80; jmp 2b");

fn ask(vmm: &mut Vmm, messages: &mut Messages, kind: RequestKind) -> Response {
    let asked = vmm.request(kind).unwrap();
    loop {
        if let FromVmm::Response { id, result } = messages.next_message().unwrap() {
            assert_eq!(id, asked);
            return result.unwrap();
        }
    }
}

fn counters(vmm: &mut Vmm, messages: &mut Messages) -> Counters {
    match ask(vmm, messages, RequestKind::Counters) {
        Response::Counters(counters) => *counters,
        Response::Done => panic!("no counters"),
    }
}

#[test]
fn a_paused_guest_stands_still_until_it_is_resumed() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(busy());
    let mut config = guest.config();
    config.vcpus = 2;
    let (mut vmm, mut messages) = guest.start(&config);
    let exits = |vmm: &mut Vmm, messages: &mut Messages| counters(vmm, messages).exits;
    while exits(&mut vmm, &mut messages) == 0 {}
    for _ in 0..3 {
        ask(&mut vmm, &mut messages, RequestKind::Pause);
        let paused = exits(&mut vmm, &mut messages);
        ask(&mut vmm, &mut messages, RequestKind::Pause);
        assert_eq!(exits(&mut vmm, &mut messages), paused);
        ask(&mut vmm, &mut messages, RequestKind::Resume);
        ask(&mut vmm, &mut messages, RequestKind::Resume);
        while exits(&mut vmm, &mut messages) == paused {}
    }
    ask(&mut vmm, &mut messages, RequestKind::Pause);
    ask(&mut vmm, &mut messages, RequestKind::Stop);
    assert_eq!(until_end(&mut messages).end, End::Stopped);
}

#[test]
fn counters_tell_guest_memory_from_the_vmms_own() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(busy());
    let (mut vmm, mut messages) = guest.start(&guest.config());
    let counters = counters(&mut vmm, &mut messages);
    assert!(counters.guest_kib > 0 && counters.guest_kib <= 64 << 10, "{counters:?}");
    assert!(counters.overhead_kib > 0, "{counters:?}");
    assert_eq!(counters.block_requests, 0);
}

/// The program, which goes with the test.
struct Running(Child);

impl Running {
    fn wait(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both only fail when it has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program with a control socket, and a connection to it.
fn start_with_control(guest: &Guest) -> (Running, UnixStream) {
    fs::write(guest.path("config"), serde_json::to_vec(&guest.config()).unwrap()).unwrap();
    let child = Command::new(program())
        .arg("--config")
        .arg(guest.path("config"))
        .arg("--control")
        .arg(guest.path("control"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (Running(child), connect(guest))
}

fn connect(guest: &Guest) -> UnixStream {
    loop {
        if let Ok(stream) = UnixStream::connect(guest.path("control")) {
            return stream;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Asks, and waits for the line that comes back.
fn answer(stream: &UnixStream, id: u64, kind: &str) -> String {
    let mut writer = stream;
    writeln!(writer, "{{\"id\": {id}, \"kind\": \"{kind}\"}}").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[test]
fn several_clients_are_served_and_bad_ones_are_closed() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(busy());
    let (mut child, first) = start_with_control(&guest);
    let mut bad = connect(&guest);
    bad.write_all(b"{\"id\": 1, \"kind\": \"explode\"}\n").unwrap();
    assert_eq!(bad.read(&mut [0]).unwrap(), 0, "closed");
    let mut endless = connect(&guest);
    // It may be closed before all is written.
    let _ = endless.write_all(&[b'x'; 8192]);
    let closed = endless.read(&mut [0]);
    assert!(!matches!(closed, Ok(1)), "closed");
    let second = connect(&guest);
    assert!(answer(&first, 7, "pause").contains("\"id\":7"));
    assert!(answer(&second, 8, "counters").contains("overhead_kib"));
    assert!(answer(&first, 9, "stop").contains("done"));
    assert_eq!(child.wait().code(), Some(0));
    assert!(!guest.path("control").exists());
}

#[test]
fn more_clients_than_there_is_room_for_are_turned_away() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(busy());
    let (mut child, first) = start_with_control(&guest);
    let mut others: Vec<_> = (0..8).map(|_| connect(&guest)).collect();
    assert_eq!(others.last_mut().unwrap().read(&mut [0]).unwrap(), 0, "closed");
    writeln!(&first, "{{\"id\": 1, \"kind\": \"stop\"}}").unwrap();
    assert_eq!(child.wait().code(), Some(0));
}

#[test]
fn clients_that_no_descriptor_is_left_for_are_turned_away() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(busy());
    let (mut child, first) = start_with_control(&guest);
    // Their answers come after everything that its start opens, and they fill what was left out.
    let others: Vec<_> = (0..6).map(|_| connect(&guest)).collect();
    for client in others.iter().chain([&first]) {
        answer(client, 1, "counters");
    }
    let pid = Pid::from_child(&child.0);
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
    let before = Rlimit { current: numbers.next().unwrap(), maximum: numbers.next().unwrap() };
    let taken = |number: &u64| fs::symlink_metadata(format!("/proc/{pid}/fd/{number}")).is_ok();
    let free = (0..).find(|number| !taken(number));
    let full = Rlimit { current: free, maximum: before.maximum };
    rustix::process::prlimit(Some(pid), Resource::Nofile, full).unwrap();
    for _ in 0..3 {
        let mut refused = connect(&guest);
        refused.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert_eq!(refused.read(&mut [0]).unwrap(), 0, "closed");
    }
    rustix::process::prlimit(Some(pid), Resource::Nofile, before).unwrap();
    drop(others);
    assert!(answer(&connect(&guest), 2, "counters").contains("overhead_kib"));
    assert!(answer(&first, 3, "stop").contains("done"));
    assert_eq!(child.wait().code(), Some(0));
}

#[test]
fn signals_end_the_machine_in_good_order() {
    if !kvm() {
        return;
    }
    for signal in ["-INT", "-TERM", "-HUP"] {
        let guest = Guest::new(busy());
        let (mut child, _stream) = start_with_control(&guest);
        let killed =
            Command::new("kill").args([signal, &child.0.id().to_string()]).status().unwrap();
        assert!(killed.success());
        assert_eq!(child.wait().code(), Some(0), "{signal}");
        assert!(!guest.path("control").exists(), "{signal}");
    }
}

#[test]
fn a_console_that_nobody_reads_does_not_keep_the_machine_from_pausing_and_stopping() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(chatter());
    let mut config = guest.config();
    config.serial = Some(SerialOutput::Stdout);
    let (reader, writer) = std::io::pipe().unwrap();
    let (mut vmm, mut messages) =
        Vmm::spawn(program(), &config, writer.into(), Stdio::null()).unwrap();
    // SAFETY: the descriptor is open; the call only asks for the pipe's size.
    let size = unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_GETPIPE_SZ) };
    let mut held = 0;
    while held < size {
        // SAFETY: the descriptor is open and the pointer is to an int of ours.
        unsafe { libc::ioctl(reader.as_raw_fd(), libc::FIONREAD, &raw mut held) };
        thread::sleep(Duration::from_millis(5));
    }
    ask(&mut vmm, &mut messages, RequestKind::Pause);
    ask(&mut vmm, &mut messages, RequestKind::Resume);
    ask(&mut vmm, &mut messages, RequestKind::Stop);
    assert_eq!(until_end(&mut messages).end, End::Stopped);
}
