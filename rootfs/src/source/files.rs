//! The files of a source by their names inside it: a directory on the host, or the members of an archive that is read in place.
//! Symbolic links are never followed on the host; those inside an archive lead to other members only.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::SourceError;
use crate::{
    limits,
    tar::{EntryKind, Input, Reader, TarError},
};

/// The files of one source.
pub(super) enum Files {
    Directory(PathBuf),
    Archive { file: Arc<File>, members: HashMap<Vec<u8>, Member> },
}

#[derive(Debug)]
pub(super) enum Member {
    Range { start: u64, size: u64 },
    Link(Vec<u8>),
}

/// One file: a range of an open file.
#[derive(Debug, Clone)]
pub(super) struct FileRef {
    file: Arc<File>,
    start: u64,
    size: u64,
}

impl Files {
    pub(super) fn directory(path: &Path) -> Result<Self, SourceError> {
        Ok(Self::Directory(path.to_owned()))
    }

    /// Reads the table of an archive; the members' data is passed over.
    pub(super) fn archive(path: &Path) -> Result<Self, SourceError> {
        let shown = || path.display().to_string();
        let read = |source| SourceError::Read { file: shown(), source };
        let damaged = |source| SourceError::Tar { file: shown(), source };
        let file = File::open(path).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        let mut members = HashMap::new();
        let mut reader = Reader::new(Seekable(BufReader::new(file.try_clone().map_err(read)?)));
        while let Some(entry) = reader.next_entry().map_err(damaged)? {
            let member = match entry.kind {
                EntryKind::Regular => {
                    let (start, size) = (reader.position(), entry.size);
                    if start.checked_add(size).is_none_or(|end| end > length) {
                        return Err(damaged(TarError::Truncated(length)));
                    }
                    Member::Range { start, size }
                }
                EntryKind::Symlink | EntryKind::HardLink => {
                    let base =
                        if entry.kind == EntryKind::Symlink { parent(&entry.path) } else { &[] };
                    Member::Link(normal(&[base, b"/", &entry.link].concat()))
                }
                _ => continue,
            };
            members.insert(normal(&entry.path), member);
            if members.len() > limits::ARCHIVE_ENTRIES {
                let reason = format!("it has more than {} members", limits::ARCHIVE_ENTRIES);
                return Err(SourceError::Malformed { file: shown(), reason });
            }
        }
        Ok(Self::Archive { file: Arc::new(file), members })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_ok()
    }

    /// The file `name`. In a directory, `name` must not have been taken from the source unchecked.
    pub(super) fn get(&self, name: &str) -> io::Result<FileRef> {
        match self {
            Self::Directory(path) => {
                // Not blocking: a planted FIFO must not hang the import.
                let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
                let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
                let file =
                    File::options().read(true).custom_flags(flags).open(path.join(name)).map_err(
                        |e| {
                            if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
                                io::Error::other(
                                    "it is a symbolic link; copy the layout with \"cp -rL\" first",
                                )
                            } else {
                                e
                            }
                        },
                    )?;
                let metadata = file.metadata()?;
                if !metadata.is_file() {
                    return Err(io::Error::other("it is not a regular file"));
                }
                Ok(FileRef { file: Arc::new(file), start: 0, size: metadata.len() })
            }
            Self::Archive { file, members } => {
                let mut name = normal(name.as_bytes());
                for _ in 0..limits::SYMLINKS {
                    match members.get(&name) {
                        Some(Member::Range { start, size }) => {
                            return Ok(FileRef { file: file.clone(), start: *start, size: *size });
                        }
                        Some(Member::Link(target)) => name.clone_from(target),
                        None => return Err(io::ErrorKind::NotFound.into()),
                    }
                }
                Err(io::Error::other("it leads through too many links"))
            }
        }
    }

    /// The whole content of `name`.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, SourceError> {
        let shown = || match self {
            Self::Directory(path) => path.join(name).display().to_string(),
            Self::Archive { .. } => name.to_owned(),
        };
        let read = |source| SourceError::Read { file: shown(), source };
        let file = self.get(name).map_err(read)?;
        if file.size > limit {
            let reason = format!("it has {} bytes; at most {limit} are read", file.size);
            return Err(SourceError::Malformed { file: shown(), reason });
        }
        let mut bytes = Vec::new();
        file.open().and_then(|mut range| range.read_to_end(&mut bytes)).map_err(read)?;
        Ok(bytes)
    }
}

impl FileRef {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// A reader of its own.
    pub(super) fn open(&self) -> io::Result<Range> {
        Ok(Range {
            file: self.file.clone(),
            position: self.start,
            end: self.start.checked_add(self.size).ok_or(io::ErrorKind::InvalidData)?,
        })
    }
}

/// Reads a range of a file that others may read too.
pub(super) struct Range {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Read for Range {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let wanted = left.min(out.len());
        let n = self.file.read_at(out.get_mut(..wanted).unwrap_or_default(), self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}

/// A name without `.`, `..` (which stays inside), empty components and slashes at its ends.
fn normal(name: &[u8]) -> Vec<u8> {
    let mut components: Vec<&[u8]> = Vec::new();
    for component in name.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop();
            }
            _ => components.push(component),
        }
    }
    components.join(&b'/')
}

fn parent(name: &[u8]) -> &[u8] {
    name.iter().rposition(|b| *b == b'/').and_then(|slash| name.get(..slash)).unwrap_or_default()
}

/// A file whose data is passed over by seeking.
struct Seekable(BufReader<File>);

impl Read for Seekable {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl BufRead for Seekable {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }
    fn consume(&mut self, count: usize) {
        self.0.consume(count);
    }
}

impl Input for Seekable {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        self.0.seek_relative(i64::try_from(count).map_err(io::Error::other)?)
    }
}
