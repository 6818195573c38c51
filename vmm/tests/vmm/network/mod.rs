//! The real guest kernel with network cards at taps of the host: traffic both ways, a saved machine whose slot gets a tap, a tap that goes away. All in a
//! network namespace of the test's own.

mod wires;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use bulkhead_vmm::api::{
    Counters, End, Mac, Messages, Nic, RequestKind, Response, SerialOutput, SnapshotFiles,
    VmConfig, Vmm, Vsock,
};

use self::wires::{Tap, own_network, v6};
use crate::{
    guest::{Guest, PATIENCE, connection, idle, until_end},
    kernel::{compile, initrd},
    shares::ready,
    snapshot::ask,
};

/// Bytes of a large transfer, each way.
const LARGE: usize = 256 << 10;

/// A machine that does what it is told over its socket.
struct Machine {
    vmm: Vmm,
    messages: Messages,
    orders: BufReader<UnixStream>,
    instructions: u64,
    _directory: tempfile::TempDir,
}

impl Machine {
    fn start(guest: &Guest, mut config: VmConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("vsock_7")).unwrap();
        listener.set_nonblocking(true).unwrap();
        config.vsock = Some(Vsock { cid: 3, path: directory.path().join("vsock") });
        let (vmm, messages) = guest.start(&config);
        let orders = connection(&listener, &guest.path("console"));
        Self { vmm, messages, orders, instructions: 0, _directory: directory }
    }

    fn order(&mut self, order: &str) -> String {
        writeln!(self.orders.get_mut(), "{order}").unwrap();
        let mut line = String::new();
        self.orders.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn done(&mut self, order: &str) {
        assert_eq!(self.order(order), "done", "{order}");
    }

    /// Orders until the answer is that.
    fn until(&mut self, order: &str, answer: &str) {
        let begin = Instant::now();
        loop {
            let said = self.order(order);
            if said == answer {
                return;
            }
            assert!(begin.elapsed() < PATIENCE && !said.contains("WRONG"), "{order}: {said}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn counters(&mut self) -> Counters {
        match ask(&mut self.vmm, &mut self.messages, RequestKind::Counters).unwrap() {
            Response::Counters(counters) => *counters,
            Response::Done => panic!("no counters"),
        }
    }

    /// Says what the guest's kernel did since the last time.
    fn note(&mut self, what: &str) {
        let now = self.counters();
        println!(
            "{what}: {} instructions; received {} frames of {} bytes, sent {} of {}; lost {}",
            now.instructions - self.instructions,
            now.net_received,
            now.net_received_bytes,
            now.net_sent,
            now.net_sent_bytes,
            now.net_dropped
        );
        assert_eq!(now.net_errors, 0);
        self.instructions = now.instructions;
    }

    fn save(&mut self) {
        let begin = Instant::now();
        while let Err(why) = ask(&mut self.vmm, &mut self.messages, RequestKind::Snapshot) {
            assert!(why.contains("busy") && begin.elapsed() < PATIENCE, "{why}");
            ask(&mut self.vmm, &mut self.messages, RequestKind::Resume).unwrap();
        }
    }

    fn end(mut self) {
        self.orders.get_mut().shutdown(Shutdown::Both).unwrap();
        assert_eq!(until_end(&mut self.messages).end, End::PowerOff);
    }
}

fn nic(last: u8, mtu: u16, tap: Option<&Tap>) -> Nic {
    let tap = tap.map(|tap| tap.name.clone());
    Nic { mac: Mac([2, 0, 0, 0, 0, last]), mtu, tap }
}

fn config(guest: &Guest, kernel: PathBuf, nics: Vec<Nic>) -> VmConfig {
    VmConfig {
        kernel,
        initrd: Some(guest.path("initrd")),
        memory_mib: 96,
        cmdline: "quiet".to_owned(),
        serial: Some(SerialOutput::File(guest.path("console"))),
        nics,
        ..guest.config()
    }
}

/// Gives back what it gets on port 90 of TCP and UDP.
fn serve() {
    let any = if v6() { "[::]:90" } else { "0.0.0.0:90" };
    let (tcp, udp) = (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap());
    // They end with the test's process.
    thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            thread::spawn(move || {
                let _ = std::io::copy(&mut &stream, &mut &stream);
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
    thread::spawn(move || {
        let mut data = vec![0; 1 << 16];
        while let Ok((length, from)) = udp.recv_from(&mut data) {
            let _ = udp.send_to(&data[..length], from);
        }
    });
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ at >> 8 ^ at >> 16).to_le_bytes()[0]).collect()
}

/// Connects to the guest, which may have to find out first that nobody else has its address.
fn connect(to: SocketAddr) -> TcpStream {
    let begin = Instant::now();
    loop {
        match TcpStream::connect_timeout(&to, Duration::from_secs(20)) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return stream;
            }
            Err(error) => assert!(begin.elapsed() < PATIENCE, "{to}: {error}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Sends bytes to the guest, which gives them back.
fn through_tcp(to: &str, length: usize) {
    let mut stream = connect(to.parse().unwrap());
    let mut writing = stream.try_clone().unwrap();
    let data = bytes(length);
    let sent = data.clone();
    let writer = thread::spawn(move || {
        writing.write_all(&sent).unwrap();
        writing.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == data, "{to}: {} of {length} bytes came back, or others", back.len());
}

/// The same with a datagram, again and again until one comes back.
fn through_udp(to: &str, length: usize) {
    let socket = UdpSocket::bind(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let data = bytes(length);
    let begin = Instant::now();
    let mut back = vec![0; 1 << 16];
    loop {
        socket.send_to(&data, to).unwrap();
        match socket.recv(&mut back) {
            Ok(count) => return assert!(back[..count] == data, "{count} other bytes"),
            Err(error) => assert!(begin.elapsed() < PATIENCE, "{to}: {error}"),
        }
    }
}

/// All sorts of traffic with the guest's interface at `tap`, whose address ends in 2.
fn talk(machine: &mut Machine, tap: &Tap, mtu: u16) {
    let net = tap.network;
    machine.note("before traffic");
    tap.ping();
    machine.note("ARP and one ping");
    tap.ping();
    machine.note("one more ping");
    through_udp(&format!("10.9.{net}.2:80"), 1);
    machine.note("UDP, 1 byte to the guest and back");
    for length in [usize::from(mtu) - 28, 65_507] {
        through_udp(&format!("10.9.{net}.2:80"), length);
        machine.until(&format!("udp 10.9.{net}.1:90 {length}"), "back");
    }
    machine.note("large datagrams, to the guest and from it, and back");
    through_tcp(&format!("10.9.{net}.2:80"), LARGE);
    machine.note("TCP, 256 KiB to the guest and back");
    assert_eq!(machine.order(&format!("tcp 10.9.{net}.1:90 {LARGE}")), "back");
    machine.note("TCP, 256 KiB from the guest and back");
    if v6() {
        through_udp(&format!("[fd00:0:0:{net}::2]:80"), 1000);
        through_tcp(&format!("[fd00:0:0:{net}::2]:80"), LARGE / 4);
        assert_eq!(machine.order(&format!("tcp [fd00:0:0:{net}::1]:90 {}", LARGE / 4)), "back");
        machine.note("IPv6: TCP, 64 KiB to the guest and back, and from it and back");
    }
}

#[test]
fn a_guest_talks_through_its_taps_and_so_do_those_that_go_on_from_it() {
    let Some(kernel) = ready() else { return };
    if !own_network() {
        return;
    }
    serve();
    let guest = Guest::new(idle());
    fs::write(guest.path("initrd"), initrd(&compile(&guest, "network"))).unwrap();
    let files = SnapshotFiles { state: guest.path("state"), memory: guest.path("memory") };
    let first = Tap::new(0, 1500);
    let mut shape = config(&guest, kernel, vec![nic(1, 65535, Some(&first)), nic(2, 65535, None)]);
    let mut template_config = shape.clone();
    template_config.snapshot = Some(files.clone());
    let mut template = Machine::start(&guest, template_config);
    template.note("boot with two network cards");
    assert_eq!(template.order("look eth0"), "[02, 00, 00, 00, 00, 01] 65535 false");
    assert_eq!(template.order("look eth1"), "[02, 00, 00, 00, 00, 02] 65535 false");
    // Both have probed and are down.
    template.save();
    ask(&mut template.vmm, &mut template.messages, RequestKind::Resume).unwrap();
    template.note("saved, and on");
    template.done("up eth0 10.9.0.2 1500");
    template.note("an interface goes up");
    if v6() {
        template.done("address6 eth0 fd00:0:0:0::2");
    }
    talk(&mut template, &first, 1500);

    // A slot that gets a tap of another MTU, with the guest's address and MTU set by the guest; a card that has lost its own.
    let second = Tap::new(1, 9000);
    shape.nics = vec![nic(5, 1500, None), nic(6, 9000, Some(&second))];
    shape.restore = Some(files.clone());
    let mut clone = Machine::start(&guest, shape.clone());
    clone.note("a clone");
    clone.done("mac eth1 6");
    clone.done("up eth1 10.9.1.2 9000");
    clone.note("an interface goes up");
    if v6() {
        clone.done("address6 eth1 fd00:0:0:1::2");
    }
    clone.until("look eth1", "[02, 00, 00, 00, 00, 06] 9000 true");
    clone.done("up eth0 10.9.7.2 1500");
    clone.until("look eth0", "[02, 00, 00, 00, 00, 01] 1500 false");
    talk(&mut clone, &second, 9000);

    // The host lets nothing larger through than it says.
    let third = Tap::new(2, 1500);
    shape.nics = vec![nic(5, 1500, Some(&third)), nic(6, 1500, None)];
    let mut other = Machine::start(&guest, shape);
    other.done("up eth0 10.9.2.2 9000");
    other.until("look eth0", "[02, 00, 00, 00, 00, 01] 9000 true");
    through_udp("10.9.2.2:80", 1000);
    assert_eq!(other.order("udp 10.9.2.1:90 5000"), "lost");
    assert!(other.counters().net_errors > 0);

    // A tap that is deleted is a cable that is pulled; the machine goes on, and its VMM rests.
    third.delete();
    other.until("look eth0", "[02, 00, 00, 00, 00, 01] 9000 false");
    let (begin, stat) = (Instant::now(), format!("/proc/{}/stat", other.vmm.pid()));
    while !fs::read_to_string(&stat).unwrap().contains(") S ") {
        assert!(begin.elapsed() < PATIENCE, "it never rests");
        thread::sleep(Duration::from_millis(1));
    }
    other.done("down eth0");
    other.done("up eth0 10.9.2.2 1500");
    for machine in [template, clone, other] {
        machine.end();
    }
}

#[test]
fn a_name_that_is_no_free_persistent_tap_is_refused_with_the_way_out() {
    if !crate::guest::kvm() || !rustix::process::geteuid().is_root() || !own_network() {
        return;
    }
    let guest = Guest::new(idle());
    let refused = |name: &str| {
        let nics = vec![Nic { tap: Some(name.to_owned()), ..nic(1, 1500, None) }];
        let (_vmm, mut messages) = guest.start(&VmConfig { nics, ..guest.config() });
        match until_end(&mut messages).end {
            End::Failed(why) => why,
            end => panic!("{end}"),
        }
    };
    let why = refused("missing0");
    assert!(why.contains("no persistent tap missing0") && why.contains("ip tuntap"), "{why}");
    assert!(!wires::exists("missing0"), "it made one");
    let why = refused("lo");
    assert!(why.contains("cannot use the tap lo"), "{why}");
    let tap = Tap::new(3, 1500);
    let _held = tap.hold();
    let why = refused(&tap.name);
    assert!(why.contains("something else holds it") && why.contains("02:00:00:00:00:01"), "{why}");
}
