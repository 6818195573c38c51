//! Where a process that joins a container runs (`execCPUAffinity`, sched_setaffinity(2)).

use rustix::thread::CpuSet;

use crate::{
    error::{Error, at},
    spec::CpuAffinity,
};

/// The processors before and after the process is in the container's cgroup.
#[derive(Debug, Default)]
pub(crate) struct Affinity {
    first: Option<CpuSet>,
    last: Option<CpuSet>,
}

impl Affinity {
    /// # Errors
    /// [`Error::Invalid`].
    pub(crate) fn new(wanted: Option<&CpuAffinity>) -> Result<Self, Error> {
        let Some(wanted) = wanted else { return Ok(Self::default()) };
        let set = |list: &Option<String>, field| {
            let list = list.as_deref().filter(|list| !list.is_empty());
            list.map(|list| parse(list, field)).transpose()
        };
        Ok(Self {
            first: set(&wanted.initial, "process.execCPUAffinity.initial")?,
            last: set(&wanted.last, "process.execCPUAffinity.final")?,
        })
    }

    pub(crate) fn apply_first(&self) -> Result<(), Error> {
        self.first.as_ref().map_or(Ok(()), apply)
    }

    pub(crate) fn apply_last(&self) -> Result<(), Error> {
        self.last.as_ref().map_or(Ok(()), apply)
    }
}

fn apply(set: &CpuSet) -> Result<(), Error> {
    rustix::thread::sched_setaffinity(None, set).map_err(at("set", "process.execCPUAffinity"))
}

fn parse(list: &str, field: &'static str) -> Result<CpuSet, Error> {
    let wrong =
        || Error::invalid(field, list, "a list as 0-3,7 is wanted, of processors under 1024");
    let mut set = CpuSet::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= CpuSet::MAX_CPU {
            return Err(wrong());
        }
        (first..=last).for_each(|cpu| set.set(cpu));
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        let set = parse("0-2,7", "x").unwrap();
        let cpus: Vec<_> = (0..16).filter(|cpu| set.is_set(*cpu)).collect();
        assert_eq!(cpus, [0, 1, 2, 7]);
        for bad in ["", "a", "3-1", "1024", "1,,2", "-1"] {
            assert!(parse(bad, "x").is_err(), "{bad}");
        }
    }
}
