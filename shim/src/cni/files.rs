//! What a container with a network has in `/etc`: its name, its addresses, and who knows those of others.

use std::{fmt::Write, fs, io, net::IpAddr, os::unix::fs::PermissionsExt, path::Path};

use super::{
    CniError,
    error::failed,
    outcome::{Address, Names},
};

/// The files, by their names in the container's directory and in its `/etc`.
pub const NAMES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];
/// The host's; the second one is that of a host whose own resolver listens where no container reaches it.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// The largest of these.
const MOST: usize = 64 << 10;

/// Writes them.
pub(super) fn write(
    directory: &Path,
    hostname: &str,
    addresses: &[Address],
    names: &Names,
) -> Result<(), CniError> {
    let resolver = match names.servers.is_empty() {
        false => own(names),
        true => hosts(&RESOLVERS.map(read), names),
    };
    for (name, text) in
        NAMES.into_iter().zip([known(hostname, addresses), format!("{hostname}\n"), resolver])
    {
        let path = directory.join(name);
        let written = || -> io::Result<()> {
            fs::write(&path, &text)?;
            // Whoever its program runs as reads it.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
        };
        written().map_err(failed(format!("write {}", path.display())))?;
    }
    Ok(())
}

fn read(path: &str) -> String {
    let text = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(text.get(..MOST).unwrap_or(&text)).into_owned()
}

/// `/etc/hosts` (hosts(5)).
fn known(hostname: &str, addresses: &[Address]) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    for Address { ip, .. } in addresses {
        let _ = writeln!(text, "{ip}\t{hostname}");
    }
    text
}

/// `/etc/resolv.conf` (resolv.conf(5)) as the network has it.
fn own(names: &Names) -> String {
    let mut text = String::new();
    for server in &names.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    more(text, names)
}

/// The same as the host has it, without the servers that only the host reaches.
fn hosts(texts: &[String], names: &Names) -> String {
    let reached = |line: &str| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("nameserver"), Some(server)) => {
                let ip = server.split('%').next().unwrap_or(server).parse::<IpAddr>();
                ip.is_ok_and(|ip| !ip.is_loopback()).then(|| format!("nameserver {server}"))
            }
            (Some("search" | "domain"), Some(_)) if !names.search.is_empty() => None,
            (Some("options"), Some(_)) if !names.options.is_empty() => None,
            (Some("search" | "domain" | "options" | "sortlist"), Some(_)) => {
                Some(line.trim().to_owned())
            }
            _ => None,
        }
    };
    let lines = |text: &String| text.lines().filter_map(reached).collect::<Vec<_>>();
    let all: Vec<Vec<String>> = texts.iter().map(lines).collect();
    let has_server = |lines: &&Vec<String>| lines.iter().any(|line| line.starts_with("nameserver"));
    let best = all.iter().find(has_server).or(all.first());
    let text = best.into_iter().flatten().map(|line| format!("{line}\n")).collect();
    more(text, names)
}

fn more(mut text: String, names: &Names) -> String {
    for (word, list) in [("search", &names.search), ("options", &names.options)] {
        if !list.is_empty() {
            let _ = writeln!(text, "{word} {}", list.join(" "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(servers: &[&str], search: &[&str]) -> Names {
        Names {
            servers: servers.iter().map(|ip| ip.parse().unwrap()).collect(),
            search: search.iter().map(|word| (*word).to_owned()).collect(),
            options: Vec::new(),
        }
    }

    #[test]
    fn names_are_the_networks_or_the_hosts() {
        assert_eq!(
            own(&names(&["10.0.0.1", "fd00::1"], &["a", "b"])),
            "nameserver 10.0.0.1\nnameserver fd00::1\nsearch a b\n"
        );
        let stub = "# comment\nnameserver 127.0.0.53\noptions edns0\nsearch lan\n".to_owned();
        let real = "nameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch lan\n".to_owned();
        let none = Names::default();
        assert_eq!(hosts(&[stub.clone(), String::new()], &none), "options edns0\nsearch lan\n");
        assert_eq!(
            hosts(&[stub, real.clone()], &none),
            "nameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch lan\n"
        );
        assert_eq!(
            hosts(&[real], &names(&[], &["net"])),
            "nameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch net\n"
        );
        assert_eq!(hosts(&[String::new(), String::new()], &none), "");
    }

    #[test]
    fn the_files_are_for_everybody_to_read() {
        let directory = tempfile::tempdir().unwrap();
        let address = Address { ip: [10, 89, 1, 2].into(), prefix: 24, gateway: None };
        for _ in 0..2 {
            write(directory.path(), "web", &[address], &names(&["10.0.0.1"], &[])).unwrap();
        }
        let file = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(
            file("hosts").contains("127.0.0.1\tlocalhost\n")
                && file("hosts").ends_with("10.89.1.2\tweb\n")
        );
        assert_eq!(
            (file("hostname").as_str(), file("resolv.conf").as_str()),
            ("web\n", "nameserver 10.0.0.1\n")
        );
        for name in NAMES {
            let mode = fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o644);
        }
    }
}
