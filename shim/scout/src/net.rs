//! What `bulkhead-scout io` does with its network.

use std::{
    io::{Error, Read, Result, Write},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

/// How long something may be under way.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection on which nothing waits for more to be sent.
pub(crate) fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection on which so many bytes come.
pub(crate) fn fetch(from: SocketAddr, bytes: u64) -> Result<TcpStream> {
    let mut stream = connect(from)?;
    stream.write_all(&bytes.to_le_bytes())?;
    Ok(stream)
}

/// Waits until all that was sent has been taken.
pub(crate) fn arrived(mut stream: &TcpStream) -> Result<()> {
    stream.shutdown(Shutdown::Write)?;
    stream.read_exact(&mut [0])
}

/// Sends a byte and waits for it; how many went there.
pub(crate) fn bounce(stream: &mut TcpStream) -> Result<usize> {
    stream.write_all(&[7])?;
    stream.read_exact(&mut [0])?;
    Ok(1)
}

/// A socket for datagrams to `with` and from it.
pub(crate) fn datagrams(with: SocketAddr) -> Result<UdpSocket> {
    let any: SocketAddr = match with {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(with)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// As [`bounce`].
pub(crate) fn datagram(socket: &UdpSocket) -> Result<usize> {
    socket.send(&[7])?;
    match socket.recv(&mut [0]) {
        Ok(1) => Ok(1),
        Ok(count) => Err(Error::other(format!("a datagram of {count} bytes came back"))),
        Err(error) => Err(Error::other(format!("a datagram did not come back: {error}"))),
    }
}
