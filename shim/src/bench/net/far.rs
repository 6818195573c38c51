//! The container's peer: it sends, takes, and gives back. Its threads end with the bench.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

/// Gives back what it gets, in connections and in datagrams (RFC 862).
pub(super) const ECHO: u16 = 7;
/// Takes bytes to their end, then sends one.
pub(super) const SINK: u16 = 9;
/// Sends as many bytes as the 8 that it gets first say.
pub(super) const SOURCE: u16 = 19;

/// Bytes of one read or write.
const PIECE: usize = 64 << 10;

/// Serves in this thread's network namespace.
pub(super) fn serve(address: IpAddr) -> io::Result<()> {
    for (port, serve) in [(ECHO, echo as fn(TcpStream) -> _), (SINK, sink), (SOURCE, source)] {
        let listener = TcpListener::bind((address, port))?;
        thread::Builder::new().spawn(move || {
            for stream in listener.incoming().flatten() {
                // One that cannot be served is closed; the scout tells.
                let _ = thread::Builder::new().spawn(move || serve(stream));
            }
        })?;
    }
    let socket = UdpSocket::bind((address, ECHO))?;
    thread::Builder::new().spawn(move || {
        let mut datagram = [0; 2048];
        loop {
            if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                let _ = socket.send_to(datagram.get(..length).unwrap_or_default(), from);
            }
        }
    })?;
    Ok(())
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; PIECE];
    loop {
        let length = stream.read(&mut buffer)?;
        match buffer.get(..length) {
            Some(piece) if !piece.is_empty() => stream.write_all(piece)?,
            _ => return Ok(()),
        }
    }
}

fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    while stream.read(&mut buffer)? > 0 {}
    stream.write_all(&[7])
}

fn source(mut stream: TcpStream) -> io::Result<()> {
    let mut wanted = [0; 8];
    stream.read_exact(&mut wanted)?;
    let mut left = u64::from_le_bytes(wanted);
    let buffer = vec![7; PIECE];
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        stream.write_all(buffer.get(..length).unwrap_or_default())?;
        left -= length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rustix::thread::{UnshareFlags, unshare_unsafe};

    use super::*;
    use crate::bench::net::wire;

    #[test]
    fn the_peer_sends_takes_and_gives_back() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: a network namespace needs root");
            return;
        }
        let body = || {
            // SAFETY: this thread's descriptors and memory stay as they are.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            wire::loopback_up().unwrap();
            let here = Ipv4Addr::LOCALHOST;
            serve(here.into()).unwrap();
            let mut stream = TcpStream::connect((here, SOURCE)).unwrap();
            stream.write_all(&100_000u64.to_le_bytes()).unwrap();
            let mut all = Vec::new();
            assert_eq!(stream.read_to_end(&mut all).unwrap(), 100_000);
            let mut stream = TcpStream::connect((here, SINK)).unwrap();
            stream.write_all(&all).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            all.clear();
            assert_eq!(stream.read_to_end(&mut all).unwrap(), 1);
            let mut stream = TcpStream::connect((here, ECHO)).unwrap();
            stream.write_all(b"there").unwrap();
            let mut back = [0; 5];
            stream.read_exact(&mut back).unwrap();
            let socket = UdpSocket::bind((here, 0)).unwrap();
            socket.send_to(&back, (here, ECHO)).unwrap();
            assert_eq!((socket.recv(&mut back).unwrap(), &back), (5, b"there"));
        };
        thread::spawn(body).join().unwrap();
    }
}
