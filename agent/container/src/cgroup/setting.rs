//! One control file and what to write into it, and the set of controllers that some of them need.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use crate::error::Error;

/// A value for a control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// The controller whose file it is; empty for the core's files.
    pub(super) controller: &'static str,
    pub(super) file: Cow<'static, str>,
    pub(super) value: String,
}

impl Setting {
    pub(super) fn new(file: &'static str, value: impl fmt::Display) -> Self {
        Self { controller: controller(file), file: file.into(), value: value.to_string() }
    }
}

fn controller(file: &str) -> &'static str {
    let prefix = file.split('.').next().unwrap_or_default();
    NAMES.into_iter().find(|name| *name == prefix).unwrap_or("")
}

/// `linux.resources.unified`: files as they are.
pub(super) fn unified(
    values: &BTreeMap<String, String>,
    all: &mut Vec<Setting>,
) -> Result<(), Error> {
    for (file, value) in values {
        if file.contains('/') || !file.contains('.') || file.starts_with('.') {
            return Err(Error::invalid(
                "linux.resources.unified",
                file,
                "a file of cgroup v2, such as memory.high, is wanted",
            ));
        }
        all.push(Setting {
            controller: controller(file),
            file: file.clone().into(),
            value: value.clone(),
        });
    }
    Ok(())
}

const NAMES: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];

/// A set of controllers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Controllers(u8);

impl Controllers {
    /// Those named in a line of `cgroup.controllers`; unknown ones are left out.
    pub(super) fn parse(text: &str) -> Self {
        text.split_whitespace().fold(Self::default(), Self::with)
    }

    pub(super) fn all() -> Self {
        NAMES.into_iter().fold(Self::default(), Self::with)
    }

    pub(super) fn of(settings: &[Setting]) -> Self {
        settings.iter().fold(Self::default(), |set, setting| set.with(setting.controller))
    }

    /// Those that every container has: memory tells who was killed for want of it.
    pub(super) fn basic() -> Self {
        Self::default().with("memory").with("pids")
    }

    fn with(self, name: &str) -> Self {
        NAMES.iter().position(|known| *known == name).map_or(self, |bit| Self(self.0 | 1 << bit))
    }

    pub(super) fn contains(self, name: &str) -> bool {
        NAMES.iter().position(|known| *known == name).is_some_and(|bit| self.0 & 1 << bit != 0)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn extend(&mut self, other: Self) {
        *self = self.union(other);
    }
}

/// As `cgroup.subtree_control` takes them: `+cpu +memory`.
impl fmt::Display for Controllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for name in NAMES.into_iter().filter(|name| self.contains(name)) {
            write!(f, "{gap}+{name}")?;
            gap = " ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_read_and_written_as_the_kernel_does() {
        let set = Controllers::parse("cpuset cpu io memory hugetlb pids rdma misc\n");
        assert_eq!(set.to_string(), "+cpu +cpuset +hugetlb +io +memory +pids");
        assert_eq!(set.without(Controllers::basic()).to_string(), "+cpu +cpuset +hugetlb +io");
        assert!(!set.contains("rdma") && !set.contains("") && set.contains("io"));
    }

    #[test]
    fn unified_names_files_only() {
        let mut all = Vec::new();
        let map = |file: &str| BTreeMap::from([(file.to_owned(), "1".to_owned())]);
        unified(&map("memory.high"), &mut all).unwrap();
        unified(&map("cgroup.max.depth"), &mut all).unwrap();
        assert_eq!(all[0].controller, "memory");
        assert_eq!(all[1].controller, "");
        for bad in ["../memory.max", "memory", ".hidden", "a/b.c"] {
            assert!(unified(&map(bad), &mut all).is_err(), "{bad}");
        }
    }
}
