//! Resource limits (getrlimit(2)).

use rustix::process::{Pid, Resource, Rlimit, prlimit, setrlimit};

use crate::{
    error::{Error, at},
    spec,
};

/// Limits to set on the process itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits(Vec<(Resource, &'static str, Rlimit)>);

impl Limits {
    /// # Errors
    /// [`Error::Invalid`] for a name that Linux does not have, or one that comes twice.
    pub(crate) fn new(wanted: &[spec::Rlimit]) -> Result<Self, Error> {
        let mut limits: Vec<(Resource, &'static str, Rlimit)> = Vec::new();
        for (number, limit) in wanted.iter().enumerate() {
            let field = |name| format!("process.rlimits[{number}].{name}");
            let Some((name, resource)) = RESOURCES.iter().find(|known| known.0 == limit.kind)
            else {
                return Err(Error::invalid(
                    field("type"),
                    &limit.kind,
                    "no limit has this name; RLIMIT_NOFILE is an example of one",
                ));
            };
            if limits.iter().any(|known| known.1 == *name) {
                return Err(Error::invalid(field("type"), name, "it is there twice"));
            }
            if limit.soft > limit.hard {
                let why = format!("it is more than the hard limit, {}", limit.hard);
                return Err(Error::invalid(field("soft"), limit.soft, why));
            }
            // All ones is "unlimited" (RLIM_INFINITY).
            let value = |value| (value != u64::MAX).then_some(value);
            let value = Rlimit { current: value(limit.soft), maximum: value(limit.hard) };
            limits.push((*resource, name, value));
        }
        Ok(Self(limits))
    }

    pub(crate) fn apply(&self) -> Result<(), Error> {
        self.0.iter().try_for_each(|(resource, name, limit)| {
            setrlimit(*resource, *limit).map_err(at("set the limit", name))
        })
    }

    /// Sets them on another process: one in a user namespace may not raise its own.
    pub(crate) fn apply_to(&self, process: Pid) -> Result<(), Error> {
        self.0.iter().try_for_each(|(resource, name, limit)| {
            prlimit(Some(process), *resource, *limit).map(drop).map_err(at("set the limit", name))
        })
    }
}

const RESOURCES: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let limit = |kind: &str| spec::Rlimit { kind: kind.into(), hard: u64::MAX, soft: 3 };
        let limits = Limits::new(&[limit("RLIMIT_CORE")]).unwrap();
        assert_eq!(limits.0[0].2, Rlimit { current: Some(3), maximum: None });
        assert!(Limits::new(&[limit("RLIMIT_LUCK")]).is_err());
        assert!(Limits::new(&[limit("RLIMIT_CORE"), limit("RLIMIT_CORE")]).is_err());
        let mut over = limit("RLIMIT_CORE");
        over.hard = 2;
        let error = Limits::new(&[limit("RLIMIT_CPU"), over]).unwrap_err().to_string();
        assert!(error.starts_with("process.rlimits[1].soft \"3\""), "{error}");
    }
}
