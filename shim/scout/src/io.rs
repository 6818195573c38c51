//! `bulkhead-scout io`: does what it is told, an order a line, and tells how long it took.

use std::{
    fs::{self, File},
    io::{self, BufRead, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use bulkhead_scout::{Done, FILE, Order};

use crate::{LINE, net};

/// Bytes of one read or write of what is large.
const PIECE: usize = 64 << 10;

/// Until the end of the input.
pub(crate) fn run() -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut output = io::stdout().lock();
    let mut line = String::new();
    loop {
        line.clear();
        if input.by_ref().take(LINE).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let order: Order = serde_json::from_str(&line)?;
        let mut done = Done::default();
        let begin = Instant::now();
        let result = follow(&order, &mut done, &mut input, &mut output);
        done.nanoseconds = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        done.error = result.err().map(|error| error.to_string());
        writeln!(output, "{}", serde_json::to_string(&done)?)?;
        output.flush()?;
    }
}

fn follow(
    order: &Order,
    done: &mut Done,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> io::Result<()> {
    match order {
        Order::Nothing => Ok(()),
        Order::Read { files, offset, bytes } => {
            let file = files.iter().find_map(|path| regular(path, *offset));
            let mut file = file.ok_or_else(|| io::Error::other("none of these files is there"))?;
            file.seek(SeekFrom::Start(*offset))?;
            copy(file.take(*bytes), &mut io::sink(), done)
        }
        Order::Write { directory, bytes } => {
            let path = name(directory, "large");
            let mut file = File::create(&path)?;
            let written = copy(io::repeat(7).take(*bytes), &mut file, done);
            written.and_then(|()| file.sync_all()).and_then(|()| fs::remove_file(path))
        }
        Order::Sync { directory, count } => each(*count, done, |number| {
            let mut file = File::create(name(directory, number))?;
            file.write_all(&[7; FILE])?;
            file.sync_all().map(|()| FILE)
        }),
        Order::Stat { directory, count } => {
            each(*count, done, |number| fs::metadata(name(directory, number)).map(|_| 0))
        }
        Order::Open { directory, count } => each(*count, done, |number| {
            let mut buffer = [0; FILE];
            File::open(name(directory, number))?.read(&mut buffer)
        }),
        Order::Remove { directory, count } => {
            each(*count, done, |number| fs::remove_file(name(directory, number)).map(|()| 0))
        }
        Order::Output { bytes } => {
            copy(io::repeat(b'.').take(*bytes), output, done)?;
            output.flush()
        }
        Order::Input { bytes } => copy(input.take(*bytes), &mut io::sink(), done),
        Order::Echo { count } => {
            let mut line = String::new();
            each(*count, done, |_| {
                line.clear();
                let length = input.by_ref().take(LINE).read_line(&mut line)?;
                output.write_all(line.as_bytes())?;
                output.flush().map(|()| length)
            })
        }
        Order::Fetch { from, bytes } => {
            copy(net::fetch(*from, *bytes)?.take(*bytes), &mut io::sink(), done)
        }
        Order::Give { to, bytes } => {
            let mut stream = net::connect(*to)?;
            copy(io::repeat(7).take(*bytes), &mut stream, done)?;
            net::arrived(&stream)
        }
        Order::Connect { to, count } => each(*count, done, |_| net::connect(*to).map(|_| 0)),
        Order::Bounce { with, count } => {
            let mut stream = net::connect(*with)?;
            each(*count, done, |_| net::bounce(&mut stream))
        }
        Order::Datagrams { with, count } => {
            let socket = net::datagrams(*with)?;
            each(*count, done, |_| net::datagram(&socket))
        }
    }
}

/// The file, when it is a regular one that has bytes at this place.
fn regular(path: &str, offset: u64) -> Option<File> {
    let file = File::open(path).ok()?;
    let data = file.metadata().ok()?;
    (data.is_file() && data.len() > offset).then_some(file)
}

fn name(directory: &str, what: impl std::fmt::Display) -> PathBuf {
    Path::new(directory).join(format!(".bulkhead-scout-{what}"))
}

fn each(
    count: u64,
    done: &mut Done,
    mut act: impl FnMut(u64) -> io::Result<usize>,
) -> io::Result<()> {
    for number in 0..count {
        done.bytes += act(number)? as u64;
        done.operations += 1;
    }
    Ok(())
}

/// In pieces: one operation each.
fn copy(mut from: impl Read, to: &mut impl Write, done: &mut Done) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let read = from.read(&mut buffer)?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
            return Ok(());
        };
        to.write_all(piece)?;
        done.bytes += read as u64;
        done.operations += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(order: &Order, input: &str) -> (Done, String) {
        let (mut done, mut output) = (Done::default(), Vec::new());
        follow(order, &mut done, &mut input.as_bytes(), &mut output).unwrap();
        (done, String::from_utf8(output).unwrap())
    }

    #[test]
    fn files_are_made_read_and_gone() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().to_str().unwrap().to_owned();
        let count = 3;
        let (made, _) = order(&Order::Sync { directory: directory.clone(), count }, "");
        assert_eq!((made.operations, made.bytes), (3, 3 * FILE as u64));
        order(&Order::Stat { directory: directory.clone(), count }, "");
        let (read, _) = order(&Order::Open { directory: directory.clone(), count }, "");
        assert_eq!(read.bytes, made.bytes);
        order(&Order::Remove { directory: directory.clone(), count }, "");
        let bytes = 100_000;
        let (written, _) = order(&Order::Write { directory, bytes }, "");
        assert_eq!((written.operations, written.bytes), (2, bytes));
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_network_carries_what_was_ordered() {
        use std::net::{Ipv4Addr, TcpListener, UdpSocket};
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let peer = listener.local_addr().unwrap();
        let datagrams = UdpSocket::bind(peer).unwrap();
        // They end with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // What it gets it gives back: a fetch begins with 8 bytes, a give ends with one.
                let _ = io::copy(&mut &stream, &mut &stream);
            }
        });
        std::thread::spawn(move || {
            while let Ok((length, from)) = datagrams.recv_from(&mut [0; 8]) {
                let _ = datagrams.send_to(&[7; 8][..length], from);
            }
        });
        let (given, _) = order(&Order::Give { to: peer, bytes: 100_000 }, "");
        assert_eq!((given.operations, given.bytes), (2, 100_000));
        assert_eq!(order(&Order::Fetch { from: peer, bytes: 8 }, "").0.bytes, 8);
        let count = 3;
        for what in [
            Order::Bounce { with: peer, count },
            Order::Datagrams { with: peer, count },
            Order::Connect { to: peer, count },
        ] {
            assert_eq!(order(&what, "").0.operations, 3, "{what:?}");
        }
    }

    #[test]
    fn streams_carry_what_was_ordered() {
        let (done, out) = order(&Order::Output { bytes: 5 }, "");
        assert_eq!((done.bytes, out.as_str()), (5, "....."));
        assert_eq!(order(&Order::Input { bytes: 4 }, "abcdef").0.bytes, 4);
        let (done, out) = order(&Order::Echo { count: 2 }, "a\nbc\nd\n");
        assert_eq!((done.operations, done.bytes, out.as_str()), (2, 5, "a\nbc\n"));
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789").unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let files = vec!["/no/such".into(), "/proc".into(), path];
        let read = |offset, bytes| order(&Order::Read { files: files.clone(), offset, bytes }, "");
        assert_eq!((read(2, 7).0.bytes, read(8, 7).0.bytes), (7, 2));
    }
}
