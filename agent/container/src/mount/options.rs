//! Mount options in mount(8)'s words, as OCI runtimes take them: flags, propagation, recursive attributes, and what is
//! left for the file system itself.

use rustix::mount::{MountFlags, MountPropagationFlags};

use crate::{error::Error, sys::MountAttr};

/// A mount's options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Flags that are set, of the file system and of the mount.
    pub(crate) flags: Flags,
    /// Propagation changes, in order.
    pub(crate) propagation: Vec<u32>,
    /// It is a bind mount.
    pub(crate) bind: Option<Bind>,
    /// An existing mount is changed.
    pub(crate) remount: bool,
    /// Attributes for the whole tree (`rro`, …).
    pub(crate) recursive: Option<MountAttr>,
    /// What lies under the mount point is copied into the new tmpfs.
    pub(crate) copy_up: bool,
    /// Comma-separated options of the file system.
    pub(crate) data: String,
}

/// Flags that were named, and those that were named with their opposite (`rw`, `suid`, …).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) set: u32,
    pub(crate) clear: u32,
}

/// Of a bind mount: with the mounts below its source, or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bind {
    One,
    Recursive,
}

const RDONLY: u32 = MountFlags::RDONLY.bits();
const NOSUID: u32 = MountFlags::NOSUID.bits();
const NODEV: u32 = MountFlags::NODEV.bits();
const NOEXEC: u32 = MountFlags::NOEXEC.bits();
const SYNC: u32 = MountFlags::SYNCHRONOUS.bits();
const DIRSYNC: u32 = MountFlags::DIRSYNC.bits();
const MANDLOCK: u32 = MountFlags::PERMIT_MANDATORY_FILE_LOCKING.bits();
const NOATIME: u32 = MountFlags::NOATIME.bits();
const NODIRATIME: u32 = MountFlags::NODIRATIME.bits();
const RELATIME: u32 = MountFlags::RELATIME.bits();
const STRICTATIME: u32 = MountFlags::STRICTATIME.bits();
const LAZYTIME: u32 = MountFlags::LAZYTIME.bits();
const SILENT: u32 = MountFlags::SILENT.bits();
/// `MS_NOSYMFOLLOW`, linux/mount.h.
const NOSYMFOLLOW: u32 = 256;
/// `MS_I_VERSION`.
const I_VERSION: u32 = 1 << 23;

/// Word, flag, and whether the word sets it.
const FLAGS: [(&str, u32, bool); 31] = [
    ("ro", RDONLY, true),
    ("rw", RDONLY, false),
    ("nosuid", NOSUID, true),
    ("suid", NOSUID, false),
    ("nodev", NODEV, true),
    ("dev", NODEV, false),
    ("noexec", NOEXEC, true),
    ("exec", NOEXEC, false),
    ("sync", SYNC, true),
    ("async", SYNC, false),
    ("dirsync", DIRSYNC, true),
    ("mand", MANDLOCK, true),
    ("nomand", MANDLOCK, false),
    ("noatime", NOATIME, true),
    ("atime", NOATIME, false),
    ("nodiratime", NODIRATIME, true),
    ("diratime", NODIRATIME, false),
    ("relatime", RELATIME, true),
    ("norelatime", RELATIME, false),
    ("strictatime", STRICTATIME, true),
    ("nostrictatime", STRICTATIME, false),
    ("lazytime", LAZYTIME, true),
    ("nolazytime", LAZYTIME, false),
    ("silent", SILENT, true),
    ("loud", SILENT, false),
    ("nosymfollow", NOSYMFOLLOW, true),
    ("symfollow", NOSYMFOLLOW, false),
    ("iversion", I_VERSION, true),
    ("noiversion", I_VERSION, false),
    ("defaults", 0, true),
    ("acl", 0, true),
];

const PROPAGATION: [(&str, MountPropagationFlags, bool); 8] = [
    ("shared", MountPropagationFlags::SHARED, false),
    ("rshared", MountPropagationFlags::SHARED, true),
    ("slave", MountPropagationFlags::DOWNSTREAM, false),
    ("rslave", MountPropagationFlags::DOWNSTREAM, true),
    ("private", MountPropagationFlags::PRIVATE, false),
    ("rprivate", MountPropagationFlags::PRIVATE, true),
    ("unbindable", MountPropagationFlags::UNBINDABLE, false),
    ("runbindable", MountPropagationFlags::UNBINDABLE, true),
];

/// Attributes of mount_setattr(2) behind the flags of mount(2) that a single mount can have.
const ATTRIBUTES: [(u32, u64); 6] = [
    (RDONLY, libc::MOUNT_ATTR_RDONLY),
    (NOSUID, libc::MOUNT_ATTR_NOSUID),
    (NODEV, libc::MOUNT_ATTR_NODEV),
    (NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    (NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
    (NOSYMFOLLOW, libc::MOUNT_ATTR_NOSYMFOLLOW),
];

/// The flags of a propagation's name, as `linux.rootfsPropagation` and mount options have it.
pub(crate) fn propagation(name: &str) -> Option<MountPropagationFlags> {
    PROPAGATION.iter().find(|known| known.0 == name).map(|(_, kind, recursive)| {
        *kind | if *recursive { MountPropagationFlags::REC } else { MountPropagationFlags::empty() }
    })
}

impl Options {
    /// # Errors
    /// [`Error::Invalid`] for what this engine does not do.
    pub(crate) fn parse(words: &[String]) -> Result<Self, Error> {
        let mut options = Self::default();
        for word in words {
            options.word(word)?;
        }
        Ok(options)
    }

    fn word(&mut self, word: &str) -> Result<(), Error> {
        if let Some((_, flag, set)) = FLAGS.iter().find(|known| known.0 == word) {
            self.flags.put(*flag, *set);
        } else if let Some(kind) = propagation(word) {
            self.propagation.push(kind.bits());
        } else if let Some((_, flag, set)) = FLAGS
            .iter()
            .find(|known| word.strip_prefix('r') == Some(known.0) && attribute(known.1).is_some())
        {
            let attr = self.recursive.get_or_insert_default();
            let bit = attribute(*flag).unwrap_or(0);
            let (on, off) = if *set { (bit, 0) } else { (0, bit) };
            attr.set = attr.set & !bit | on;
            attr.clear = attr.clear & !bit | off;
        } else {
            match word {
                "bind" => self.bind = self.bind.or(Some(Bind::One)),
                "rbind" => self.bind = Some(Bind::Recursive),
                "remount" => self.remount = true,
                "tmpcopyup" => self.copy_up = true,
                "idmap" | "ridmap" => {
                    return Err(Error::invalid(
                        "mount option",
                        word,
                        "mounts with mapped ids are not supported",
                    ));
                }
                _ => {
                    if !self.data.is_empty() {
                        self.data.push(',');
                    }
                    self.data.push_str(word);
                }
            }
        }
        Ok(())
    }

    /// The attributes of a bind mount; `None` when it keeps those of its source.
    pub(crate) fn attributes(&self) -> Option<MountAttr> {
        let mut attr = MountAttr::default();
        for (flag, bit) in ATTRIBUTES {
            if self.flags.set & flag != 0 {
                attr.set |= bit;
            } else if self.flags.clear & flag != 0 {
                attr.clear |= bit;
            }
        }
        // Access times are one field with several values (mount_setattr(2)).
        let time = [
            (NOATIME, libc::MOUNT_ATTR_NOATIME),
            (STRICTATIME, libc::MOUNT_ATTR_STRICTATIME),
            (RELATIME, libc::MOUNT_ATTR_RELATIME),
        ];
        if let Some((_, value)) = time.iter().find(|(flag, _)| self.flags.set & flag != 0) {
            attr.clear |= libc::MOUNT_ATTR__ATIME;
            attr.set |= value;
        }
        (attr != MountAttr::default()).then_some(attr)
    }
}

fn attribute(flag: u32) -> Option<u64> {
    ATTRIBUTES.iter().find(|known| known.0 == flag && flag != 0).map(|known| known.1)
}

impl Flags {
    fn put(&mut self, flag: u32, set: bool) {
        let (on, off) = if set { (flag, 0) } else { (0, flag) };
        self.set = self.set & !flag | on;
        self.clear = self.clear & !flag | off;
    }

    /// The flags of mount(2).
    pub(crate) fn mount(self) -> MountFlags {
        MountFlags::from_bits_retain(self.set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Options {
        let words: Vec<_> = words.split(',').map(str::to_owned).collect();
        Options::parse(&words).unwrap()
    }

    #[test]
    fn words_are_told_apart() {
        let options = parse("nosuid,strictatime,mode=755,size=65536k,rslave");
        assert_eq!(options.flags.set, NOSUID | STRICTATIME);
        assert_eq!(options.data, "mode=755,size=65536k");
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        assert_eq!(options.propagation, [slave.bits()]);
    }

    #[test]
    fn the_last_word_wins() {
        let options = parse("ro,rw,noexec,exec,bind,rbind");
        assert_eq!(options.flags.set, 0);
        assert_eq!(options.flags.clear, RDONLY | NOEXEC);
        assert_eq!(options.bind, Some(Bind::Recursive));
        let attr = options.attributes().unwrap();
        assert_eq!(attr.clear, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOEXEC);
    }

    #[test]
    fn bind_mounts_without_flags_keep_their_source() {
        assert_eq!(parse("rbind,rprivate").attributes(), None);
        let attr = parse("bind,ro,noatime").attributes().unwrap();
        assert_eq!(attr.set, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOATIME);
        assert_eq!(attr.clear, libc::MOUNT_ATTR__ATIME);
    }

    #[test]
    fn recursive_attributes() {
        let attr = parse("rbind,rro,rnosuid").recursive.unwrap();
        assert_eq!(attr.set, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID);
        // Words that only begin with the same letter are the file system's.
        assert_eq!(parse("rsize=4096").data, "rsize=4096");
        assert!(Options::parse(&["idmap".into()]).is_err());
    }
}
