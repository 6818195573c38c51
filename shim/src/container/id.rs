//! Ids and names of containers.

use std::{fs::File, io::Read, path::Path};

use super::ContainerError;

/// So many digits of an id are shown where it is to be read.
const SHORT: usize = 12;

/// A new id: 64 hexadecimal digits, as docker's.
///
/// # Errors
/// [`ContainerError::Io`] without `/dev/urandom`.
pub fn new_id() -> Result<String, ContainerError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 32];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(ContainerError::io("read", path))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The part of an id that is shown.
#[must_use]
pub fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

/// Checks a name.
///
/// # Errors
/// [`ContainerError::BadName`].
pub fn check_name(name: &str) -> Result<(), ContainerError> {
    let good = (2..=128).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if good { Ok(()) } else { Err(ContainerError::BadName(name.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dockers() {
        for good in ["ab", "web-1", "0a", "a_b.c"] {
            check_name(good).unwrap();
        }
        for bad in ["", "x", "-x", "a/b", "..", "a b", &"a".repeat(129)] {
            assert!(matches!(check_name(bad), Err(ContainerError::BadName(_))), "{bad}");
        }
        assert_eq!(new_id().unwrap().len(), 64);
    }
}
