//! What a file is like: the host's statx(2) as the guest's `struct fuse_attr`, with inode numbers that stay apart.

use std::{
    os::fd::AsFd,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::{
    fs::{AtFlags, Statx, StatxFlags},
    io::Errno,
};

use super::super::protocol::{Answer, ENTRY_OUT};

/// The number of the share's own root directory: no file system of the host's gives it.
const ROOT_NUMBER: u64 = u64::MAX >> 1;
/// Numbers below it can carry that of their file system above them.
const PLAIN: u64 = 1 << 48;
/// File systems that can be told apart that way.
const FILE_SYSTEMS: usize = 1 << 14;

/// What is known of a file: which one it is, and how it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts(Statx);

/// A file on the host: device, inode and mount. The mount keeps the read-only and the writable view of one file apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    device: (u32, u32),
    inode: u64,
    mount: u64,
}

impl Facts {
    /// Of the file that `file` refers to, an `O_PATH` descriptor or another.
    pub(super) fn of(file: impl AsFd) -> Result<Self, Errno> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_SYNC_AS_STAT;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
        rustix::fs::statx(file, c"", flags, wanted).map(Self)
    }

    pub(super) fn key(&self) -> Key {
        let Statx { stx_dev_major, stx_dev_minor, stx_ino, stx_mnt_id, .. } = self.0;
        Key { device: (stx_dev_major, stx_dev_minor), inode: stx_ino, mount: stx_mnt_id }
    }

    /// The time of its birth, which tells a file from a later one with its inode number.
    pub(super) fn born(&self) -> (i64, u32) {
        (self.0.stx_btime.tv_sec, self.0.stx_btime.tv_nsec)
    }

    /// The bits of its mode that say what it is.
    pub(super) fn kind(&self) -> u32 {
        u32::from(self.0.stx_mode) & libc::S_IFMT
    }

    /// Writes `struct fuse_attr`.
    pub(super) fn write(&self, number: u64, answer: &mut Vec<u8>) {
        let stat = &self.0;
        answer.u64(number);
        answer.u64(stat.stx_size);
        answer.u64(stat.stx_blocks);
        for time in [&stat.stx_atime, &stat.stx_mtime, &stat.stx_ctime] {
            answer.u64(time.tv_sec.cast_unsigned());
        }
        for time in [&stat.stx_atime, &stat.stx_mtime, &stat.stx_ctime] {
            answer.u32(time.tv_nsec);
        }
        answer.u32(stat.stx_mode.into());
        answer.u32(stat.stx_nlink);
        answer.u32(stat.stx_uid);
        answer.u32(stat.stx_gid);
        let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
        // The kernel's 32-bit form of a device number (new_encode_dev).
        answer.u32(minor & 0xff | major << 8 | (minor & !0xff) << 12);
        answer.u32(stat.stx_blksize);
        answer.u32(0);
    }
}

/// Writes `struct fuse_entry_out`. `name` and `attributes`: how long the guest may believe them.
pub(super) fn write_entry(
    node: u64,
    facts: &Facts,
    number: u64,
    (name, attributes): (Duration, Duration),
    answer: &mut Vec<u8>,
) {
    answer.u64(node);
    answer.u64(0);
    answer.u64(name.as_secs());
    answer.u64(attributes.as_secs());
    answer.u32(name.subsec_nanos());
    answer.u32(attributes.subsec_nanos());
    facts.write(number, answer);
}

/// Writes an entry that tells the driver nothing but the name that follows.
pub(super) fn write_no_entry(answer: &mut Vec<u8>) {
    answer.zeros(ENTRY_OUT);
}

/// Inode numbers for the guest, where all of a share is one file system: the host's own on the first of its file systems, and
/// with that of their file system in the upper bits on the others.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    devices: Mutex<Vec<(u32, u32)>>,
}

impl Numbers {
    pub(super) fn root() -> u64 {
        ROOT_NUMBER
    }

    /// For the file of this key.
    pub(super) fn of(&self, key: &Key) -> u64 {
        self.number(key.device, key.inode)
    }

    /// For an inode of the same file system as the file of this key.
    pub(super) fn beside(&self, key: &Key, inode: u64) -> u64 {
        self.number(key.device, inode)
    }

    fn number(&self, device: (u32, u32), inode: u64) -> u64 {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let index = devices.iter().position(|known| *known == device).unwrap_or_else(|| {
            if devices.len() < FILE_SYSTEMS {
                devices.push(device);
                devices.len() - 1
            } else {
                FILE_SYSTEMS
            }
        });
        match index {
            0 if inode < PLAIN || inode >> 62 != 0 => inode,
            1..FILE_SYSTEMS if inode < PLAIN => ((index as u64) << 48) | inode,
            _ => scatter(device, inode),
        }
    }
}

/// A number in the upper half for those that have no room above them: the same for the same file, and hardly ever for two.
fn scatter(device: (u32, u32), inode: u64) -> u64 {
    let mut state = inode ^ (u64::from(device.0) << 32 | u64::from(device.1)).rotate_left(17);
    for factor in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
        state = (state ^ state >> 31).wrapping_mul(factor);
    }
    state ^ state >> 31 | 1 << 63
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_two_file_systems_never_meet() {
        let numbers = Numbers::default();
        let key = |minor, inode| Key { device: (8, minor), inode, mount: 0 };
        assert_eq!(numbers.of(&key(1, 12)), 12);
        assert_eq!(numbers.of(&key(2, 12)), PLAIN | 12);
        assert_eq!(numbers.of(&key(3, 12)), (2 << 48) | 12);
        assert_eq!(numbers.of(&key(1, 13)), 13);
        assert_eq!(numbers.beside(&key(2, 1), 12), PLAIN | 12);
        let large = (1 << 48) | 12;
        let seen = [1, 2, 3].map(|minor| numbers.of(&key(minor, large)));
        assert!(seen.iter().all(|number| *number >> 63 == 1) && seen[0] != seen[1]);
        assert_eq!(numbers.of(&key(1, large)), seen[0]);
        assert_eq!(numbers.of(&key(1, 3 << 62)), 3 << 62);
    }
}
