//! Directories' entries: `FUSE_READDIR`, and `FUSE_READDIRPLUS`, which looks each of them up as well.

use std::{
    ffi::CStr,
    mem::MaybeUninit,
    os::fd::AsFd,
    sync::{Arc, PoisonError},
};

use rustix::{
    fs::{RawDir, SeekFrom},
    io::Errno,
};

use super::{
    super::protocol::{Answer, ENTRY_OUT, OUT_HEADER},
    Call, Node, Outcome, Server,
    attributes::write_no_entry,
    open_name,
};

/// Bytes of `struct fuse_dirent` before the name.
const DIRENT: usize = 24;
/// The most bytes that one request gets.
const MAX_ANSWER: usize = 64 << 10;
/// Bytes of the host's entries that are read at once: about as many entries as fit into a page of the driver's, which asks for one.
const BUFFER: usize = 4096;
const BUFFER_PLUS: usize = 1024;

impl Server {
    /// The answer is as many entries as fit; none is the end.
    pub(super) fn read_directory(
        &self,
        call: &mut Call<'_, '_>,
        plus: bool,
    ) -> Result<Outcome, Errno> {
        let (handle, offset, size) = (call.body.u64()?, call.body.u64()?, call.body.u32()?);
        let node = self.nodes.directory(call.header.node)?;
        let handle = self.handles.get(handle, node.id)?;
        let room = call.output.len().saturating_sub(OUT_HEADER);
        let room = room.min(size as usize).min(MAX_ANSWER);
        let _reading = handle.reading.lock().unwrap_or_else(PoisonError::into_inner);
        rustix::fs::seek(&*handle, SeekFrom::Start(offset))?;
        let mut buffer = [const { MaybeUninit::uninit() }; BUFFER];
        let buffer = &mut buffer[..if plus { BUFFER_PLUS } else { BUFFER }];
        let mut entries = RawDir::new(&*handle, buffer);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if call.answer.is_empty() => return Err(error),
                Err(_) => return Ok(Outcome::Answer),
            };
            let name = entry.file_name();
            let length = DIRENT + name.count_bytes() + if plus { ENTRY_OUT } else { 0 };
            if call.answer.len() + length.next_multiple_of(8) > room {
                if call.answer.is_empty() {
                    return Err(Errno::INVAL);
                }
                return Ok(Outcome::Answer);
            }
            if self.entry(&node, name).is_none() && !is_dots(name) {
                continue;
            }
            if plus {
                self.tell_beside(&node, &*handle, name, call.answer);
            }
            let answer = &mut *call.answer;
            answer.u64(self.numbers.beside(&node.key, entry.ino()));
            answer.u64(entry.next_entry_cookie());
            answer.u32(u32::try_from(name.count_bytes()).map_err(|_| Errno::NAMETOOLONG)?);
            // The kind as in a mode's upper bits (`DT_*`).
            answer.u32(entry.file_type().as_raw_mode() >> 12);
            answer.extend(name.to_bytes());
            answer.resize(answer.len().next_multiple_of(8), 0);
        }
        Ok(Outcome::Answer)
    }

    /// Tells the guest of an entry, or only its name when there is no room or it is gone.
    fn tell_beside(
        &self,
        parent: &Arc<Node>,
        directory: impl AsFd,
        name: &CStr,
        answer: &mut Vec<u8>,
    ) {
        let found = match self.entry(parent, name) {
            Some(entry) if !is_dots(name) => open_name(directory, name)
                .and_then(|file| self.nodes.remember(file, Some((&**parent, name)), &entry)),
            _ => Err(Errno::NFILE),
        };
        match found {
            Ok((node, facts)) => self.write_entry(parent, &node, &facts, answer),
            Err(_) => write_no_entry(answer),
        }
    }
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
