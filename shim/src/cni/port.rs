//! Published ports: `[IP:]HOST:CONTAINER[/PROTOCOL]`, and the sockets that keep them this container's.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    str::FromStr,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, bind, socket_with,
        sockopt::{set_ipv6_v6only, set_socket_reuseaddr},
    },
};
use serde::{Deserialize, Serialize};

use super::CniError;

/// A port of the host that leads to one of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The host's address; absent: each that it has.
    pub ip: Option<IpAddr>,
    /// On the host.
    pub host: u16,
    /// In the container.
    pub container: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// As `docker ps` has it.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{}/{}", self.at(), self.container, self.protocol)
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || "[IP:]HOST:CONTAINER[/tcp|udp] is needed, with ports from 1 to 65535".to_owned();
        let (rest, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.split('/').next().unwrap_or(text), Protocol::Tcp),
            Some((rest, "udp")) => (rest, Protocol::Udp),
            Some(_) => return Err(bad()),
        };
        let (rest, container) = rest.rsplit_once(':').ok_or_else(bad)?;
        let (ip, host) = match rest.rsplit_once(':') {
            None => (None, rest),
            Some((ip, host)) => {
                let inner = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
                let ip = match inner {
                    Some(ip) => ip.parse::<Ipv6Addr>().map(IpAddr::from),
                    None => ip.parse::<Ipv4Addr>().map(IpAddr::from),
                };
                (Some(ip.map_err(|_| bad())?), host)
            }
        };
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|&port: &u16| digits && port > 0).ok_or_else(bad)
        };
        Ok(Self { ip, host: number(host)?, container: number(container)?, protocol })
    }
}

impl Port {
    /// The host's side: address and port.
    fn at(&self) -> SocketAddr {
        SocketAddr::new(self.ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), self.host)
    }

    /// The host's side, for people.
    pub(super) fn name(&self) -> String {
        match self.ip {
            None => format!("{}/{}", self.host, self.protocol),
            Some(_) => format!("{}/{}", self.at(), self.protocol),
        }
    }

    /// Whether a packet could be for either.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let every = |ip: Option<IpAddr>, of: Option<IpAddr>| {
            ip.is_none_or(|ip| {
                ip.is_unspecified() && of.is_none_or(|of| of.is_ipv4() == ip.is_ipv4())
            })
        };
        self.host == other.host
            && self.protocol == other.protocol
            && (self.ip == other.ip || every(self.ip, other.ip) || every(other.ip, self.ip))
    }

    /// Takes the port on the host, so that nobody else uses it while the socket is open; none listens on it.
    ///
    /// # Errors
    /// [`CniError::PortUsed`], [`CniError::NoSuchAddress`].
    pub(super) fn hold(&self) -> Result<OwnedFd, CniError> {
        let held = match self.ip {
            // Both families, where the host has both.
            None => match self.socket(Ipv6Addr::UNSPECIFIED.into()) {
                Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {
                    self.socket(Ipv4Addr::UNSPECIFIED.into())
                }
                held => held,
            },
            Some(ip) => self.socket(ip),
        };
        held.map_err(|errno| match errno {
            Errno::ADDRINUSE => CniError::PortUsed { port: self.name() },
            Errno::ADDRNOTAVAIL => CniError::NoSuchAddress { port: self.name() },
            errno => CniError::System {
                what: format!("take the port {}", self.name()),
                source: io::Error::from(errno),
            },
        })
    }

    fn socket(&self, ip: IpAddr) -> Result<OwnedFd, Errno> {
        // A connection that a server on this port had keeps the port for a minute, unless this is asked.
        match self.bound(ip, false) {
            Err(Errno::ADDRINUSE) if self.protocol == Protocol::Tcp => self.bound(ip, true),
            bound => bound,
        }
    }

    fn bound(&self, ip: IpAddr, reuse: bool) -> Result<OwnedFd, Errno> {
        let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let kind = match self.protocol {
            Protocol::Tcp => SocketType::STREAM,
            Protocol::Udp => SocketType::DGRAM,
        };
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        if ip.is_ipv6() {
            set_ipv6_v6only(&socket, self.ip.is_some())?;
        }
        set_socket_reuseaddr(&socket, reuse)?;
        bind(&socket, &SocketAddr::new(ip, self.host))?;
        // From now on nobody shares it.
        set_socket_reuseaddr(&socket, false)?;
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn port(text: &str) -> Port {
        text.parse().unwrap()
    }

    #[test]
    fn ports_are_written_as_docker_writes_them() {
        for (text, name, shown) in [
            ("8080:80", "8080/tcp", "0.0.0.0:8080->80/tcp"),
            ("8080:80/tcp", "8080/tcp", "0.0.0.0:8080->80/tcp"),
            ("127.0.0.1:53:5353/udp", "127.0.0.1:53/udp", "127.0.0.1:53->5353/udp"),
            ("[::1]:1:65535", "[::1]:1/tcp", "[::1]:1->65535/tcp"),
        ] {
            let port = port(text);
            assert_eq!((port.name().as_str(), port.to_string().as_str()), (name, shown));
            let json = serde_json::to_string(&port).unwrap();
            assert_eq!(serde_json::from_str::<Port>(&json).unwrap(), port);
        }
        for bad in [
            "",
            "80",
            "80:",
            ":80",
            "0:80",
            "80:0",
            "65536:1",
            "1:65536",
            "a:80",
            "80:80/sctp",
            "80:80/",
            "80:80/tcp/udp",
            "::1:80:80",
            "1.2.3:80:80",
            "[1.2.3.4]:80:80",
            "[::1:80:80",
            "+1:80",
            "host:80:80",
            "-1:80",
            "1:2:3:4",
        ] {
            let refused = bad.parse::<Port>().unwrap_err();
            assert!(refused.contains("HOST:CONTAINER"), "{bad}: {refused}");
        }
    }

    #[test]
    fn ports_meet_where_a_packet_could_be_for_both() {
        let meet = |a: &str, b: &str| {
            let (a, b) = (port(a), port(b));
            assert_eq!(a.meets(&b), b.meets(&a));
            a.meets(&b)
        };
        for (a, b) in [
            ("80:1", "80:2"),
            ("127.0.0.1:80:1", "80:2"),
            ("0.0.0.0:80:1", "127.0.0.1:80:2"),
            ("[::]:80:1", "[::1]:80:2"),
            ("[::1]:80:1", "80:2"),
            ("[::]:80:1", "80:1"),
        ] {
            assert!(meet(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("80:1", "81:1"),
            ("80:1", "80:1/udp"),
            ("127.0.0.1:80:1", "127.0.0.2:80:1"),
            ("0.0.0.0:80:1", "[::1]:80:1"),
            ("[::]:80:1", "0.0.0.0:80:1"),
        ] {
            assert!(!meet(a, b), "{a} {b}");
        }
    }

    #[test]
    fn a_port_is_held_by_one() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = other.local_addr().unwrap().port();
        for ip in ["", "127.0.0.1:", "0.0.0.0:"] {
            let error = port(&format!("{ip}{taken}:80")).hold().unwrap_err().to_string();
            assert!(error.contains(&taken.to_string()) && error.contains("in use"), "{error}");
        }
        let error = port("192.0.2.77:1:80").hold().unwrap_err().to_string();
        assert!(error.contains("192.0.2.77:1/tcp"), "{error}");
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        let taken = other.local_addr().unwrap().port();
        assert!(port(&format!("{taken}:53/udp")).hold().is_err());
    }
}
