//! A file's owner, mode, times, device number and extended attributes, as a tar entry or a directory of the host says them, checked and in the form
//! that EROFS stores.

use super::{
    error::EntryError,
    node::{Attributes, Xattr},
};
use crate::{limits, path::display, tar::EntryKind};

/// What a source says of a file, nothing judged yet.
pub(crate) struct Facts {
    pub(crate) kind: EntryKind,
    pub(crate) mode: u64,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// EROFS's numbers for attribute name prefixes (`EROFS_XATTR_INDEX_*` in fs/erofs/erofs_fs.h).
const USER: u8 = 1;
const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;
const SECURITY: u8 = 6;

/// The attributes of a file.
pub(crate) fn attributes(facts: Facts) -> Result<Attributes, EntryError> {
    let mut xattrs = Vec::new();
    let mut area = 12;
    for (name, value) in facts.xattrs {
        if let Some(xattr) = xattr(&name, value)?.filter(|xattr| applies(xattr, facts.kind)) {
            area += (4 + xattr.name.len() + xattr.value.len()).next_multiple_of(4);
            xattrs.push(xattr);
        }
    }
    if area > limits::XATTR_AREA {
        return Err(EntryError::XattrArea(limits::XATTR_AREA));
    }
    // The order in the archive means nothing; a fixed one makes equal trees equal images.
    xattrs.sort_by(|a, b| (a.prefix, &a.name).cmp(&(b.prefix, &b.name)));
    Ok(Attributes {
        // Masked to 12 bits, so it fits.
        mode: u16::try_from(facts.mode & 0o7777).unwrap_or_default(),
        uid: owner(facts.uid)?,
        gid: owner(facts.gid)?,
        mtime: facts.mtime.0,
        mtime_ns: facts.mtime.1,
        xattrs,
    })
}

/// All ones means "no id" to the kernel.
fn owner(id: u64) -> Result<u32, EntryError> {
    u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or(EntryError::Owner(id))
}

/// `new_encode_dev` of include/linux/kdev_t.h.
pub(crate) fn device((major, minor): (u64, u64)) -> Result<u32, EntryError> {
    let encoded = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
    match u32::try_from(encoded) {
        Ok(rdev) if major < 1 << 12 && minor < 1 << 20 => Ok(rdev),
        _ => Err(EntryError::DeviceNumber { major, minor }),
    }
}

/// An attribute in EROFS's form. `user.*`, `security.*` and POSIX ACLs are kept. `trusted.*` is dropped as containerd does
/// (an image must not speak to the guest's overlayfs), and so are prefixes that only other file systems know.
fn xattr(name: &[u8], value: Vec<u8>) -> Result<Option<Xattr>, EntryError> {
    let refused = || EntryError::Xattr(display(name));
    let (prefix, rest) = if let Some(rest) = name.strip_prefix(b"user.") {
        (USER, rest)
    } else if let Some(rest) = name.strip_prefix(b"security.") {
        (SECURITY, rest)
    } else {
        let prefix = match name {
            b"system.posix_acl_access" => ACL_ACCESS,
            b"system.posix_acl_default" => ACL_DEFAULT,
            _ => return Ok(None),
        };
        if !is_acl(&value) {
            return Err(refused());
        }
        (prefix, &b""[..])
    };
    let needs_name = matches!(prefix, USER | SECURITY);
    if needs_name == rest.is_empty()
        || name.len() > limits::NAME
        || rest.contains(&0)
        || value.len() > limits::XATTR_VALUE
    {
        return Err(refused());
    }
    Ok(Some(Xattr { prefix, name: rest.into(), value: value.into() }))
}

/// Whether Linux lets a file of this kind have the attribute (xattr(7); acl(5)): what it would not show is dropped.
fn applies(xattr: &Xattr, kind: EntryKind) -> bool {
    match xattr.prefix {
        USER => matches!(kind, EntryKind::Regular | EntryKind::Directory),
        ACL_ACCESS => kind != EntryKind::Symlink,
        ACL_DEFAULT => kind == EntryKind::Directory,
        _ => true,
    }
}

/// The kernel's own form of an ACL, which EROFS stores as it is: version 2, then entries of 8 bytes
/// (include/uapi/linux/posix_acl_xattr.h).
fn is_acl(value: &[u8]) -> bool {
    value.strip_prefix(&2_u32.to_le_bytes()).is_some_and(|entries| entries.len().is_multiple_of(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_kept_dropped_or_refused() {
        let kept = xattr(b"user.a", b"v".to_vec()).unwrap().unwrap();
        assert_eq!((kept.prefix, &*kept.name, &*kept.value), (1, &b"a"[..], &b"v"[..]));
        let acl = [&2_u32.to_le_bytes()[..], &[0; 24]].concat();
        let kept = xattr(b"system.posix_acl_access", acl).unwrap().unwrap();
        assert_eq!((kept.prefix, kept.name.len(), kept.value.len()), (2, 0, 28));
        assert_eq!(xattr(b"security.capability", vec![0; 20]).unwrap().unwrap().prefix, 6);
        for dropped in ["trusted.overlay.opaque", "trusted.x", "system.nfs4_acl", "btrfs.x", "user"]
        {
            assert_eq!(xattr(dropped.as_bytes(), vec![]).unwrap(), None, "{dropped}");
        }
        for (name, value) in [
            ("user.", vec![]),
            ("user.a", vec![0; 65_536]),
            ("system.posix_acl_access", vec![1, 0, 0, 0]),
        ] {
            assert!(matches!(xattr(name.as_bytes(), value), Err(EntryError::Xattr(_))), "{name}");
        }
        assert!(xattr(&[&b"user."[..], &[b'a'; 251]].concat(), vec![]).is_err());
    }

    #[test]
    fn device_numbers_are_encoded_as_linux_does() {
        assert_eq!(device((1, 3)).unwrap(), 0x103);
        assert_eq!(device((0xfff, 0xfffff)).unwrap(), 0xffff_ffff);
        assert!(
            device((4096, 0)).is_err()
                && device((0, 1 << 20)).is_err()
                && device((u64::MAX, u64::MAX)).is_err()
        );
    }
}
