//! A file or directory of a tree as a tar archive.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::fs::{Dir, FileType, Mode, OFlags, Stat, openat, readlinkat};
use tar::{Builder, EntryType, Header};

use super::{
    Owners,
    tree::{Tree, stat},
};

/// The deepest directory that is copied.
const MAX_DEPTH: usize = 256;

/// Writes what `path` leads to as an archive whose top is called `name`; `follow`: through a symbolic link at its end. Returns how many devices and
/// sockets were left out.
pub(super) fn pack(
    tree: &Tree,
    path: &Path,
    name: &Path,
    follow: bool,
    owners: Owners,
    out: impl Write,
) -> io::Result<u64> {
    let mut packer = Packer { out: Builder::new(out), owners, left_out: 0 };
    if follow || path.file_name().is_none() {
        let fd = tree.open(path, OFlags::PATH)?;
        let found = rustix::fs::fstat(&fd)?;
        // By way of the open file, whatever is renamed meanwhile.
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => {
                let directory = tree.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
                packer.directory(directory, &found, name, 0)?;
            }
            FileType::RegularFile => {
                let file = tree.open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
                packer.file(file, &found, name)?;
            }
            _ => packer.left_out += 1,
        }
    } else {
        let (parent, last) = tree.parent(path)?;
        packer.entry(&parent, last, name, 0)?;
    }
    packer.out.into_inner()?.flush()?;
    Ok(packer.left_out)
}

struct Packer<W: Write> {
    out: Builder<W>,
    owners: Owners,
    left_out: u64,
}

impl<W: Write> Packer<W> {
    fn entry(
        &mut self,
        parent: &OwnedFd,
        last: &OsStr,
        name: &Path,
        depth: usize,
    ) -> io::Result<()> {
        let found = stat(parent, last)?;
        let open =
            |flags| openat(parent, last, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => {
                let directory = open(OFlags::RDONLY | OFlags::DIRECTORY)?;
                self.directory(directory, &found, name, depth)
            }
            FileType::RegularFile => {
                self.file(open(OFlags::RDONLY | OFlags::NONBLOCK)?, &found, name)
            }
            FileType::Symlink => {
                let target = readlinkat(parent, last, Vec::new())?;
                let mut header = self.header(&found, EntryType::Symlink);
                self.out.append_link(
                    &mut header,
                    name,
                    Path::new(OsStr::from_bytes(target.as_bytes())),
                )
            }
            FileType::Fifo => {
                let mut header = self.header(&found, EntryType::Fifo);
                self.out.append_data(&mut header, name, io::empty())
            }
            _ => {
                self.left_out += 1;
                Ok(())
            }
        }
    }

    fn directory(
        &mut self,
        directory: OwnedFd,
        found: &Stat,
        name: &Path,
        depth: usize,
    ) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other(format!("{}: too deep", name.display())));
        }
        let mut header = self.header(found, EntryType::Directory);
        // A directory's name ends with a slash, as everybody writes it.
        self.out.append_data(&mut header, name.join(""), io::empty())?;
        let mut names = Vec::new();
        for item in Dir::read_from(directory.as_fd())? {
            let item = item?;
            let bytes = item.file_name().to_bytes();
            if bytes != b"." && bytes != b".." {
                names.push(OsStr::from_bytes(bytes).to_owned());
            }
        }
        names.sort();
        for child in names {
            match self.entry(&directory, &child, &name.join(&child), depth + 1) {
                // It was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn file(&mut self, file: OwnedFd, found: &Stat, name: &Path) -> io::Result<()> {
        let mut header = self.header(found, EntryType::Regular);
        let size = u64::try_from(found.st_size).unwrap_or(0);
        header.set_size(size);
        // A file that changes while it is read still fills what its header says.
        let content = io::Read::take(io::Read::chain(File::from(file), io::repeat(0)), size);
        self.out.append_data(&mut header, name, content)
    }

    fn header(&self, found: &Stat, kind: EntryType) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(found.st_mode & 0o7777);
        let (uid, gid) = self.owners.of(found.st_uid, found.st_gid);
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_mtime(u64::try_from(found.st_mtime).unwrap_or(0));
        header.set_size(0);
        header
    }
}
