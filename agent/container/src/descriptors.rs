//! The descriptors of a new process.

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use rustix::{
    fs::{FileType, Mode, OFlags, Uid},
    io::{Errno, FdFlags},
};

use crate::{
    child::Streams,
    error::{Error, at},
    sys,
};

const STANDARD: u32 = 3;
/// `MEM_MAJOR`: `/dev/null` and its like, which belong to nobody.
const MEMORY_DEVICES: u32 = 1;

/// Puts the standard streams in place, keeps `preserved` descriptors after them and those that are `named`, and closes
/// the others. A named one that stands in the way gets another number.
pub(crate) fn arrange(
    streams: &Streams,
    preserved: u32,
    mut named: Vec<&mut RawFd>,
) -> Result<(), Error> {
    let first = STANDARD + preserved;
    let low = i32::try_from(first).unwrap_or(i32::MAX);
    for number in &mut named {
        if **number < low {
            **number = keep(duplicate_above(**number, low).map_err(at("move", "a descriptor"))?);
        }
    }
    if let Streams::Files(files) = streams {
        place_streams(files, low)?;
    }
    for number in STANDARD..first {
        rustix::io::fcntl_setfd(borrow(number.cast_signed()), FdFlags::empty())
            .map_err(at("preserve descriptor", number))?;
    }
    let mut kept: Vec<_> = named.iter().map(|number| number.cast_unsigned()).collect();
    kept.sort_unstable();
    let mut from = first;
    for number in kept {
        if from < number {
            sys::close_range(from, number - 1).map_err(at("close", "descriptors"))?;
        }
        from = number + 1;
    }
    sys::close_range(from, u32::MAX).map_err(at("close", "descriptors"))
}

fn place_streams(files: &[Option<RawFd>; 3], low: RawFd) -> Result<(), Error> {
    let at_stream = || at("make a standard stream of", "a descriptor");
    // A source that is itself in the place of a stream would be overwritten.
    let mut sources = *files;
    for (number, source) in (0..).zip(&mut sources) {
        if let Some(fd @ 0..3) = *source
            && fd != number
        {
            *source = Some(keep(duplicate_above(fd, low).map_err(at_stream())?));
        }
    }
    for (number, source) in (0..).zip(sources) {
        match source {
            Some(fd) if fd == number => {
                rustix::io::fcntl_setfd(borrow(fd), FdFlags::empty()).map_err(at_stream())?;
            }
            Some(fd) => duplicate(borrow(fd), number).map_err(at_stream())?,
            None => {
                let flags = OFlags::RDWR | OFlags::CLOEXEC;
                let null = rustix::fs::open("/dev/null", flags, Mode::empty())
                    .map_err(at("open", "/dev/null"))?;
                duplicate(std::os::fd::AsFd::as_fd(&null), number).map_err(at_stream())?;
            }
        }
    }
    Ok(())
}

/// Lets the user open `/dev/stdout` and its like again. What cannot be given away (a file of a user that the container
/// does not know, or on a read-only file system) stays as it is.
pub(crate) fn give_streams(uid: Uid) -> Result<(), Error> {
    if uid == Uid::ROOT {
        return Ok(());
    }
    for number in 0..3 {
        let stat = rustix::fs::fstat(borrow(number)).map_err(at("look at stream", number))?;
        let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        if stat.st_uid == uid.as_raw()
            || is_device && rustix::fs::major(stat.st_rdev) == MEMORY_DEVICES
        {
            continue;
        }
        give(number, uid)?;
    }
    Ok(())
}

/// Does that for pipes which a process will have in a user namespace, where their owner has no name: `uid` is its user's number here, in the maker's.
pub(crate) fn give_pipes(streams: &Streams, uid: u32) -> Result<(), Error> {
    let numbers = match streams {
        Streams::Inherited => [0, 1, 2].map(Some),
        Streams::Files(numbers) => *numbers,
        Streams::Terminal(_) => return Ok(()),
    };
    for number in numbers.into_iter().flatten() {
        let stat = rustix::fs::fstat(borrow(number)).map_err(at("look at stream", number))?;
        let is_pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
        if is_pipe && stat.st_uid != uid {
            give(number, Uid::from_raw(uid))?;
        }
    }
    Ok(())
}

fn give(number: RawFd, uid: Uid) -> Result<(), Error> {
    match rustix::fs::fchown(borrow(number), Some(uid), None) {
        Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS | Errno::OVERFLOW) => Ok(()),
        Err(errno) => Err(at("give away stream", number)(errno)),
    }
}

fn duplicate_above(number: RawFd, low: RawFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(borrow(number), low)
}

/// It stays open until execve.
fn keep(fd: OwnedFd) -> RawFd {
    std::os::fd::IntoRawFd::into_raw_fd(fd)
}

fn duplicate(file: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    match number {
        0 => rustix::stdio::dup2_stdin(file),
        1 => rustix::stdio::dup2_stdout(file),
        _ => rustix::stdio::dup2_stderr(file),
    }
}

fn borrow(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: a new process owns all of its descriptors; those that the job names are open, and stay so until execve. The maker's are open as long as it has them
    // in its work, or are the streams that it has itself.
    unsafe { BorrowedFd::borrow_raw(number) }
}
