//! A small Debian's layer from its packages: one merged `/usr`, no documentation, and the few files that the
//! packages' scripts would have made.

use std::collections::BTreeMap;

use super::{DEFAULT_MTIME, Entry, ImageError, Kind};

const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
/// Not needed to run a program; most of what a package weighs.
const LEFT_OUT: [&str; 12] = [
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/menu",
    "usr/share/bug",
    "usr/share/pixmaps",
    "usr/share/applications",
    "usr/share/binfmts",
    "usr/lib/x86_64-linux-gnu/gconv",
];

/// Moves a path of `/bin`, `/sbin`, `/lib` or `/lib64` under `/usr`.
#[must_use]
pub fn merge_usr(path: &[u8]) -> Vec<u8> {
    let first = path.split(|byte| *byte == b'/').next().unwrap_or_default();
    if MERGED.iter().any(|name| name.as_bytes() == first) {
        [b"usr/", path].concat()
    } else {
        path.to_vec()
    }
}

/// The members of several packages as one layer, sorted so that a directory comes before what is in it and a hard
/// link after its target. `base`: the layer is a whole system and gets its root directories, accounts and names.
///
/// # Errors
/// [`ImageError::Missing`] when a base system has no accounts.
pub fn system_layer(packages: Vec<Vec<Entry>>, base: bool) -> Result<Vec<Entry>, ImageError> {
    let mut tree: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
    if base {
        for name in MERGED {
            put(&mut tree, Entry::symlink(name, &format!("usr/{name}")));
            put(&mut tree, Entry::directory(&format!("usr/{name}")));
        }
        for name in ["dev", "proc", "sys", "run", "etc", "var", "usr", "root"] {
            put(&mut tree, Entry::directory(name));
        }
        put(&mut tree, Entry::directory("tmp").mode(0o1777));
        for name in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
            put(&mut tree, Entry::file(name, ""));
        }
    }
    for mut entry in packages.into_iter().flatten() {
        let top_level = MERGED.iter().any(|name| name.as_bytes() == entry.path);
        entry.path = merge_usr(&entry.path);
        if let Kind::HardLink(target) = &mut entry.kind {
            *target = merge_usr(target);
        }
        let left_out = LEFT_OUT.iter().any(|prefix| {
            entry
                .path
                .strip_prefix(prefix.as_bytes())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        });
        let known_directory =
            matches!(entry.kind, Kind::Directory) && tree.contains_key(&entry.path);
        if !(left_out || top_level || known_directory) {
            put(&mut tree, entry);
        }
    }
    if base {
        for (name, master) in [("passwd", "passwd.master"), ("group", "group.master")] {
            let path = format!("usr/share/base-passwd/{master}");
            let Some(Entry { kind: Kind::File(data), .. }) = tree.get(path.as_bytes()) else {
                return Err(ImageError::Missing { package: "base-passwd".to_owned(), path });
            };
            let data = data.clone();
            put(&mut tree, Entry::file(&format!("etc/{name}"), data));
        }
        put(&mut tree, Entry::symlink("usr/bin/sh", "dash"));
    }
    let (links, mut entries): (Vec<_>, Vec<_>) =
        tree.into_values().partition(|entry| matches!(entry.kind, Kind::HardLink(_)));
    entries.extend(links);
    // The root directory's own attributes, so that they are the same wherever the image is unpacked.
    if base {
        entries.insert(0, Entry::directory("./").mtime(DEFAULT_MTIME, 0));
    }
    Ok(entries)
}

fn put(tree: &mut BTreeMap<Vec<u8>, Entry>, entry: Entry) {
    tree.insert(entry.path.clone(), entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_has_one_usr_no_documentation_and_its_accounts() {
        let layer = system_layer(
            vec![vec![
                Entry::directory("bin"),
                Entry::file("bin/tool", "x"),
                Entry::hard_link("bin/alias", "bin/tool"),
                Entry::file("usr/share/doc/tool/README", "x"),
                Entry::file("usr/share/base-passwd/passwd.master", "root:"),
                Entry::file("usr/share/base-passwd/group.master", "root:"),
            ]],
            true,
        )
        .unwrap();
        let find = |path: &str| layer.iter().position(|entry| entry.path == path.as_bytes());
        assert!(find("usr/bin/tool").unwrap() < find("usr/bin/alias").unwrap());
        let alias = &layer[find("usr/bin/alias").unwrap()];
        assert!(matches!(&alias.kind, Kind::HardLink(to) if to == b"usr/bin/tool"));
        assert!(matches!(layer[find("bin").unwrap()].kind, Kind::Symlink(_)));
        assert!(find("usr/share/doc/tool/README").is_none());
        assert!(find("etc/passwd").is_some() && find("etc/group").is_some());
    }

    #[test]
    fn a_system_without_accounts_is_refused() {
        assert!(matches!(system_layer(vec![], true), Err(ImageError::Missing { .. })));
    }
}
