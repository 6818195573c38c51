//! The reading side: all files of a log, from the oldest to the newest, as they are at one moment.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::Path,
};

use super::{Entry, FILE, file};

/// A log that is rotated this often while it is opened is read as far as it goes.
const ATTEMPTS: usize = 100;

/// Opens all files of the log in a container's directory, the oldest first, none twice and none left out although the log may be rotated meanwhile.
///
/// # Errors
/// A directory or file that cannot be read.
pub fn open_all(directory: &Path) -> io::Result<Vec<File>> {
    let mut files = open_once(directory)?;
    for _ in 0..ATTEMPTS {
        let again = open_once(directory)?;
        if inodes(&again)? == inodes(&files)? {
            break;
        }
        files = again;
    }
    Ok(files)
}

fn inodes(files: &[File]) -> io::Result<Vec<u64>> {
    files.iter().map(|file| Ok(file.metadata()?.ino())).collect()
}

fn open_once(directory: &Path) -> io::Result<Vec<File>> {
    let mut numbers = Vec::new();
    for item in fs::read_dir(directory)? {
        let name = item?.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(FILE)) else { continue };
        let number = if rest.is_empty() {
            Some(0)
        } else {
            rest.strip_prefix('.').and_then(|n| n.parse().ok())
        };
        numbers.extend(number);
    }
    numbers.sort_unstable_by(|a: &u32, b| b.cmp(a));
    let mut files = Vec::with_capacity(numbers.len());
    for number in numbers {
        match File::open(file(directory, number)) {
            Ok(file) => files.push(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// A pass over files that are not written any more, or up to where they are written.
#[derive(Debug)]
pub struct Pass {
    files: std::vec::IntoIter<File>,
    current: Option<BufReader<File>>,
    line: Vec<u8>,
    /// Lines that are damaged.
    pub damaged: u64,
    /// Bytes of whole lines that were read of the file that was begun last.
    pub(super) consumed: u64,
}

impl Pass {
    /// A pass over these files, in this order.
    #[must_use]
    pub fn new(files: Vec<File>) -> Self {
        Self { files: files.into_iter(), current: None, line: Vec::new(), damaged: 0, consumed: 0 }
    }

    /// The next entry; `None` at the end. A line without an end is not there yet and is left out.
    ///
    /// # Errors
    /// That of read(2).
    pub fn next_entry(&mut self) -> io::Result<Option<Entry<'static>>> {
        loop {
            let Some(current) = self.current.as_mut() else {
                match self.files.next() {
                    Some(file) => {
                        self.current = Some(BufReader::with_capacity(64 << 10, file));
                        self.consumed = 0;
                    }
                    None => return Ok(None),
                }
                continue;
            };
            self.line.clear();
            current.read_until(b'\n', &mut self.line)?;
            if self.line.last() != Some(&b'\n') {
                self.current = None;
                continue;
            }
            self.consumed += self.line.len() as u64;
            match Entry::decode(&self.line) {
                Some(entry) => return Ok(Some(entry)),
                None => self.damaged += 1,
            }
        }
    }
}
