//! The device as a driver sees it: FUSE requests in chains, and the host's files beside them. They need root, as a share does.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

mod beneath;
mod given;
mod limits;
mod names;
mod owners;
mod protocol;
mod saved;

use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;

use super::*;
use crate::{
    api::ShareEntry,
    devices::{
        suite::Subject,
        testing::{Driver, HEAP},
    },
};

/// The queue of ordinary requests.
const QUEUE: usize = 1;
/// Descriptors that a share may use in most tests.
const FILES: usize = 1000;

pub(super) const LOOKUP: u32 = 1;
pub(super) const FORGET: u32 = 2;
pub(super) const GETATTR: u32 = 3;
pub(super) const SETATTR: u32 = 4;
pub(super) const READLINK: u32 = 5;
pub(super) const SYMLINK: u32 = 6;
pub(super) const MKNOD: u32 = 8;
pub(super) const MKDIR: u32 = 9;
pub(super) const UNLINK: u32 = 10;
pub(super) const LINK: u32 = 13;
pub(super) const OPEN: u32 = 14;
pub(super) const READ: u32 = 15;
pub(super) const WRITE: u32 = 16;
pub(super) const STATFS: u32 = 17;
pub(super) const RELEASE: u32 = 18;
pub(super) const SETXATTR: u32 = 21;
pub(super) const GETXATTR: u32 = 22;
pub(super) const LISTXATTR: u32 = 23;
pub(super) const REMOVEXATTR: u32 = 24;
pub(super) const INIT: u32 = 26;
pub(super) const OPENDIR: u32 = 27;
pub(super) const READDIR: u32 = 28;
pub(super) const CREATE: u32 = 35;
pub(super) const FALLOCATE: u32 = 43;
pub(super) const READDIRPLUS: u32 = 44;
pub(super) const RENAME2: u32 = 45;
pub(super) const LSEEK: u32 = 46;
pub(super) const COPY_FILE_RANGE: u32 = 47;
pub(super) const SYNCFS: u32 = 50;
pub(super) const TMPFILE: u32 = 51;

pub(super) const ROOT: u64 = 1;

/// What an entry's answer says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) node: u64,
    pub(super) number: u64,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A guest whose share has the entries `rw` and, read-only, `ro`.
pub(in crate::devices) struct Guest {
    pub(super) driver: Driver,
    pub(super) counts: Arc<FsCounts>,
    directory: TempDir,
    unique: u64,
    user: (u32, u32),
}

impl Guest {
    /// Whose driver has said `FUSE_INIT`.
    pub(super) fn new() -> Self {
        Self::with(FILES, Cache::Auto)
    }

    pub(super) fn with(files: usize, cache: Cache) -> Self {
        let mut guest = Self::unmounted(files, cache, 0);
        guest.mount();
        guest
    }

    fn mount(&mut self) {
        self.ask(INIT, 0, &words(&[7, 37, 1 << 20, u32::MAX])).unwrap();
    }

    /// Whose share has no entries.
    fn empty() -> Self {
        Self::of_entries(&["rw", "ro"], &[])
    }

    /// Whose share has these entries of the directories `names`.
    fn of_entries(names: &[&str], entries: &[(&str, bool)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in names {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self::of(device_of(directory.path(), FILES, Cache::Auto, entries), directory, 0)
    }

    fn unmounted(files: usize, cache: Cache, without: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["rw", "ro", "other"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let device = device(directory.path(), files, cache);
        Self::of(device, directory, without)
    }

    fn of(device: Fs, directory: TempDir, without: u64) -> Self {
        let counts = device.counts();
        let driver = Driver::start(device, without);
        Self { driver, counts, directory, unique: 0, user: (0, 0) }
    }

    /// A path on the host.
    pub(super) fn host(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Asks as this user from now on.
    pub(super) fn become_user(&mut self, uid: u32, gid: u32) {
        self.user = (uid, gid);
    }

    /// Asks and returns the answer without its header, or the error's number.
    pub(super) fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        self.ask_while(&mut |_| {}, opcode, node, body)
    }

    /// The same; `meanwhile` is called between the request and its answer.
    fn ask_while(
        &mut self,
        meanwhile: &mut dyn FnMut(&mut Self),
        opcode: u32,
        node: u64,
        body: &[u8],
    ) -> Result<Vec<u8>, i32> {
        self.unique += 1;
        let request = [&self.header(opcode, node, 40 + body.len())[..], body].concat();
        self.send_while(meanwhile, &request, 70_000)
    }

    pub(super) fn header(&self, opcode: u32, node: u64, length: usize) -> Vec<u8> {
        [
            &(length as u32).to_le_bytes()[..],
            &opcode.to_le_bytes(),
            &self.unique.to_le_bytes(),
            &node.to_le_bytes(),
            &words(&[self.user.0, self.user.1, 1, 0]),
        ]
        .concat()
    }

    /// Sends these bytes with room for an answer, both in several buffers.
    pub(super) fn send(&mut self, request: &[u8], room: usize) -> Result<Vec<u8>, i32> {
        self.send_while(&mut |_| {}, request, room)
    }

    fn send_while(
        &mut self,
        meanwhile: &mut dyn FnMut(&mut Self),
        request: &[u8],
        room: usize,
    ) -> Result<Vec<u8>, i32> {
        let from = self.driver.put(request);
        let to = self.driver.allocate(room);
        let (first, second) =
            (request.len().min(40) as u32, request.len().saturating_sub(40) as u32);
        let mut chain = vec![(from, first, false)];
        if second > 0 {
            chain.push((from + 40, second, false));
        }
        chain.push((to, 16, true));
        chain.push((to + 16, 100, true));
        chain.push((to + 116, room as u32 - 116, true));
        self.driver.add(QUEUE, &chain);
        self.driver.kick(QUEUE);
        meanwhile(self);
        let used = self.driver.wait_used(QUEUE, 1);
        let written = used[0].1 as usize;
        let answer = self.driver.bytes(to, written);
        self.driver.heap_reset(HEAP);
        if written == 0 {
            return Ok(Vec::new());
        }
        let number = |at: usize| i32::from_le_bytes(answer[at..at + 4].try_into().unwrap());
        assert_eq!(number(0) as usize, written);
        match number(4) {
            0 => Ok(answer[16..].to_vec()),
            error => {
                assert_eq!(written, 16);
                Err(-error)
            }
        }
    }

    pub(super) fn lookup(&mut self, parent: u64, name: &str) -> Result<Found, i32> {
        self.ask(LOOKUP, parent, &string(name)).map(|answer| found(&answer))
    }

    /// The node of a path below the share's root.
    pub(super) fn walk(&mut self, path: &str) -> Result<Found, i32> {
        let mut node = ROOT;
        let mut last = Err(libc::ENOENT);
        for name in path.split('/') {
            last = self.lookup(node, name);
            node = last?.node;
        }
        last
    }

    pub(super) fn stat(&mut self, node: u64) -> Result<Found, i32> {
        let answer = self.ask(GETATTR, node, &[0; 16])?;
        Ok(Found { node, ..found(&[&[0; 24], &answer[..]].concat()) })
    }

    pub(super) fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        let answer = self.ask(OPEN, node, &words(&[flags as u32, 0]))?;
        Ok(quad(&answer, 0))
    }

    pub(super) fn create(
        &mut self,
        parent: u64,
        name: &str,
        mode: u32,
        umask: u32,
    ) -> Result<(Found, u64), i32> {
        let flags = (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL) as u32;
        let body = [words(&[flags, mode, umask, 0]), string(name)].concat();
        let answer = self.ask(CREATE, parent, &body)?;
        Ok((found(&answer), quad(&answer, 128)))
    }

    pub(super) fn read(
        &mut self,
        node: u64,
        handle: u64,
        offset: u64,
        size: u32,
    ) -> Result<Vec<u8>, i32> {
        let body = [quads(&[handle, offset]), words(&[size, 0, 0, 0, 0, 0])].concat();
        self.ask(READ, node, &body)
    }

    pub(super) fn write(
        &mut self,
        node: u64,
        handle: u64,
        offset: u64,
        (how, flags): (u32, i32),
        data: &[u8],
    ) -> Result<u32, i32> {
        let size = data.len() as u32;
        let body =
            [quads(&[handle, offset]), words(&[size, how, 0, 0, flags as u32, 0]), data.to_vec()];
        let answer = self.ask(WRITE, node, &body.concat())?;
        Ok(u32::from_le_bytes(answer[..4].try_into().unwrap()))
    }

    /// All names that a directory has, in its order.
    pub(super) fn list(&mut self, directory: u64, plus: bool) -> Result<Vec<String>, i32> {
        let handle = quad(&self.ask(OPENDIR, directory, &[0; 8])?, 0);
        let mut names = Vec::new();
        let mut offset = 0;
        loop {
            let body = [quads(&[handle, offset]), words(&[4096, 0, 0, 0, 0, 0])].concat();
            let opcode = if plus { READDIRPLUS } else { READDIR };
            let answer = self.ask(opcode, directory, &body)?;
            if answer.is_empty() {
                break;
            }
            let mut rest = &answer[..];
            while !rest.is_empty() {
                rest = if plus { &rest[128..] } else { rest };
                offset = quad(rest, 8);
                let length = quad(rest, 16) as u32 as usize;
                names.push(String::from_utf8(rest[24..24 + length].to_vec()).unwrap());
                rest = &rest[(24 + length).next_multiple_of(8)..];
            }
        }
        self.ask(RELEASE, directory, &[quads(&[handle]), vec![0; 16]].concat())?;
        Ok(names)
    }
}

impl Subject for Guest {
    type Device = Fs;

    fn start(without: u64) -> Self {
        Self::unmounted(FILES, Cache::Auto, without)
    }

    fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    fn another(&mut self) -> Fs {
        device(self.directory.path(), FILES, Cache::None)
    }

    fn drive(&mut self, round: u32, meanwhile: &mut dyn FnMut(&mut Self)) -> Vec<u8> {
        let mut seen = Vec::new();
        let mut note = |answer: Result<Vec<u8>, i32>| {
            seen.extend(format!("{:?}", answer.map(|bytes| bytes.len())).bytes());
        };
        if round.is_multiple_of(5) {
            note(self.ask_while(meanwhile, INIT, 0, &words(&[7, 37, 1 << 20, u32::MAX])));
        }
        note(self.ask_while(meanwhile, GETATTR, ROOT, &[0; 16]));
        note(self.ask_while(meanwhile, LOOKUP, ROOT, &string("missing")));
        note(self.ask_while(meanwhile, READ, 9, &[0; 40]));
        note(self.ask_while(meanwhile, 99, ROOT, &[]));
        // A file is known and open, and forgotten at the end.
        let directory = self.lookup(ROOT, "rw").unwrap().node;
        let name = format!("round {round}");
        let (file, handle) = self.create(directory, &name, 0o644, 0).unwrap();
        note(self.ask(
            READ,
            file.node,
            &[quads(&[handle, 0]), words(&[9, 0, 0, 0, 0, 0])].concat(),
        ));
        note(self.ask(RELEASE, file.node, &[quads(&[handle]), vec![0; 16]].concat()));
        note(self.ask(UNLINK, directory, &string(&name)));
        for node in [directory, file.node] {
            note(self.ask(FORGET, node, &quads(&[1])));
        }
        seen
    }
}

/// A device that serves `directory`.
pub(in crate::devices) fn device(directory: &Path, files: usize, cache: Cache) -> Fs {
    device_of(directory, files, cache, &[("rw", false), ("ro", true)])
}

/// A device that serves these entries of `directory`.
fn device_of(directory: &Path, files: usize, cache: Cache, entries: &[(&str, bool)]) -> Fs {
    let root = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(directory)
        .unwrap();
    let entry = |&(name, read_only): &(&str, bool)| ShareEntry {
        name: name.to_owned(),
        path: directory.join(name),
        read_only,
        sealed: name == "sealed",
    };
    let share =
        Share { tag: "the share".to_owned(), cache, entries: entries.iter().map(entry).collect() };
    Fs::new(&share, root.into(), Arc::new(Reopen::open().unwrap()), files).unwrap()
}

pub(super) fn found(answer: &[u8]) -> Found {
    let word = |at: usize| u32::from_le_bytes(answer[at..at + 4].try_into().unwrap());
    Found {
        node: quad(answer, 0),
        number: quad(answer, 40),
        size: quad(answer, 48),
        mode: word(40 + 60),
        links: word(40 + 64),
        uid: word(40 + 68),
        gid: word(40 + 72),
    }
}

pub(super) fn quad(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub(super) fn quads(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn string(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// `struct fuse_setattr_in`.
pub(super) fn attributes(valid: u32, size: u64, mode: u32, (uid, gid): (u32, u32)) -> Vec<u8> {
    [words(&[valid, 0]), quads(&[0, size, 0, 0, 0, 0]), words(&[0, 0, 0, mode, 0, uid, gid, 0])]
        .concat()
}
