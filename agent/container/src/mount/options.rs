//! Mount options in mount(8)'s words, as OCI runtimes take them: flags, propagation, recursive attributes, and what is
//! left for the file system itself.

use rustix::mount::{MountFlags, MountPropagationFlags};

use crate::sys::MountAttr;

/// A mount's options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Flags that are set, of the file system and of the mount.
    pub(crate) flags: Flags,
    /// Propagation changes, in order.
    pub(crate) propagation: Vec<MountPropagationFlags>,
    /// It is a bind mount.
    pub(crate) bind: Option<Bind>,
    /// An existing mount is changed.
    pub(crate) remount: bool,
    /// Attributes for the whole tree (`rro`, …).
    pub(crate) recursive: Option<MountAttr>,
    /// What lies under the mount point is copied into the new tmpfs.
    pub(crate) copy_up: bool,
    /// Owners are mapped: of the mount (`idmap`), or of those below it, too (`ridmap`).
    pub(crate) id_mapped: Option<Bind>,
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
/// `MS_POSIXACL`.
const POSIX_ACL: u32 = 1 << 16;

/// Word, flag, and whether the word sets it.
const FLAGS: [(&str, u32, bool); 32] = [
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
    ("acl", POSIX_ACL, true),
    ("noacl", POSIX_ACL, false),
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

/// Values of the one attribute that access times have (mount_setattr(2)); relatime is 0.
const TIMES: [(u32, u64); 3] = [
    (NOATIME, libc::MOUNT_ATTR_NOATIME),
    (STRICTATIME, libc::MOUNT_ATTR_STRICTATIME),
    (RELATIME, libc::MOUNT_ATTR_RELATIME),
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
    pub(crate) fn parse(words: &[String]) -> Self {
        let mut options = Self::default();
        for word in words {
            options.word(word);
        }
        options
    }

    fn word(&mut self, word: &str) {
        if let Some((_, flag, set)) = FLAGS.iter().find(|known| known.0 == word) {
            self.flags.put(*flag, *set);
            return;
        }
        if let Some(kind) = propagation(word) {
            self.propagation.push(kind);
            return;
        }
        let recursive = word.strip_prefix('r').and_then(|rest| {
            let (_, flag, set) = FLAGS.iter().find(|known| known.0 == rest)?;
            attribute(*flag, *set)
        });
        if let Some((on, off)) = recursive {
            let attr = self.recursive.get_or_insert_default();
            attr.set = attr.set & !off | on;
            // The kernel wants the whole field of access times cleared, also when one of its values is set.
            attr.clear = (attr.clear | off) & !on | (off & libc::MOUNT_ATTR__ATIME);
            return;
        }
        match word {
            "bind" => self.bind = self.bind.or(Some(Bind::One)),
            "rbind" => self.bind = Some(Bind::Recursive),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.id_mapped = self.id_mapped.or(Some(Bind::One)),
            "ridmap" => self.id_mapped = Some(Bind::Recursive),
            _ => {
                if !self.data.is_empty() {
                    self.data.push(',');
                }
                self.data.push_str(word);
            }
        }
    }

    /// The same as a new mount takes them: what is so anyway is not told apart from what is asked for.
    pub(crate) fn of_new(&self) -> Self {
        // mount(2): access times are kept as with relatime unless another way is named.
        let flags = Flags { set: self.flags.set & !RELATIME, clear: 0 };
        Self { flags, ..self.clone() }
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
        let times = TIMES.iter().fold(0, |all, (flag, _)| all | flag);
        if (self.flags.set | self.flags.clear) & times != 0 {
            attr.clear |= libc::MOUNT_ATTR__ATIME;
        }
        if let Some((_, value)) = TIMES.iter().find(|(flag, _)| self.flags.set & flag != 0) {
            attr.set |= value;
        }
        (attr != MountAttr::default()).then_some(attr)
    }
}

/// What a flag's word sets and clears of a mount's attributes; `None` for flags that are not a mount's own.
fn attribute(flag: u32, set: bool) -> Option<(u64, u64)> {
    let find =
        |table: &[(u32, u64)]| table.iter().find(|known| known.0 == flag).map(|known| known.1);
    match (find(&ATTRIBUTES), find(&TIMES), set) {
        (Some(bit), _, true) => Some((bit, 0)),
        (Some(bit), _, false) => Some((0, bit)),
        (_, Some(value), true) => Some((value, libc::MOUNT_ATTR__ATIME)),
        (_, Some(_), false) => Some((0, libc::MOUNT_ATTR__ATIME)),
        (None, None, _) => None,
    }
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
        Options::parse(&words)
    }

    #[test]
    fn words_are_told_apart() {
        let options = parse("nosuid,strictatime,mode=755,size=65536k,rslave");
        assert_eq!(options.flags.set, NOSUID | STRICTATIME);
        assert_eq!(options.data, "mode=755,size=65536k");
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        assert_eq!(options.propagation, [slave]);
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
        let recursive = |words: &str| parse(words).recursive.unwrap();
        let attr = recursive("rbind,rro,rnosuid");
        assert_eq!(attr.set, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID);
        let attr = recursive("rro,rrw,rnoatime");
        assert_eq!(
            (attr.set, attr.clear),
            (libc::MOUNT_ATTR_NOATIME, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR__ATIME)
        );
        for words in ["rnoatime,ratime", "rstrictatime,rnostrictatime", "rrelatime"] {
            let attr = recursive(words);
            assert_eq!((attr.set, attr.clear), (0, libc::MOUNT_ATTR__ATIME), "{words}");
        }
        // Words that only begin with the same letter are the file system's.
        let options = parse("rsize=4096,rsync,ridmap");
        assert_eq!((options.data.as_str(), options.recursive), ("rsize=4096,rsync", None));
        assert_eq!(options.id_mapped, Some(Bind::Recursive));
    }

    #[test]
    fn access_times_of_a_bind_mount() {
        for (words, set) in [
            ("noatime", libc::MOUNT_ATTR_NOATIME),
            ("atime", 0),
            ("noatime,atime", 0),
            ("strictatime", libc::MOUNT_ATTR_STRICTATIME),
        ] {
            let attr = parse(words).attributes().unwrap();
            assert_eq!((attr.set, attr.clear), (set, libc::MOUNT_ATTR__ATIME), "{words}");
        }
    }
}
