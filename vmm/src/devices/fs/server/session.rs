//! The beginning and the end of a driver's session, what it forgets, and what concerns whole file systems.

use std::sync::Arc;

use rustix::{fs::OFlags, io::Errno};

use super::{
    super::protocol::{Answer, MAJOR, MINOR, OLDEST_MINOR, init},
    Call, Entries, Node, Outcome, Server,
};
use crate::devices::fs::{MAX_PAGES, MAX_TRANSFER};

/// What is accepted of what a driver offers.
const FLAGS: u32 = init::ASYNC_READ
    | init::ATOMIC_O_TRUNC
    | init::BIG_WRITES
    | init::DONT_MASK
    | init::AUTO_INVAL_DATA
    | init::DO_READDIRPLUS
    | init::READDIRPLUS_AUTO
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::POSIX_ACL
    | init::MAX_PAGES
    | init::CACHE_SYMLINKS
    | init::HANDLE_KILLPRIV_V2
    | init::SETXATTR_EXT;
/// Requests that the driver may have under way for its own ends (readahead, writeback), and at which it slows down.
const BACKGROUND: (u16, u16) = (64, 48);

impl Server {
    /// `FUSE_INIT`: a new session, in which nothing of an earlier one is known.
    pub(super) fn init(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let (major, minor) = (call.body.u32()?, call.body.u32()?);
        let (readahead, offered) = (call.body.u32()?, call.body.u32()?);
        if major < MAJOR || major == MAJOR && minor < OLDEST_MINOR {
            return Err(Errno::PROTO);
        }
        self.end_session()?;
        let answer = &mut *call.answer;
        answer.u32(MAJOR);
        answer.u32(MINOR);
        // A newer major version asks again in this one.
        if major > MAJOR {
            answer.zeros(56);
            return Ok(Outcome::Answer);
        }
        answer.u32(readahead);
        answer.u32(offered & FLAGS);
        answer.u16(BACKGROUND.0);
        answer.u16(BACKGROUND.1);
        answer.u32(MAX_TRANSFER);
        // Nanoseconds in which times are told.
        answer.u32(1);
        answer.u16(MAX_PAGES);
        answer.zeros(34);
        Ok(Outcome::Answer)
    }

    /// Closes and forgets everything.
    pub(super) fn end_session(&self) -> Result<Outcome, Errno> {
        self.handles.clear();
        self.nodes.forget_all();
        Ok(Outcome::Answer)
    }

    /// How many files besides the root the guest knows, and how many it has open.
    pub(in super::super) fn held(&self) -> (usize, usize) {
        (self.nodes.count(), self.handles.count())
    }

    pub(super) fn forget(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        self.nodes.forget(call.header.node, call.body.u64()?);
        Ok(Outcome::Silence)
    }

    pub(super) fn batch_forget(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let count = call.body.u32()?;
        call.body.u32()?;
        // Ends with the body, whatever the count says.
        for _ in 0..count {
            let (node, lookups) = (call.body.u64()?, call.body.u64()?);
            self.nodes.forget(node, lookups);
        }
        Ok(Outcome::Silence)
    }

    /// `FUSE_STATFS`: `struct fuse_kstatfs`.
    pub(super) fn file_system(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let node = self.nodes.get(call.header.node)?;
        let facts = rustix::fs::fstatvfs(self.nodes.open(&node)?)?;
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let answer = &mut *call.answer;
        for value in [facts.f_blocks, facts.f_bfree, facts.f_bavail, facts.f_files, facts.f_ffree] {
            answer.u64(value);
        }
        answer.u32(small(facts.f_bsize));
        answer.u32(small(facts.f_namemax));
        answer.u32(small(facts.f_frsize));
        answer.zeros(28);
        Ok(Outcome::Answer)
    }

    /// `FUSE_SYNCFS`: the file systems of the entries that can be written.
    pub(super) fn sync_file_systems(&self) -> Result<Outcome, Errno> {
        let root: Arc<Node> = self.nodes.get(super::ROOT)?;
        let directory = self.nodes.open(&root)?;
        for (name, entry) in self.entries.writable() {
            let file = Entries::open(&*directory, &name, &entry)?;
            let file = self.reopen.open_as(file, OFlags::RDONLY | OFlags::NONBLOCK)?;
            rustix::fs::syncfs(file)?;
        }
        Ok(Outcome::Answer)
    }
}
