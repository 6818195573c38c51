//! Maps of user and group ids (user_namespaces(7)).

use std::{fs::File, io::Read};

use rustix::{io::Errno, process::Pid};

use crate::{
    error::{Error, at},
    procfs,
    spec::IdMapping,
};

/// As many lines as the kernel takes.
const MAX_LINES: usize = 340;
/// More than the text of that many.
const MAX_TEXT: u64 = 64 << 10;
/// Ids are 32 bits wide, and the last one stands for none.
const END: u64 = 1 << 32;

/// The two maps of a user namespace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Maps {
    uids: Vec<IdMapping>,
    gids: Vec<IdMapping>,
}

impl Maps {
    /// `field`: the property that holds the `uid` or `gid` list.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a map that the kernel would refuse.
    pub(crate) fn new(
        uids: &[IdMapping],
        gids: &[IdMapping],
        field: &dyn Fn(&str) -> String,
    ) -> Result<Self, Error> {
        for (list, name, other) in [(uids, "uid", gids), (gids, "gid", uids)] {
            check(list, &field(name))?;
            if list.is_empty() && !other.is_empty() {
                let why = "the other ids are mapped, so these must be, too";
                return Err(Error::invalid(field(name), "[]", why));
            }
        }
        Ok(Self { uids: uids.to_vec(), gids: gids.to_vec() })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.uids.is_empty()
    }

    /// The list, `uid` or `gid`, in which nothing stands for root.
    pub(crate) fn without_root(&self) -> Option<&'static str> {
        let has_root = |list: &[IdMapping]| list.iter().any(|line| line.container_id == 0);
        if !has_root(&self.uids) {
            Some("uid")
        } else if !has_root(&self.gids) {
            Some("gid")
        } else {
            None
        }
    }

    /// The user outside who is `uid` inside.
    pub(crate) fn user_outside(&self, uid: u32) -> Option<u32> {
        outside(&self.uids, uid)
    }

    /// Writes the maps of the new user namespace of `pid`.
    pub(crate) fn write(&self, pid: Pid) -> Result<(), Error> {
        procfs::write(pid, "uid_map", &text(&self.uids))?;
        procfs::write(pid, "gid_map", &text(&self.gids))
    }
}

/// The user, as this process's user namespace knows him, who is `uid` in that of the process `pid`; none: he has no other name there.
///
/// # Errors
/// The process has ended.
pub(crate) fn user_outside(pid: Pid, uid: u32) -> Result<Option<u32>, Error> {
    let file = procfs::open(pid, "uid_map")?;
    let mut text = String::new();
    File::from(file).take(MAX_TEXT).read_to_string(&mut text).map_err(|error| {
        at("read", "uid_map")(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    })?;
    Ok(outside(&text.lines().filter_map(line).collect::<Vec<_>>(), uid))
}

/// A line of `/proc/PID/uid_map`.
fn line(text: &str) -> Option<IdMapping> {
    let mut numbers = text.split_whitespace().map(|word| word.parse().ok());
    let [container_id, host_id, size] = [numbers.next()??, numbers.next()??, numbers.next()??];
    Some(IdMapping { container_id, host_id, size })
}

fn outside(list: &[IdMapping], uid: u32) -> Option<u32> {
    list.iter().find_map(|line| {
        let into = uid.checked_sub(line.container_id)?;
        if into < line.size { line.host_id.checked_add(into) } else { None }
    })
}

fn check(list: &[IdMapping], field: &str) -> Result<(), Error> {
    if list.len() > MAX_LINES {
        let why = format!("the kernel takes {MAX_LINES} lines");
        return Err(Error::invalid(field.to_owned(), list.len(), why));
    }
    let end = |first: u32, size: u32| u64::from(first) + u64::from(size);
    let overlaps = |(a, b): (u32, u32), size: (u32, u32)| {
        u64::from(a) < end(b, size.1) && u64::from(b) < end(a, size.0)
    };
    for (at, line) in list.iter().enumerate() {
        let wrong = |name: &str, value: u32, why: &'static str| {
            Err(Error::invalid(format!("{field}[{at}].{name}"), value, why))
        };
        if line.size == 0 {
            return wrong("size", 0, "a range of ids cannot be empty");
        }
        if end(line.container_id, line.size) > END || end(line.host_id, line.size) > END {
            return wrong("size", line.size, "the range goes beyond the last id, 4294967295");
        }
        for before in list.iter().take(at) {
            let sizes = (line.size, before.size);
            if overlaps((line.container_id, before.container_id), sizes) {
                let why = "it overlaps with the range of a line before";
                return wrong("containerID", line.container_id, why);
            }
            if overlaps((line.host_id, before.host_id), sizes) {
                let why = "it overlaps with the range of a line before";
                return wrong("hostID", line.host_id, why);
            }
        }
    }
    Ok(())
}

fn text(ids: &[IdMapping]) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for IdMapping { container_id, host_id, size } in ids {
        // A String takes all that is written.
        let _ = writeln!(text, "{container_id} {host_id} {size}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(container_id: u32, host_id: u32, size: u32) -> IdMapping {
        IdMapping { container_id, host_id, size }
    }

    #[test]
    fn maps_have_a_line_each() {
        let ids = [line(0, 100_000, 1000), line(1000, 5, 1)];
        assert_eq!(text(&ids), "0 100000 1000\n1000 5 1\n");
    }

    #[test]
    fn users_have_names_outside() {
        let maps = [line(0, 100_000, 10), line(20, 5, 1)];
        let maps = Maps::new(&maps, &maps, &|_| String::new()).unwrap();
        for (inside, expected) in
            [(0, Some(100_000)), (9, Some(100_009)), (10, None), (20, Some(5))]
        {
            assert_eq!(maps.user_outside(inside), expected, "{inside}");
        }
        assert_eq!(super::line("         0     300000      65536"), Some(line(0, 300_000, 65_536)));
        assert_eq!(super::line("0 1"), None);
        let own = rustix::process::getpid();
        assert_eq!(user_outside(own, 7).unwrap(), Some(7));
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_by_its_field() {
        let one = [line(0, 1, 1)];
        for (uids, gids, wrong) in [
            (&[line(0, 100, 0)][..], &one[..], "uidMappings[0].size"),
            (&[line(u32::MAX, 100, 2)], &one, "uidMappings[0].size"),
            (&[line(0, 100, 10), line(9, 200, 1)], &one, "uidMappings[1].containerID"),
            (&one, &[line(0, 100, 10), line(10, 105, 1)], "gidMappings[1].hostID"),
            (&one, &[], "gidMappings"),
            (&[], &one, "uidMappings"),
        ] {
            let error =
                Maps::new(uids, gids, &|list| format!("{list}Mappings")).unwrap_err().to_string();
            assert!(error.starts_with(wrong), "{error}");
        }
        let fine = [line(10, 100, 10), line(0, 200, 10), line(20, u32::MAX, 1)];
        assert_eq!(Maps::new(&fine, &fine, &|_| String::new()).unwrap().without_root(), None);
        assert_eq!(
            Maps::new(&fine, &fine[..1], &|_| String::new()).unwrap().without_root(),
            Some("gid")
        );
        assert!(Maps::new(&vec![line(0, 0, 1); 341], &one, &|_| String::new()).is_err());
    }
}
