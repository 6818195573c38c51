//! Copies bytes between this process's standard streams and a container's, each direction in a thread of its own.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::mpsc::Sender,
    thread,
};

use bulkhead_protocol::Token;

use crate::{sandbox::Event, timeline};

const CHUNK: usize = 64 << 10;

/// Copies this process's standard input into `stream` until it ends, then closes that half.
///
/// # Errors
/// When the stream cannot be shared with a thread.
pub fn feed(stream: &UnixStream) -> io::Result<()> {
    let mut stream = stream.try_clone()?;
    thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        // The program may have closed its end, or this end may fail: in both cases no more input comes.
        let _ = copy(&mut stdin, &mut stream, |_| {});
        let _ = stream.shutdown(Shutdown::Write);
    });
    Ok(())
}

/// Copies `stream` to `out` until it ends. When `out` takes no more, that half is closed, so that the program learns of it.
pub fn join(
    token: Token,
    stream: UnixStream,
    mut out: impl Write + Send + 'static,
    events: Sender<Event>,
) {
    thread::spawn(move || {
        let mut first = true;
        let mut from = &stream;
        let _ = copy(&mut from, &mut out, |_| {
            if std::mem::take(&mut first) {
                let _ = events.send(Event::FirstOutput(timeline::now()));
            }
        });
        let _ = stream.shutdown(Shutdown::Read);
        let _ = events.send(Event::StreamEnded(token));
    });
}

fn copy(from: &mut impl Read, to: &mut impl Write, mut wrote: impl FnMut(usize)) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                to.write_all(&chunk[..n])?;
                to.flush()?;
                wrote(n);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_full_sink_closes_the_stream() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (events, heard) = mpsc::channel();
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        join(9, ours, full, events);
        theirs.write_all(b"x").unwrap();
        assert!(matches!(heard.recv().unwrap(), Event::StreamEnded(9)));
        assert_eq!(theirs.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
