//! Capabilities (capabilities(7)): names to sets, and the order in which a process gives them up.

use std::collections::BTreeSet;

use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set,
        configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    },
};

use crate::{
    error::{Error, at},
    spec,
};

/// In the order of their numbers (linux/capability.h).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The names of all capabilities that are known, `CAP_…`, in the order of their numbers.
pub fn capabilities() -> impl Iterator<Item = String> {
    NAMES.iter().map(|name| format!("CAP_{name}"))
}

/// The capability sets that a process ends up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sets {
    bounding: CapabilitySet,
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
}

impl Sets {
    /// The sets that a specification names, without those that the agent does not have itself and those that have no
    /// meaning to this kernel (as runc does). Without a specification: none.
    pub(crate) fn new(wanted: Option<&spec::Capabilities>, own: CapabilitySet) -> Self {
        let set = |names: &dyn Fn(&spec::Capabilities) -> &Vec<String>| {
            wanted.map_or(CapabilitySet::empty(), |wanted| parse(names(wanted)) & own)
        };
        let permitted = set(&|wanted| &wanted.permitted);
        let inheritable = set(&|wanted| &wanted.inheritable);
        Self {
            bounding: set(&|wanted| &wanted.bounding),
            effective: set(&|wanted| &wanted.effective) & permitted,
            permitted,
            inheritable,
            ambient: set(&|wanted| &wanted.ambient) & permitted & inheritable,
        }
    }

    /// Only what [`Sets::drop_bounding`] looks at.
    pub(crate) fn only_bounding(&self) -> Self {
        let none = CapabilitySet::empty();
        Self {
            bounding: self.bounding,
            effective: none,
            permitted: none,
            inheritable: none,
            ambient: none,
        }
    }

    /// A process with these sets can read and write the memory of others that it sees.
    pub(crate) fn can_trace(&self) -> bool {
        (self.bounding | self.permitted | self.inheritable).contains(CapabilitySet::SYS_PTRACE)
    }

    /// It may install a filter of system calls without `no_new_privs` (seccomp(2)).
    pub(crate) fn can_filter(&self) -> bool {
        self.effective.contains(CapabilitySet::SYS_ADMIN)
    }

    /// Its bounding set has all of the other's.
    pub(crate) fn bounds(&self, other: &Self) -> bool {
        self.bounding.contains(other.bounding)
    }

    /// Takes what is not in the bounding set out of it; needs `CAP_SETPCAP`. `dropped`: what is not in its one has been taken
    /// out already.
    pub(crate) fn drop_bounding(&self, dropped: Option<&Self>) -> Result<(), Error> {
        for bit in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            if self.bounding.contains(one)
                || dropped.is_some_and(|dropped| !dropped.bounding.contains(one))
            {
                continue;
            }
            match remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                // Past the kernel's last one.
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(at("drop from the bounding set capability", bit)(errno)),
            }
        }
        Ok(())
    }

    /// Takes on the other sets. `ambient_may_be_set`: the ambient set may have something in it now.
    pub(crate) fn apply(&self, ambient_may_be_set: bool) -> Result<(), Error> {
        let sets = CapabilitySets {
            effective: self.effective,
            permitted: self.permitted,
            inheritable: self.inheritable,
        };
        set_capabilities(None, sets).map_err(at("set", "process.capabilities"))?;
        if ambient_may_be_set {
            clear_ambient_capability_set().map_err(at("clear", "the ambient capabilities"))?;
        }
        for one in self.ambient.iter() {
            configure_capability_in_ambient_set(one, true)
                .map_err(at("set", "process.capabilities.ambient"))?;
        }
        Ok(())
    }
}

/// A line for each name that no kernel knows.
pub(crate) fn warnings(wanted: &spec::Capabilities) -> Vec<String> {
    let spec::Capabilities { bounding, effective, inheritable, permitted, ambient } = wanted;
    let all = [bounding, effective, inheritable, permitted, ambient].into_iter().flatten();
    let unknown: BTreeSet<_> = all.filter(|name| bit(name).is_none()).collect();
    unknown
        .into_iter()
        .map(|name| {
            format!("process.capabilities {name:?} is left out: no capability has this name")
        })
        .collect()
}

fn bit(name: &str) -> Option<usize> {
    let short = name.strip_prefix("CAP_").unwrap_or(name);
    NAMES.iter().position(|known| known.eq_ignore_ascii_case(short))
}

fn parse(names: &[String]) -> CapabilitySet {
    let one = |bit| CapabilitySet::from_bits_retain(1_u64 << bit);
    names
        .iter()
        .filter_map(|name| bit(name))
        .fold(CapabilitySet::empty(), |set, bit| set | one(bit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn names_have_the_kernels_numbers() {
        let set = parse(&names(&["CAP_CHOWN", "SYS_ADMIN", "CAP_bpf", "CAP_FLY"]));
        assert_eq!(set, CapabilitySet::CHOWN | CapabilitySet::SYS_ADMIN | CapabilitySet::BPF);
        let wanted = spec::Capabilities {
            bounding: names(&["CAP_FLY", "CAP_KILL"]),
            effective: names(&["CAP_FLY"]),
            ..spec::Capabilities::default()
        };
        let warnings = warnings(&wanted);
        assert!(warnings.len() == 1 && warnings[0].contains("CAP_FLY"), "{warnings:?}");
    }

    #[test]
    fn sets_are_cut_to_what_can_be_had() {
        let all = names(&["CAP_CHOWN", "CAP_KILL"]);
        let wanted = spec::Capabilities {
            bounding: all.clone(),
            effective: all.clone(),
            permitted: names(&["CAP_KILL"]),
            inheritable: Vec::new(),
            ambient: all,
        };
        let sets = Sets::new(Some(&wanted), CapabilitySet::KILL | CapabilitySet::SYS_ADMIN);
        assert_eq!(sets.bounding, CapabilitySet::KILL);
        assert_eq!(sets.effective, CapabilitySet::KILL);
        assert_eq!(sets.ambient, CapabilitySet::empty());
        assert!(!sets.can_trace() && !sets.can_filter());
        let none = Sets::new(None, CapabilitySet::all());
        assert_eq!(none.bounding, CapabilitySet::empty());
        assert!(sets.bounds(&none) && sets.bounds(&sets) && !none.bounds(&sets));
    }
}
