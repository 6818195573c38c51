//! Namespaces of a container (namespaces(7)): which are made, which are joined, and the maps of a new user namespace.

use rustix::{
    fs::{Mode, OFlags},
    process::Pid,
    thread::{LinkNameSpaceType, UnshareFlags},
};

use crate::{
    error::{Error, at},
    procfs,
    spec::{IdMapping, Linux, NamespaceType, TimeOffset},
};

/// The namespaces of a container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Namespaces {
    /// Made together with the process.
    pub(crate) flags: u64,
    /// Made by the process itself: a cgroup namespace begins in the group in which it is made.
    pub(crate) cgroup: bool,
    /// Clocks that differ, when there is a time namespace.
    pub(crate) time: Option<Vec<(&'static str, TimeOffset)>>,
    /// Joined, by path; the user namespace first.
    join: Vec<(NamespaceType, String)>,
    /// A PID namespace to join: that is done for the process, not by it.
    pub(crate) pid_path: Option<String>,
    maps: Option<(String, String)>,
}

impl Namespaces {
    /// # Errors
    /// [`Error::Invalid`] for namespaces that cannot be had together.
    pub(crate) fn new(linux: &Linux) -> Result<Self, Error> {
        let mut all = Self::default();
        let mut seen = Vec::new();
        for namespace in &linux.namespaces {
            if seen.contains(&namespace.kind) {
                let why = "each type can be there once";
                return Err(Error::invalid("linux.namespaces", name(namespace.kind), why));
            }
            seen.push(namespace.kind);
            match (&namespace.path, namespace.kind) {
                (None, NamespaceType::Cgroup) => all.cgroup = true,
                (None, NamespaceType::Time) => all.time = Some(offsets(linux)?),
                (None, kind) => all.flags |= flag(kind),
                (Some(_), NamespaceType::Mount | NamespaceType::Time) => {
                    return Err(Error::invalid(
                        "linux.namespaces.path of type",
                        name(namespace.kind),
                        "only a new one can be had",
                    ));
                }
                (Some(path), NamespaceType::Pid) => all.pid_path = Some(path.clone()),
                (Some(path), kind) => all.join.push((kind, path.clone())),
            }
        }
        if !seen.contains(&NamespaceType::Mount) {
            let why = "a container needs a mount namespace of its own";
            return Err(Error::invalid("linux.namespaces without", "mount", why));
        }
        all.join.sort_by_key(|(kind, _)| *kind != NamespaceType::User);
        if all.new_user() {
            all.maps = Some((map(&linux.uid_mappings), map(&linux.gid_mappings)));
        }
        Ok(all)
    }

    pub(crate) fn new_user(&self) -> bool {
        self.flags & flag(NamespaceType::User) != 0
    }

    /// The process sees or is seen by processes of other containers before its program runs.
    pub(crate) fn shares_processes(&self) -> bool {
        self.flags & flag(NamespaceType::Pid) == 0
    }

    pub(crate) fn has(&self, kind: NamespaceType) -> bool {
        self.flags & flag(kind) != 0 || self.join.iter().any(|(joined, _)| *joined == kind)
    }

    pub(crate) fn has_time(&self) -> bool {
        self.time.is_some() || self.has(NamespaceType::Time)
    }

    pub(crate) fn has_cgroup(&self) -> bool {
        self.cgroup || self.has(NamespaceType::Cgroup)
    }

    /// Writes the maps of the new user namespace of `pid`.
    pub(crate) fn map_ids(&self, pid: Pid) -> Result<(), Error> {
        let Some((uids, gids)) = &self.maps else { return Ok(()) };
        procfs::write(pid, "uid_map", uids)?;
        procfs::write(pid, "gid_map", gids)
    }

    /// Joins and makes what the process itself has to.
    pub(crate) fn enter(&self) -> Result<(), Error> {
        for (kind, path) in &self.join {
            let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(at("open the namespace", path))?;
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&file),
                Some(link(*kind)),
            )
            .map_err(at("join the namespace", path))?;
        }
        let mut flags = UnshareFlags::empty();
        flags.set(UnshareFlags::NEWCGROUP, self.cgroup);
        flags.set(UnshareFlags::NEWTIME, self.time.is_some());
        if !flags.is_empty() {
            // SAFETY: this process has one thread, and its descriptors stay its own.
            unsafe { rustix::thread::unshare_unsafe(flags) }
                .map_err(at("make the namespaces", format_args!("{flags:?}")))?;
        }
        if let Some(offsets) = &self.time {
            enter_time(offsets)?;
        }
        Ok(())
    }
}

/// A new time namespace is for children; the process moves in once the clocks are set (time_namespaces(7)).
fn enter_time(offsets: &[(&'static str, TimeOffset)]) -> Result<(), Error> {
    for (clock, TimeOffset { secs, nanosecs }) in offsets {
        procfs::write_self("timens_offsets", &format!("{clock} {secs} {nanosecs}"))?;
    }
    let path = "/proc/self/ns/time_for_children";
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(at("open", path))?;
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&file),
        Some(LinkNameSpaceType::Time),
    )
    .map_err(at("join", path))
}

fn offsets(linux: &Linux) -> Result<Vec<(&'static str, TimeOffset)>, Error> {
    linux
        .time_offsets
        .iter()
        .map(|(clock, offset)| match clock.as_str() {
            "monotonic" => Ok(("monotonic", *offset)),
            "boottime" => Ok(("boottime", *offset)),
            _ => Err(Error::invalid(
                "linux.timeOffsets",
                clock,
                "monotonic and boottime are the clocks that can be set",
            )),
        })
        .collect()
}

fn map(ids: &[IdMapping]) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for IdMapping { container_id, host_id, size } in ids {
        // A String takes all that is written.
        let _ = writeln!(text, "{container_id} {host_id} {size}");
    }
    text
}

fn flag(kind: NamespaceType) -> u64 {
    u64::from(link(kind) as u32)
}

fn link(kind: NamespaceType) -> LinkNameSpaceType {
    match kind {
        NamespaceType::Pid => LinkNameSpaceType::ProcessID,
        NamespaceType::Network => LinkNameSpaceType::Network,
        NamespaceType::Mount => LinkNameSpaceType::Mount,
        NamespaceType::Ipc => LinkNameSpaceType::InterProcessCommunication,
        NamespaceType::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
        NamespaceType::User => LinkNameSpaceType::User,
        NamespaceType::Cgroup => LinkNameSpaceType::ControlGroup,
        NamespaceType::Time => LinkNameSpaceType::Time,
    }
}

fn name(kind: NamespaceType) -> &'static str {
    match kind {
        NamespaceType::Pid => "pid",
        NamespaceType::Network => "network",
        NamespaceType::Mount => "mount",
        NamespaceType::Ipc => "ipc",
        NamespaceType::Uts => "uts",
        NamespaceType::User => "user",
        NamespaceType::Cgroup => "cgroup",
        NamespaceType::Time => "time",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces(json: &str) -> Result<Namespaces, Error> {
        Namespaces::new(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn new_ones_and_joined_ones() {
        let all = namespaces(
            r#"{"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"},
                {"type": "network", "path": "/run/netns/a"}, {"type": "user", "path": "/run/userns/b"}]}"#,
        )
        .unwrap();
        assert_eq!(all.flags, (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64);
        assert!(all.cgroup && !all.new_user() && !all.shares_processes());
        assert!(all.has(NamespaceType::Network) && !all.has(NamespaceType::Ipc));
        assert_eq!(all.join[0].0, NamespaceType::User);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for json in [
            r#"{"namespaces": [{"type": "pid"}]}"#,
            r#"{"namespaces": [{"type": "mount"}, {"type": "mount"}]}"#,
            r#"{"namespaces": [{"type": "mount", "path": "/proc/1/ns/mnt"}]}"#,
            r#"{"namespaces": [{"type": "mount"}, {"type": "time"}], "timeOffsets": {"realtime": {}}}"#,
        ] {
            assert!(matches!(namespaces(json), Err(Error::Invalid { .. })), "{json}");
        }
    }

    #[test]
    fn maps_have_a_line_each() {
        let ids = [
            IdMapping { container_id: 0, host_id: 100_000, size: 1000 },
            IdMapping { container_id: 1000, host_id: 5, size: 1 },
        ];
        assert_eq!(map(&ids), "0 100000 1000\n1000 5 1\n");
    }
}
