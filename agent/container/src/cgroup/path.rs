//! `linux.cgroupsPath` (config-linux.md, "Cgroups Path").

use crate::error::Error;

/// Where a group goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Below the hierarchies' roots.
    Absolute(String),
    /// Below the groups in which this process is.
    Relative(String),
}

impl Place {
    /// The place that the specification names, or the container's default one. The path has no empty parts.
    ///
    /// # Errors
    /// [`Error::Invalid`] for systemd's form, for the root itself and for a path that leads up.
    pub(super) fn new(path: Option<&str>, id: &str) -> Result<Self, Error> {
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            return Ok(Place::Relative(format!("bulkhead-{id}")));
        };
        let refuse = |why| Err(Error::invalid("linux.cgroupsPath", path, why));
        if path.split(':').count() == 3 && !path.contains('/') {
            return refuse("slice:prefix:name needs systemd's cgroup manager; name a path instead");
        }
        let parts: Vec<_> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.is_empty() {
            return refuse("it names the root; name a group below it");
        }
        if parts.contains(&"..") {
            return refuse("it must not lead up with ..");
        }
        let clean = parts.join("/");
        Ok(if path.starts_with('/') { Place::Absolute(clean) } else { Place::Relative(clean) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (path, expected) in [
            (None, Place::Relative("bulkhead-c".to_owned())),
            (Some(""), Place::Relative("bulkhead-c".to_owned())),
            (Some("/a//b/./c/"), Place::Absolute("a/b/c".to_owned())),
            (Some("a/b"), Place::Relative("a/b".to_owned())),
            (Some("/a:b:c"), Place::Absolute("a:b:c".to_owned())),
        ] {
            assert_eq!(Place::new(path, "c").unwrap(), expected, "{path:?}");
        }
        for bad in ["/", "/..", "a/../b", "system.slice:docker:abc", "./"] {
            assert!(Place::new(Some(bad), "c").is_err(), "{bad}");
        }
    }
}
