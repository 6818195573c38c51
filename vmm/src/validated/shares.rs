//! What a share's tag and its entries' names may be.

use std::collections::HashSet;

use crate::api::Share;

/// A device's tag (virtio 1.3, 5.11.4).
const MAX_TAG: usize = 36;
/// A file's name (`NAME_MAX`).
pub(crate) const MAX_NAME: usize = 255;
/// Entries of all shares; each is a mount of the VMM's and an open file of its.
const MAX_ENTRIES: usize = 512;

/// Why a share is refused.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// The tag.
    #[error(
        "the share's \"tag\" {0:?} is not a file name of 1 to {MAX_TAG} bytes without \"/\" and control characters"
    )]
    Tag(String),
    /// Two shares that a guest could not tell apart.
    #[error("two shares have the \"tag\" {0:?}")]
    SameTag(String),
    /// An entry's name.
    #[error(
        "share {tag}: the entry's \"name\" {name:?} is not a file name of 1 to {MAX_NAME} bytes"
    )]
    Name {
        /// The share.
        tag: String,
        /// The name.
        name: String,
    },
    /// Two entries of one name.
    #[error("share {tag}: two entries have the \"name\" {name:?}")]
    SameName {
        /// The share.
        tag: String,
        /// The name.
        name: String,
    },
    /// Too many.
    #[error("the shares have {0} entries; a machine has at most {MAX_ENTRIES}")]
    TooMany(usize),
}

/// Checks what can be checked without looking at the host's files.
pub(super) fn check(shares: &[Share]) -> Result<(), ShareError> {
    let count = shares.iter().map(|share| share.entries.len()).sum();
    if count > MAX_ENTRIES {
        return Err(ShareError::TooMany(count));
    }
    let mut tags = HashSet::new();
    for Share { tag, entries, .. } in shares {
        if !is_name(tag, MAX_TAG) || tag.chars().any(char::is_control) {
            return Err(ShareError::Tag(tag.clone()));
        }
        if !tags.insert(tag) {
            return Err(ShareError::SameTag(tag.clone()));
        }
        let mut names = HashSet::new();
        for entry in entries {
            let (tag, name) = (tag.clone(), entry.name.clone());
            if !is_name(&name, MAX_NAME) {
                return Err(ShareError::Name { tag, name });
            }
            if !names.insert(&entry.name) {
                return Err(ShareError::SameName { tag, name });
            }
        }
    }
    Ok(())
}

/// Whether a directory can have an entry of this name.
pub(crate) fn is_name(name: &str, longest: usize) -> bool {
    (1..=longest).contains(&name.len())
        && !name.contains(['/', '\0'])
        && !matches!(name, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Cache, ShareEntry};

    fn share(tag: &str, names: &[&str]) -> Share {
        let entry = |name: &&str| ShareEntry {
            name: (*name).into(),
            path: "/".into(),
            read_only: true,
            sealed: false,
        };
        let entries = names.iter().map(entry).collect();
        Share { tag: tag.to_owned(), cache: Cache::Auto, entries }
    }

    #[test]
    fn tags_and_names_are_file_names_and_unique() {
        let long = "x".repeat(37);
        for tag in ["", ".", "..", "a/b", "a\nb", "a\0b", &long] {
            assert!(matches!(check(&[share(tag, &["a"])]), Err(ShareError::Tag(_))), "{tag:?}");
        }
        let long = "x".repeat(256);
        for name in ["", ".", "..", "a/b", "a\0b", &long] {
            let error = check(&[share("tag", &[name])]).unwrap_err();
            assert!(matches!(error, ShareError::Name { .. }), "{error}");
        }
        let twice = check(&[share("a", &["x"]), share("a", &["y"])]).unwrap_err();
        assert!(twice.to_string().contains("two shares"));
        let twice = check(&[share("a", &["x", "x"])]).unwrap_err();
        assert!(twice.to_string().contains("two entries"));
        let names: Vec<_> = (0..300).map(|number| number.to_string()).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let many = check(&[share("a", &names), share("b", &names)]).unwrap_err();
        assert!(many.to_string().contains("600"));
        check(&[share("root", &["x", "..."]), share("binds", &["x"]), share("empty", &[])])
            .unwrap();
    }
}
