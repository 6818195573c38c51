//! Standard input: what clients gave, on its way to the container.

use std::{collections::VecDeque, os::fd::OwnedFd};

use rustix::io::Errno;

/// Bytes that wait for the container to take them, and whose they are.
#[derive(Debug)]
pub(super) struct Input {
    fd: Option<OwnedFd>,
    pending: VecDeque<u8>,
    owners: VecDeque<(u64, usize)>,
    ended: bool,
}

impl Input {
    /// Input into `fd`, which does not block; without it, all bytes are taken and forgotten.
    pub(super) fn new(fd: Option<OwnedFd>) -> Self {
        Self { fd, pending: VecDeque::new(), owners: VecDeque::new(), ended: false }
    }

    /// Takes bytes of the client `owner`.
    pub(super) fn push(&mut self, owner: u64, bytes: &[u8]) {
        if !self.ended {
            self.pending.extend(bytes);
        }
        self.owners.push_back((owner, bytes.len()));
    }

    /// The container's input ends after what is pending.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// What to wait for: that it can be written to.
    pub(super) fn waits_for(&self) -> Option<&OwnedFd> {
        self.fd.as_ref().filter(|_| !self.pending.is_empty())
    }

    /// Writes what can be written. Returns which clients' bytes were taken.
    pub(super) fn flush(&mut self) -> Vec<(u64, usize)> {
        while let Some(fd) = &self.fd
            && !self.pending.is_empty()
        {
            match rustix::io::write(fd, self.pending.as_slices().0) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(Errno::AGAIN | Errno::INTR) => break,
                // The container does not read it any more.
                Err(_) => self.fd = None,
            }
        }
        if self.fd.is_none() {
            self.pending.clear();
        }
        if self.ended && self.pending.is_empty() {
            self.fd = None;
        }
        self.take_owners()
    }

    fn take_owners(&mut self) -> Vec<(u64, usize)> {
        let owed: usize = self.owners.iter().map(|(_, count)| count).sum();
        let mut done = owed.saturating_sub(self.pending.len());
        let mut taken = Vec::new();
        while done > 0 {
            let Some((owner, count)) = self.owners.front_mut() else { break };
            let part = done.min(*count);
            taken.push((*owner, part));
            *count -= part;
            done -= part;
            if *count == 0 {
                self.owners.pop_front();
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::keeper::streams::do_not_block;

    fn pipe() -> (std::fs::File, OwnedFd) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        do_not_block(&write).unwrap();
        (read.into(), write)
    }

    #[test]
    fn bytes_are_told_as_taken_when_the_pipe_has_them() {
        let (mut reader, writer) = pipe();
        let mut input = Input::new(Some(writer));
        input.push(1, &[7; 100_000]);
        input.push(2, &[8; 10]);
        let taken = input.flush();
        assert_eq!(taken, [(1, 65_536)]);
        assert!(input.waits_for().is_some());
        input.end();
        let mut got = vec![0; 65_536];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(input.flush(), [(1, 34_464), (2, 10)]);
        assert!(input.waits_for().is_none());
        got.clear();
        reader.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), 34_474);
    }

    #[test]
    fn nobody_waits_for_a_container_that_does_not_read() {
        let (reader, writer) = pipe();
        drop(reader);
        let mut input = Input::new(Some(writer));
        input.push(3, b"lost");
        assert_eq!(input.flush(), [(3, 4)]);
        let mut none = Input::new(None);
        none.push(4, b"lost too");
        assert_eq!(none.flush(), [(4, 8)]);
    }
}
