//! Kernel parameters (sysctl(8)) of the namespaces that a container has for itself.

use std::{
    collections::BTreeMap,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::{
    error::{Error, at},
    namespace::Namespaces,
    spec::NamespaceType,
};

/// Where they are.
const DIRECTORY: &str = "/proc/sys";

/// Parameters to set: files under [`DIRECTORY`] and their values.
#[derive(Debug, Default)]
pub(crate) struct Sysctls {
    list: Vec<(String, String)>,
    /// That directory, where it can be written to no more by its path.
    directory: Option<RawFd>,
}

/// The directory, however it is hidden later; `None` without a `/proc`.
pub(crate) fn open() -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, DIRECTORY, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).ok()
}

const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

impl Sysctls {
    /// `owns_network`: the container is alone in the network namespace that it shares with the agent.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a parameter that others would feel.
    pub(crate) fn new(
        wanted: &BTreeMap<String, String>,
        namespaces: &Namespaces,
        owns_network: bool,
    ) -> Result<Self, Error> {
        let mut all = Vec::new();
        for (key, value) in wanted {
            let key = dotted(key);
            let own = if IPC.contains(&key.as_str()) || key.starts_with("fs.mqueue.") {
                namespaces.has(NamespaceType::Ipc)
            } else if key == "kernel.domainname" || key == "kernel.hostname" {
                namespaces.has(NamespaceType::Uts)
            } else {
                key.starts_with("net.") && (owns_network || namespaces.has(NamespaceType::Network))
            };
            let file: Vec<_> = key.split('.').map(|part| part.replace('/', ".")).collect();
            if !own || file.iter().any(|part| matches!(part.as_str(), "" | "." | "..")) {
                return Err(Error::invalid(
                    "linux.sysctl",
                    key,
                    "it is not of a namespace that the container has for itself",
                ));
            }
            all.push((file.join("/"), value.clone()));
        }
        Ok(Self { list: all, directory: None })
    }

    /// Has them written in this directory, which [`open`] returned.
    pub(crate) fn write_in(&mut self, directory: Option<RawFd>) {
        self.directory = directory;
    }

    /// The directory, when there is something to write.
    pub(crate) fn named(&mut self) -> Option<&mut RawFd> {
        self.directory.as_mut().filter(|_| !self.list.is_empty())
    }

    /// Writes them, through the container's own `/proc`.
    pub(crate) fn apply(&self) -> Result<(), Error> {
        for (name, value) in &self.list {
            let path = || format!("{DIRECTORY}/{name}");
            let open = |at: BorrowedFd<'_>, path: &str| {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat2(at, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
            };
            let file = match self.directory {
                // SAFETY: the process was made with it and has kept it.
                Some(directory) => open(unsafe { BorrowedFd::borrow_raw(directory) }, name),
                None => open(CWD, &path()),
            }
            .map_err(|errno| at("open", path())(errno))?;
            rustix::io::write(&file, value.as_bytes())
                .map_err(|errno| at("write", format_args!("{value:?} to {}", path()))(errno))?;
        }
        Ok(())
    }
}

/// `net/ipv4/conf/eth0.1/x` to `net.ipv4.conf.eth0/1.x`, as sysctl(8) does.
fn dotted(key: &str) -> String {
    if key.find(['.', '/']).and_then(|first| key.get(first..=first)) == Some("/") {
        key.chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect()
    } else {
        key.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_containers_own() {
        let linux = serde_json::from_str(
            r#"{"namespaces": [{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]}"#,
        )
        .unwrap();
        let namespaces = Namespaces::new(&linux).unwrap();
        let check = |key: &str, owns_network| {
            Sysctls::new(&BTreeMap::from([(key.into(), "1".into())]), &namespaces, owns_network)
                .map(|all| all.list[0].0.clone())
                .ok()
        };
        assert_eq!(check("kernel.msgmax", false).as_deref(), Some("kernel/msgmax"));
        assert_eq!(check("net.core.somaxconn", false), None);
        assert_eq!(check("net.core.somaxconn", true).as_deref(), Some("net/core/somaxconn"));
        let vlan = check("net/ipv4/conf/eth0.1/forwarding", true);
        assert_eq!(vlan.as_deref(), Some("net/ipv4/conf/eth0.1/forwarding"));
        for bad in ["kernel.panic", "vm.swappiness", "net./../kernel.panic", "net...x"] {
            assert_eq!(check(bad, true), None, "{bad}");
        }
    }
}
