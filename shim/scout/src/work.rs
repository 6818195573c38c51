//! What an ordinary program does, once: files, memory, processes, threads, sockets, clocks. The bench counts what its host does meanwhile.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    net::UdpSocket,
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::{FallocateFlags, fallocate},
    time::{ClockId, clock_gettime},
};

use crate::child;

const BLOCK: usize = 64 << 10;

/// Does it all, in this directory.
pub(crate) fn run(directory: &Path) -> io::Result<()> {
    let place = directory.join(format!(".bulkhead-scout-work-{}", std::process::id()));
    fs::create_dir(&place)?;
    let done = files(&place).and_then(|()| talk()).and_then(|()| processes());
    fs::remove_dir_all(&place)?;
    done
}

fn files(place: &Path) -> io::Result<()> {
    let (first, second) = (place.join("first"), place.join("second"));
    let mut file = File::options().read(true).write(true).create_new(true).open(&first)?;
    // Not every file system can.
    let _ = fallocate(&file, FallocateFlags::empty(), 0, BLOCK as u64);
    file.write_all(&vec![7; BLOCK])?;
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut vec![0; BLOCK])?;
    fs::rename(&first, &second)?;
    std::os::unix::fs::symlink(&second, &first)?;
    fs::read_link(&first)?;
    fs::metadata(&first)?;
    for entry in fs::read_dir(place)? {
        entry?.metadata()?;
    }
    fs::set_permissions(&second, fs::metadata(&second)?.permissions())?;
    file.set_len(0)
}

fn talk() -> io::Result<()> {
    let (mut here, mut there) = UnixStream::pair()?;
    let server = thread::spawn(move || {
        let mut byte = [0];
        there.read_exact(&mut byte)?;
        there.write_all(&byte)
    });
    here.write_all(&[1])?;
    poll(&mut [PollFd::new(&here, PollFlags::IN)], None)?;
    here.read_exact(&mut [0])?;
    server.join().map_err(|_| io::Error::other("a thread died"))??;
    // A container need not have an interface that is up.
    if let Ok(socket) = UdpSocket::bind(("127.0.0.1", 0)) {
        let to = socket.local_addr()?;
        let _ = socket.send_to(&[1], to);
    }
    rustix::io::write(eventfd(1, EventfdFlags::CLOEXEC)?, &1_u64.to_ne_bytes())?;
    Ok(())
}

fn processes() -> io::Result<()> {
    let (mut read, mut write) = child::pipe()?;
    child::run(|| write.write_all(&[1]))?;
    read.read_exact(&mut [0])?;
    let _ = clock_gettime(ClockId::Monotonic);
    thread::sleep(Duration::from_millis(1));
    // More than any allocator keeps.
    std::hint::black_box(vec![1_u8; 4 << 20]);
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        super::files(directory.path()).unwrap();
        super::talk().unwrap();
        let work = tempfile::tempdir().unwrap();
        std::fs::create_dir(work.path().join("w")).unwrap();
        super::files(&work.path().join("w")).unwrap();
    }
}
