//! Device rules as the lists of version 1 (Documentation/admin-guide/cgroup-v1/devices.rst): either nothing but what
//! `devices.allow` got, or everything but what `devices.deny` got.

use super::device_program::{ALL_ACCESS, Access, MKNOD, READ, Table, WRITE, tables};
use crate::{error::Error, spec::DeviceRule};

/// Lines for the two files, in order: whether it is `devices.allow`, and the line.
pub(super) type Lines = Vec<(bool, String)>;

/// What is to be written for these rules and the default ones.
///
/// # Errors
/// [`Error::Invalid`] for a rule that cannot be, and for rules that are too fine for these lists.
pub(super) fn lines(rules: &[DeviceRule]) -> Result<Lines, Error> {
    let tables = tables(rules)?;
    // One list for both kinds of devices.
    let open = tables.iter().all(|table| table.others == ALL_ACCESS);
    let mut lines = vec![(open, "a".to_owned())];
    for (letter, table) in ['b', 'c'].into_iter().zip(&tables) {
        let mut list = List { open, lines: &mut lines };
        if !open {
            list.add(letter, None, None, table.others, 0)?;
        }
        for (major, access) in &table.majors {
            list.add(letter, Some(*major), None, *access, table.others)?;
        }
        for (minor, access) in &table.minors {
            list.add(letter, None, Some(*minor), *access, table.others)?;
        }
        for ((major, minor), access) in &table.devices {
            list.add(letter, Some(*major), Some(*minor), *access, above(table, *major, *minor))?;
        }
        // Where a rule for a major number meets one for a minor number, the former's holds.
        for (major, access) in &table.majors {
            for minor in table.minors.keys() {
                if !table.devices.contains_key(&(*major, *minor)) {
                    let wider = above(table, *major, *minor);
                    list.add(letter, Some(*major), Some(*minor), *access, wider)?;
                }
            }
        }
    }
    Ok(lines)
}

/// What the entries allow that name a device without both of its numbers.
fn above(table: &Table, major: u32, minor: u32) -> Access {
    let wider = [table.majors.get(&major), table.minors.get(&minor)];
    wider.into_iter().flatten().fold(table.others, |all, access| all | access)
}

struct List<'a> {
    open: bool,
    lines: &'a mut Lines,
}

impl List<'_> {
    /// `wider` is what the entries allow that cover this one: a list cannot take that back.
    fn add(
        &mut self,
        kind: char,
        major: Option<u32>,
        minor: Option<u32>,
        access: Access,
        wider: Access,
    ) -> Result<(), Error> {
        let number =
            |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        let device = format!("{kind} {}:{}", number(major), number(minor));
        let taken_back = if self.open { access & !wider } else { wider & !access };
        if taken_back != 0 {
            let why = "cgroup v1 cannot except it from a rule that names more devices";
            return Err(Error::invalid("linux.resources.devices", device, why));
        }
        let letters = letters(if self.open { ALL_ACCESS & !access } else { access });
        if !letters.is_empty() {
            self.lines.push((!self.open, format!("{device} {letters}")));
        }
        Ok(())
    }
}

fn letters(access: Access) -> String {
    [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
        .into_iter()
        .filter(|(bit, _)| access & bit != 0)
        .map(|(_, letter)| letter)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(rules: &str) -> Result<String, Error> {
        let lines = lines(&serde_json::from_str::<Vec<_>>(rules).unwrap())?;
        let lines =
            lines.iter().map(|(allow, line)| format!("{}{line}", if *allow { '+' } else { '-' }));
        Ok(lines.collect::<Vec<_>>().join(","))
    }

    #[test]
    fn lists() {
        let default = text(r#"[{"allow": false, "access": "rwm"}]"#).unwrap();
        assert!(default.starts_with("-a,+b *:* m,+c *:* m,+c 136:* rwm,+c 1:3 rwm,"), "{default}");
        let all = text(r#"[{"allow": true, "access": "rwm"}]"#).unwrap();
        assert_eq!(all, "+a");
        let disk = r#"[{"allow": false}, {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "r"}]"#;
        assert!(text(disk).unwrap().contains("+b 8:0 rm"), "{:?}", text(disk));
        let except =
            r#"[{"allow": true}, {"allow": false, "type": "b", "major": 8, "access": "w"}]"#;
        assert_eq!(text(except).unwrap(), "+a,-b 8:* w");
        let hole = r#"[{"allow": false}, {"allow": true, "type": "b", "major": 8},
            {"allow": false, "type": "b", "major": 8, "minor": 1}]"#;
        assert!(text(hole).unwrap_err().to_string().contains("b 8:1"));
        let crossing = r#"[{"allow": false}, {"allow": true, "type": "b", "minor": 3},
            {"allow": false, "type": "b", "major": 8}]"#;
        assert!(text(crossing).unwrap_err().to_string().contains("b 8:3"));
    }
}
