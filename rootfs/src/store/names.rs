//! Which name is which image. One small JSON file, replaced as a whole.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::Path,
};

use super::{StoreError, sync_directory};
use crate::Digest;

const FILE: &str = "names.json";

/// Names with their tags, and the images that they are of.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<String, Digest>);

impl Names {
    pub(super) fn read(root: &Path) -> Result<Self, StoreError> {
        let path = root.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => {
                let names = serde_json::from_slice(&bytes)
                    .map_err(|e| StoreError::Damaged { path, reason: e.to_string() })?;
                Ok(Self(names))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(StoreError::io("read", &path)(e)),
        }
    }

    pub(super) fn write(&self, root: &Path) -> Result<(), StoreError> {
        let path = root.join(FILE);
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(root.join("tmp"))?;
            file.write_all(&serde_json::to_vec_pretty(&self.0)?)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|e| e.error)?;
            sync_directory(root)
        };
        write().map_err(StoreError::io("write", &path))
    }

    /// The names of an image.
    pub(super) fn of(&self, id: Digest) -> Vec<String> {
        self.0.iter().filter(|(_, other)| **other == id).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn set(&mut self, name: String, id: Digest) {
        self.0.insert(name, id);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    pub(super) fn remove_image(&mut self, id: Digest) {
        self.0.retain(|_, other| *other != id);
    }

    /// The full name that `reference` means, if it is one.
    pub(super) fn name_for(&self, reference: &str) -> Option<String> {
        let full = normalize(reference).ok()?;
        if self.0.contains_key(&full) {
            return Some(full);
        }
        let mut matches = self.0.keys().filter(|name| ends_with_component(name, &full));
        matches.next().filter(|_| matches.next().is_none()).cloned()
    }

    /// The image that the name `reference` means.
    pub(super) fn find(&self, reference: &str) -> Result<Option<Digest>, StoreError> {
        if let Some(name) = self.name_for(reference) {
            return Ok(self.0.get(&name).copied());
        }
        let Ok(full) = normalize(reference) else { return Ok(None) };
        let matches: Vec<_> =
            self.0.keys().filter(|name| ends_with_component(name, &full)).cloned().collect();
        match matches.as_slice() {
            [] => Ok(None),
            _ => Err(StoreError::Ambiguous {
                reference: reference.to_owned(),
                matches: matches.join(", "),
            }),
        }
    }
}

fn ends_with_component(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|start| start.ends_with('/'))
}

/// Checks a name and adds `:latest` if it has no tag.
pub(super) fn normalize(name: &str) -> Result<String, StoreError> {
    let refused =
        || StoreError::Name(name.chars().take(255).flat_map(char::escape_debug).collect());
    let (path, tag) = match name.rsplit_once(':') {
        // A colon before the last slash belongs to a port.
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (name, "latest"),
    };
    let word = |s: &str| {
        s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && s.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
    };
    let first = path.split('/').next().unwrap_or_default();
    let host = first.rsplit_once(':').filter(|(host, port)| {
        path.contains('/') && word(host) && port.bytes().all(|b| b.is_ascii_digit())
    });
    let mut components = path.split('/').skip(usize::from(host.is_some()));
    let sound = name.len() <= 255 && word(tag) && components.all(word) && path != "sha256";
    if sound { Ok(format!("{path}:{tag}")) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_a_tag_and_odd_ones_are_refused() {
        for (name, full) in [
            ("debian", "debian:latest"),
            ("debian:12", "debian:12"),
            ("host:5000/a/b", "host:5000/a/b:latest"),
            ("a/b_c-d:x.y", "a/b_c-d:x.y"),
        ] {
            assert_eq!(normalize(name).unwrap(), full);
        }
        for bad in [
            "",
            ":",
            "a:",
            "-a",
            "../a",
            "a//b",
            "a b",
            "a:b:c",
            "/a",
            "a/",
            "ü",
            "sha256:12",
            "a\n",
            &"a".repeat(300),
        ] {
            assert!(normalize(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_are_found_by_their_end_if_that_is_unique() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let mut names = Names::default();
        names.set("example/library/debian:12".into(), one);
        names.set("other/busybox:latest".into(), one);
        names.set("example/busybox:latest".into(), two);
        assert_eq!(names.find("debian:12").unwrap(), Some(one));
        assert_eq!(names.find("library/debian:12").unwrap(), Some(one));
        assert_eq!(names.find("ebian:12").unwrap(), None);
        assert!(matches!(names.find("busybox"), Err(StoreError::Ambiguous { .. })));
        names.set("busybox:latest".into(), two);
        assert_eq!(names.find("busybox").unwrap(), Some(two));
    }
}
