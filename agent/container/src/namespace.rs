//! Namespaces of a container (namespaces(7)): which are made, which are joined, and in which order.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    process::Pid,
    thread::{LinkNameSpaceType, UnshareFlags},
};

use crate::{
    error::{Error, at},
    idmap::Maps,
    procfs,
    spec::{Linux, NamespaceType, TimeOffset},
    sys,
};

/// The namespaces of a container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Namespaces {
    /// Made together with the process.
    pub(crate) flags: u64,
    /// Made by the process itself: a cgroup namespace begins in the group in which it is made.
    pub(crate) cgroup: bool,
    /// Clocks that differ, when there is a new time namespace.
    pub(crate) time: Option<Vec<(&'static str, TimeOffset)>>,
    /// Joined by the process.
    join: Vec<Joined>,
    /// A PID namespace to join: that is done for the process, not by it.
    pub(crate) pid: Option<Joined>,
    pub(crate) maps: Maps,
}

/// A namespace to join.
#[derive(Debug, Clone)]
pub(crate) struct Joined {
    kind: NamespaceType,
    path: String,
    /// Its place in the specification.
    number: usize,
}

impl Namespaces {
    /// # Errors
    /// [`Error::Invalid`] for namespaces that cannot be had together.
    pub(crate) fn new(linux: &Linux) -> Result<Self, Error> {
        let mut all = Self::default();
        let mut seen = Vec::new();
        for (number, namespace) in linux.namespaces.iter().enumerate() {
            let kind = namespace.kind;
            if seen.contains(&kind) {
                let field = format!("linux.namespaces[{number}].type");
                return Err(Error::invalid(field, name(kind), "each type can be there once"));
            }
            seen.push(kind);
            let path = namespace.path.as_ref().filter(|path| !path.is_empty());
            if let Some(bad) = path.filter(|path| !path.starts_with('/') || path.contains('\0')) {
                let field = format!("linux.namespaces[{number}].path");
                return Err(Error::invalid(field, bad, "an absolute path is wanted"));
            }
            let joined = path.map(|path| Joined { kind, path: path.clone(), number });
            match (joined, kind) {
                (None, NamespaceType::Cgroup) => all.cgroup = true,
                (None, NamespaceType::Time) => all.time = Some(offsets(linux)?),
                (None, kind) => all.flags |= flag(kind),
                (joined @ Some(_), NamespaceType::Pid) => all.pid = joined,
                (Some(joined), _) => all.join.push(joined),
            }
        }
        if !linux.time_offsets.is_empty() && all.time.is_none() {
            let why = "it needs a new time namespace in linux.namespaces";
            return Err(Error::invalid("linux.timeOffsets", linux.time_offsets.len(), why));
        }
        all.maps = Maps::new(&linux.uid_mappings, &linux.gid_mappings, &|list| {
            format!("linux.{list}Mappings")
        })?;
        if all.new_user() {
            let missing = if all.maps.is_empty() { Some("uid") } else { all.maps.without_root() };
            if let Some(list) = missing {
                let why = "a new user namespace needs a line for containerID 0";
                return Err(Error::invalid(format!("linux.{list}Mappings"), "", why));
            }
        } else if !all.maps.is_empty() && !all.has(NamespaceType::User) {
            let why = "it needs a user namespace in linux.namespaces";
            return Err(Error::invalid("linux.uidMappings", linux.uid_mappings.len(), why));
        }
        Ok(all)
    }

    pub(crate) fn new_user(&self) -> bool {
        self.flags & flag(NamespaceType::User) != 0
    }

    pub(crate) fn new_mount(&self) -> bool {
        self.flags & flag(NamespaceType::Mount) != 0
    }

    /// The process sees or is seen by processes of other containers before its program runs.
    pub(crate) fn shares_processes(&self) -> bool {
        self.flags & flag(NamespaceType::Pid) == 0
    }

    /// The container has one that need not be its maker's.
    pub(crate) fn has(&self, kind: NamespaceType) -> bool {
        self.flags & flag(kind) != 0 || self.joins(kind)
    }

    fn joins(&self, kind: NamespaceType) -> bool {
        self.join.iter().any(|joined| joined.kind == kind)
    }

    pub(crate) fn has_time(&self) -> bool {
        self.time.is_some() || self.joins(NamespaceType::Time)
    }

    pub(crate) fn has_cgroup(&self) -> bool {
        self.cgroup || self.joins(NamespaceType::Cgroup)
    }

    /// A process has to go before: it joins what the container's first one is then made in. A new namespace belongs to
    /// the user namespace of whoever makes it, and in a new user namespace nothing can be joined any more.
    pub(crate) fn needs_forerunner(&self) -> bool {
        self.joins(NamespaceType::User) || self.new_user() && !self.join.is_empty()
    }

    /// Writes the maps of the new user namespace of `pid`.
    pub(crate) fn map_ids(&self, pid: Pid) -> Result<(), Error> {
        self.maps.write(pid)
    }

    /// Joins those that exist. What the user namespace that is joined has no rights to is joined before it, the others
    /// after it.
    pub(crate) fn join(&self) -> Result<(), Error> {
        let of = |user| {
            self.join.iter().filter(move |joined| (joined.kind == NamespaceType::User) == user)
        };
        let mut later = Vec::new();
        let files = of(false)
            .map(|joined| Ok((joined, joined.open()?)))
            .collect::<Result<Vec<_>, Error>>()?;
        let user = of(true).map(|joined| Ok((joined, joined.open()?))).next().transpose()?;
        for (joined, file) in files {
            match joined.enter(&file) {
                Err(Error::System { errno: Errno::PERM, .. }) if user.is_some() => {
                    later.push((joined, file));
                }
                entered => entered?,
            }
        }
        if let Some((joined, file)) = user {
            joined.enter(&file)?;
        }
        later.iter().try_for_each(|(joined, file)| joined.enter(file))
    }

    /// Makes what the process itself has to.
    pub(crate) fn make(&self) -> Result<(), Error> {
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

    /// Finds paths that are no namespaces of their types, in the caller's process.
    pub(crate) fn check_paths(&self) -> Result<(), Error> {
        self.join.iter().chain(&self.pid).try_for_each(|joined| joined.open().map(drop))
    }
}

impl Joined {
    /// # Errors
    /// [`Error::Invalid`] when there is no namespace of its type.
    fn open(&self) -> Result<OwnedFd, Error> {
        let wrong = |why: String| {
            Error::invalid(format!("linux.namespaces[{}].path", self.number), &self.path, why)
        };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.path, flags, Mode::empty())
            .map_err(|errno| wrong(errno.to_string()))?;
        match sys::namespace_type(file.as_fd()) {
            Ok(kind) if kind == flag(self.kind) => Ok(file),
            _ => Err(wrong(format!("it is no namespace of type {}", name(self.kind)))),
        }
    }

    /// Joins it, or, with a PID namespace, has children join it.
    fn enter(&self, file: &OwnedFd) -> Result<(), Error> {
        rustix::thread::move_into_link_name_space(file.as_fd(), Some(link(self.kind)))
            .map_err(at("join the namespace", &self.path))
    }

    /// Has this process's children join it.
    pub(crate) fn for_children(&self) -> Result<(), Error> {
        self.enter(&self.open()?)
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
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Time))
        .map_err(at("join", path))
}

fn offsets(linux: &Linux) -> Result<Vec<(&'static str, TimeOffset)>, Error> {
    linux
        .time_offsets
        .iter()
        .map(|(clock, offset)| {
            let clock = match clock.as_str() {
                "monotonic" => "monotonic",
                "boottime" => "boottime",
                _ => {
                    let why = "monotonic and boottime are the clocks that can be set";
                    return Err(Error::invalid("linux.timeOffsets", clock, why));
                }
            };
            if offset.nanosecs > 999_999_999 {
                let field = format!("linux.timeOffsets.{clock}.nanosecs");
                return Err(Error::invalid(field, offset.nanosecs, "0 to 999999999 are wanted"));
            }
            Ok((clock, *offset))
        })
        .collect()
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
        assert!(all.needs_forerunner());
        let none = namespaces(r#"{"namespaces": []}"#).unwrap();
        assert!(!none.new_mount() && !none.needs_forerunner());
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        for (json, field) in [
            (
                r#"{"namespaces": [{"type": "mount"}, {"type": "mount"}]}"#,
                "linux.namespaces[1].type",
            ),
            (
                r#"{"namespaces": [{"type": "mount", "path": "proc/1/ns/mnt"}]}"#,
                "linux.namespaces[0].path",
            ),
            (
                r#"{"namespaces": [{"type": "time"}], "timeOffsets": {"realtime": {}}}"#,
                "linux.timeOffsets",
            ),
            (
                r#"{"namespaces": [{"type": "time"}],
                    "timeOffsets": {"monotonic": {"nanosecs": 1000000000}}}"#,
                "linux.timeOffsets.monotonic.nanosecs",
            ),
            (r#"{"timeOffsets": {"monotonic": {"secs": 1}}}"#, "linux.timeOffsets"),
            (r#"{"namespaces": [{"type": "user"}]}"#, "linux.uidMappings"),
            (
                r#"{"uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
                    "gidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]}"#,
                "linux.uidMappings",
            ),
            (
                r#"{"namespaces": [{"type": "user"}],
                    "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
                    "gidMappings": [{"containerID": 1, "hostID": 0, "size": 1}]}"#,
                "linux.gidMappings",
            ),
        ] {
            let error = namespaces(json).unwrap_err().to_string();
            assert!(error.starts_with(field), "{json}: {error}");
        }
    }

    #[test]
    fn a_path_must_be_a_namespace_of_its_type() {
        for (kind, path, fine) in [
            ("network", "/proc/self/ns/net", true),
            ("ipc", "/proc/self/ns/net", false),
            ("mount", "/etc/passwd", false),
            ("pid", "/no/such", false),
        ] {
            let json = format!(r#"{{"namespaces": [{{"type": "{kind}", "path": "{path}"}}]}}"#);
            let checked = namespaces(&json).unwrap().check_paths();
            assert_eq!(checked.is_ok(), fine, "{json}: {checked:?}");
        }
    }
}
