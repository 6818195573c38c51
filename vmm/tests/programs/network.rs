//! The first process of a guest with network cards. The test compiles it, static and without crates. It does what the host's port 7 says, line by line,
//! and answers each with a line; meanwhile it gives back what it gets on port 80 of TCP and UDP.

use std::{
    ffi::{CString, c_int, c_ulong, c_void},
    fs::{self, File},
    io::{BufRead, BufReader, Error, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, FromRawFd},
    thread,
    time::Duration,
};

unsafe extern "C" {
    fn mount(
        from: *const i8,
        to: *const i8,
        kind: *const i8,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn reboot(how: c_int) -> c_int;
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn connect(socket: c_int, address: *const c_void, length: u32) -> c_int;
    fn ioctl(file: c_int, request: c_ulong, argument: *mut c_void) -> c_int;
}

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const AF_VSOCK: u16 = 40;
const SOCK_STREAM: c_int = 1;
const SOCK_DGRAM: c_int = 2;

/// A request about an interface (netdevice(7)): its name, and a union.
type Request = [u8; 40];

fn main() {
    if let Err(why) = run() {
        println!("@@ WRONG {why}");
    }
    // SAFETY: the call takes a number: restart.
    unsafe { reboot(0x0123_4567) };
}

fn run() -> Result<(), String> {
    let [from, to] = ["devtmpfs", "/dev"].map(|text| CString::new(text).unwrap_or_default());
    // SAFETY: the strings are zero-terminated. It may be there already.
    unsafe { mount(from.as_ptr(), to.as_ptr(), from.as_ptr(), 0, std::ptr::null()) };
    change("lo", 0x8914, 16, &1u16.to_ne_bytes())?;
    let tcp = tell("listen", TcpListener::bind("[::]:80"))?;
    thread::spawn(move || tcp.incoming().flatten().try_for_each(|stream| echo(&stream)));
    let udp = tell("bind", UdpSocket::bind("[::]:80"))?;
    thread::spawn(move || {
        let mut data = vec![0; 1 << 16];
        while let Ok((length, from)) = udp.recv_from(&mut data) {
            let _ = udp.send_to(&data[..length], from);
        }
    });
    let mut host = vsock(7)?;
    let orders = BufReader::new(tell("clone", host.try_clone())?);
    for order in orders.lines() {
        let order = tell("order", order)?;
        let words: Vec<_> = order.split(' ').collect();
        let answer = obey(&words).unwrap_or_else(|why| format!("WRONG {order}: {why}"));
        tell("answer", writeln!(host, "{answer}"))?;
    }
    Ok(())
}

fn obey(words: &[&str]) -> Result<String, String> {
    match words {
        // What the driver found: address, MTU, whether there is a link.
        ["look", name] => look(name),
        ["up", name, address, mtu] => {
            let mtu: u32 = mtu.parse().map_err(|_| "mtu")?;
            change(name, 0x8922, 16, &mtu.to_ne_bytes())?;
            let address: Ipv4Addr = address.parse().map_err(|_| "address")?;
            let socket = |bytes: [u8; 4]| [&AF_INET.to_ne_bytes()[..], &[0; 2], &bytes].concat();
            change(name, 0x8916, 16, &socket(address.octets()))?;
            change(name, 0x891c, 16, &socket([255, 255, 255, 0]))?;
            change(name, 0x8914, 16, &1u16.to_ne_bytes())?;
            Ok("done".to_owned())
        }
        ["down", name] => change(name, 0x8914, 16, &0u16.to_ne_bytes()).map(|_| "done".to_owned()),
        ["mac", name, last] => {
            let last: u8 = last.parse().map_err(|_| "mac")?;
            change(name, 0x8924, 16, &[1, 0, 2, 0, 0, 0, 0, last])?;
            Ok("done".to_owned())
        }
        ["address6", name, address] => address6(name, address).map(|()| "done".to_owned()),
        ["udp", to, length] => udp(to, length.parse().map_err(|_| "length")?),
        ["tcp", to, length] => tcp(to, length.parse().map_err(|_| "length")?),
        _ => Err("no such order".to_owned()),
    }
}

fn look(name: &str) -> Result<String, String> {
    let mac = change(name, 0x8927, 40, &[])?;
    let mtu = change(name, 0x8921, 40, &[])?;
    let mtu = u32::from_ne_bytes([mtu[16], mtu[17], mtu[18], mtu[19]]);
    // IFF_RUNNING is of use while the interface is up; lower-up is what the driver says.
    let flags = change(name, 0x8913, 40, &[])?;
    let running = u16::from_ne_bytes([flags[16], flags[17]]) & 0x40 != 0;
    Ok(format!("{:02x?} {mtu} {running}", &mac[18..24]))
}

/// Sends a datagram and gets it back.
fn udp(to: &str, length: usize) -> Result<String, String> {
    let to: SocketAddr = to.parse().map_err(|_| "address")?;
    let socket = tell("bind", UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }))?;
    tell("timeout", socket.set_read_timeout(Some(Duration::from_secs(5))))?;
    let data = pattern(length);
    tell("send", socket.send_to(&data, to))?;
    let mut back = vec![0; 1 << 16];
    match socket.recv(&mut back) {
        Ok(count) if back[..count] == data => Ok("back".to_owned()),
        Ok(count) => Err(format!("{count} other bytes")),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok("lost".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Sends bytes and gets them back, both at a time.
fn tcp(to: &str, length: usize) -> Result<String, String> {
    let stream = tell("connect", TcpStream::connect(to))?;
    let mut ours = tell("clone", stream.try_clone())?;
    let data = pattern(length);
    let sent = data.clone();
    let writer = thread::spawn(move || {
        let written = ours.write_all(&sent);
        written.and(ours.shutdown(Shutdown::Write))
    });
    let mut back = Vec::with_capacity(length);
    tell("read", (&stream).take(1 << 30).read_to_end(&mut back))?;
    tell("write", writer.join().map_err(|_| Error::other("panic")).flatten())?;
    if back == data { Ok("back".to_owned()) } else { Err(format!("{} other bytes", back.len())) }
}

fn echo(stream: &TcpStream) -> Option<()> {
    let (mut from, mut to) = (stream.try_clone().ok()?, stream.try_clone().ok()?);
    thread::spawn(move || {
        let mut data = vec![0; 1 << 18];
        while let Ok(count @ 1..) = from.read(&mut data) {
            if to.write_all(&data[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    Some(())
}

/// Asks the kernel something about an interface, or sets it.
fn change(name: &str, request: c_ulong, at: usize, value: &[u8]) -> Result<Request, String> {
    let mut argument: Request = [0; 40];
    argument[..name.len()].copy_from_slice(name.as_bytes());
    argument[at..at + value.len()].copy_from_slice(value);
    ask(AF_INET, request, &mut argument)?;
    Ok(argument)
}

fn address6(name: &str, address: &str) -> Result<(), String> {
    let address: Ipv6Addr = address.parse().map_err(|_| "address")?;
    // SIOCGIFINDEX, then SIOCSIFADDR with `struct in6_ifreq`.
    let index = change(name, 0x8933, 40, &[])?;
    let mut argument = [&address.octets()[..], &64u32.to_ne_bytes(), &index[16..20]].concat();
    ask(AF_INET6, 0x8916, &mut argument)
}

fn ask(family: u16, request: c_ulong, argument: &mut [u8]) -> Result<(), String> {
    // SAFETY: the calls take numbers, and an argument that is as long as they want it.
    let result = unsafe {
        let file = File::from_raw_fd(socket(family.into(), SOCK_DGRAM, 0));
        ioctl(file.as_raw_fd(), request, argument.as_mut_ptr().cast())
    };
    if result < 0 { Err(format!("ioctl {request:#x}: {}", Error::last_os_error())) } else { Ok(()) }
}

/// A connection to a port of the host.
fn vsock(port: u32) -> Result<File, String> {
    // struct sockaddr_vm: family, reserved, port, cid, zeros.
    let mut address = [0u8; 16];
    address[..2].copy_from_slice(&AF_VSOCK.to_ne_bytes());
    address[4..8].copy_from_slice(&port.to_ne_bytes());
    address[8..12].copy_from_slice(&2u32.to_ne_bytes());
    // SAFETY: the calls take numbers and an address that outlives them.
    unsafe {
        let socket = socket(AF_VSOCK.into(), SOCK_STREAM, 0);
        if socket < 0 || connect(socket, address.as_ptr().cast(), 16) != 0 {
            return Err(format!("connect to port {port}: {}", Error::last_os_error()));
        }
        Ok(File::from_raw_fd(socket))
    }
}

/// Bytes that differ from place to place; the host knows them too.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

fn tell<T>(what: &str, result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}
