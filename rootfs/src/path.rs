//! Names from untrusted archives, taken apart and judged; and how they are shown in messages.

use crate::limits;

/// What the name of a whiteout starts with (OCI image-spec, layer.md "Whiteouts").
pub(crate) const WHITEOUT: &[u8] = b".wh.";

/// Why a path of an archive was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No name at all.
    #[error("the name is empty")]
    Empty,
    /// `/etc/passwd` instead of `etc/passwd`.
    #[error("the name is absolute; names in a layer are relative to the image's root")]
    Absolute,
    /// A `..` component.
    #[error("the name has a \"..\" component")]
    DotDot,
    /// A NUL byte.
    #[error("the name has a NUL byte")]
    Nul,
    /// A component over 255 bytes.
    #[error("a component of the name has more than 255 bytes")]
    LongComponent,
    /// More than 4095 bytes.
    #[error("the name has more than 4095 bytes")]
    Long,
}

/// The components of a path relative to the image's root; none for the root itself (`.`, `./` or `/`).
pub(crate) fn components(path: &[u8]) -> Result<Vec<&[u8]>, PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path.len() > limits::PATH {
        return Err(PathError::Long);
    }
    if path.contains(&0) {
        return Err(PathError::Nul);
    }
    let mut components = Vec::with_capacity(8);
    for component in path.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(PathError::DotDot),
            // The prefix of a whiteout is not part of the name that it hides.
            _ if component.strip_prefix(WHITEOUT).unwrap_or(component).len() > limits::NAME => {
                return Err(PathError::LongComponent);
            }
            _ => components.push(component),
        }
    }
    if path.starts_with(b"/") && !components.is_empty() {
        return Err(PathError::Absolute);
    }
    Ok(components)
}

/// A path for a message: printable ASCII, at most about 200 characters.
pub(crate) fn display(path: &[u8]) -> String {
    match path.get(..200) {
        Some(start) if path.len() > 203 => format!("{}...", start.escape_ascii()),
        _ => path.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_spellings_are_normalized() {
        for path in ["a/b", "./a/b", "a//b/", "a/./b/."] {
            assert_eq!(components(path.as_bytes()).unwrap(), [b"a", b"b"], "{path}");
        }
        for root in [".", "./", "/", "//"] {
            assert_eq!(components(root.as_bytes()).unwrap(), [] as [&[u8]; 0], "{root}");
        }
    }

    #[test]
    fn hostile_names_are_refused() {
        assert_eq!(components(b""), Err(PathError::Empty));
        assert_eq!(components(b"/etc/passwd"), Err(PathError::Absolute));
        assert_eq!(components(b"a/../b"), Err(PathError::DotDot));
        assert_eq!(components(b".."), Err(PathError::DotDot));
        assert_eq!(components(b"a\0b"), Err(PathError::Nul));
        assert_eq!(components(&[b'a'; 256]), Err(PathError::LongComponent));
        assert!(components(&[b'a'; 255]).is_ok());
        assert_eq!(components("a/".repeat(2048).as_bytes()), Err(PathError::Long));
    }

    #[test]
    fn messages_stay_short_and_printable() {
        assert_eq!(display(b"a\nb\x1b"), "a\\nb\\x1b");
        assert!(display(&[b'a'; 4000]).len() < 210);
    }
}
