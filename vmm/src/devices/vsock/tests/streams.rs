//! Connections from both sides: their beginnings, half-closes and ends.

use super::*;

#[test]
fn the_configuration_is_the_context_id() {
    let guest = Guest::new();
    assert_eq!(u64::from_le_bytes(guest.driver.config(0)), CID);
    assert_eq!(guest.driver.config::<4>(6), [0; 4]);
}

#[test]
fn the_guest_connects_talks_and_closes() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    guest.send(KEY, Op::Data, 0, 0, b"question");
    let mut question = [0; 8];
    socket.read_exact(&mut question).unwrap();
    assert_eq!(&question, b"question");
    socket.write_all(b"answer").unwrap();
    let (header, data) = guest.receive();
    assert_eq!((header.op, header.fwd_cnt, &data[..]), (Op::Data, 8, &b"answer"[..]));
    guest.send(KEY, Op::Data, 0, 6, b"bye");
    guest.send(KEY, Op::Shutdown, BOTH, 6, &[]);
    guest.expect(KEY, Op::Reset);
    assert_eq!(drain(&mut socket), b"bye");
    // The ports are free again.
    drop(socket);
    let _socket = guest.connect(&listener, KEY);
    assert_eq!(guest.counts.errors.get(), 0);
}

#[test]
fn the_host_connects_talks_and_closes() {
    let mut guest = Guest::new();
    let (mut socket, key) = guest.accept(1024);
    socket.write_all(b"question").unwrap();
    let (_, data) = guest.receive();
    assert_eq!(data, b"question");
    guest.send(key, Op::Data, 0, 8, b"answer");
    let mut answer = [0; 6];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    socket.write_all(b"bye").unwrap();
    drop(socket);
    let (_, data) = guest.receive();
    assert_eq!(data, b"bye");
    let header = guest.expect(key, Op::Shutdown);
    assert_eq!(header.flags, BOTH);
    guest.send(key, Op::Reset, 0, 11, &[]);
    guest.expect_silence();
    assert_eq!(guest.counts.errors.get(), 0);
    let (_, other) = guest.accept(1024);
    assert_ne!(other, key);
}

#[test]
fn what_follows_the_greeting_is_data() {
    let mut guest = Guest::new();
    let mut socket = UnixStream::connect(&guest.path).unwrap();
    for piece in ["CON", "NECT 10", "24\nearly", " bird"] {
        socket.write_all(piece.as_bytes()).unwrap();
        guest.driver.pump();
    }
    let (request, _) = guest.receive();
    let key = Key { host: request.src_port, guest: 1024 };
    guest.expect_silence();
    guest.send(key, Op::Response, 0, 0, &[]);
    assert_eq!(guest.receive().1, b"early bird");
}

#[test]
fn bad_greetings_and_refusals_close_the_connection() {
    let mut guest = Guest::new();
    for line in [
        "\n",
        "CONNECT\n",
        "CONNECT x\n",
        "CONNECT 4294967296\n",
        "GET / HTTP/1.1\n",
        "no newline, and 32 bytes or more",
    ] {
        let mut socket = UnixStream::connect(&guest.path).unwrap();
        socket.write_all(line.as_bytes()).unwrap();
        guest.driver.pump();
        socket.set_nonblocking(true).unwrap();
        let mut rest = [0; 8];
        let end = socket.read(&mut rest);
        assert!(
            matches!(&end, Ok(0))
                || end.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset),
            "{line:?}: {end:?}"
        );
    }
    let mut half = UnixStream::connect(&guest.path).unwrap();
    half.write_all(b"CONNECT 1").unwrap();
    guest.driver.pump();
    half.shutdown(Shutdown::Write).unwrap();
    guest.driver.pump();
    assert!(half.read(&mut [0]).is_ok_and(|count| count == 0) || half.take_error().is_ok());
    guest.expect_silence();
    let mut socket = UnixStream::connect(&guest.path).unwrap();
    socket.write_all(b"CONNECT 9\n").unwrap();
    let (request, _) = guest.receive();
    guest.send(Key { host: request.src_port, guest: 9 }, Op::Reset, 0, 0, &[]);
    assert_eq!(drain(&mut socket), b"");
}

#[test]
fn a_port_where_nobody_listens_refuses() {
    let mut guest = Guest::new();
    guest.send(KEY, Op::Request, 0, 0, &[]);
    guest.expect(KEY, Op::Reset);
    // Nor does one whose listener is gone.
    drop(guest.listen(7));
    guest.send(KEY, Op::Request, 0, 0, &[]);
    guest.expect(KEY, Op::Reset);
}

#[test]
fn the_guest_half_closes() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    guest.send(KEY, Op::Data, 0, 0, b"all of it");
    guest.send(KEY, Op::Shutdown, WILL_NOT_SEND, 0, &[]);
    assert_eq!(drain(&mut socket), b"all of it");
    socket.write_all(b"the answer").unwrap();
    assert_eq!(guest.receive().1, b"the answer");
    drop(socket);
    assert_eq!(guest.expect(KEY, Op::Shutdown).flags, BOTH);
    guest.send(KEY, Op::Reset, 0, 10, &[]);
    guest.expect_silence();
}

#[test]
fn the_host_half_closes() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    socket.write_all(b"all of it").unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.receive().1, b"all of it");
    assert_eq!(guest.expect(KEY, Op::Shutdown).flags, WILL_NOT_SEND);
    guest.send(KEY, Op::Data, 0, 9, b"the answer");
    guest.send(KEY, Op::Shutdown, BOTH, 9, &[]);
    guest.expect(KEY, Op::Reset);
    assert_eq!(drain(&mut socket), b"the answer");
}

#[test]
fn the_guest_stops_receiving() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    guest.send(KEY, Op::Shutdown, WILL_NOT_RECEIVE, 0, &[]);
    let broken = loop {
        if let Err(error) = socket.write(&[0; 4096]) {
            break error;
        }
    };
    assert_eq!(broken.kind(), ErrorKind::BrokenPipe);
    guest.send(KEY, Op::Data, 0, 0, b"still talking");
    guest.send(KEY, Op::Shutdown, WILL_NOT_SEND, 0, &[]);
    guest.expect(KEY, Op::Reset);
    assert_eq!(drain(&mut socket), b"still talking");
}

#[test]
fn the_host_goes_away_and_everything_that_it_sent_arrives() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    let data = pattern(4, 100 << 10);
    socket.write_all(&data).unwrap();
    drop(socket);
    let (mut got, mut flags) = (Vec::new(), 0);
    while flags != BOTH {
        let (header, data) = guest.receive();
        got.extend(data);
        match header.op {
            Op::Data => {}
            Op::Shutdown => flags = header.flags,
            Op::CreditRequest => guest.send(KEY, Op::CreditUpdate, 0, got.len() as u32, &[]),
            other => panic!("{other:?}"),
        }
    }
    assert!(got == data);
    // What the guest sends now goes nowhere, and costs it no credit.
    guest.send(KEY, Op::Data, 0, got.len() as u32, &[1; 1000]);
    guest.send(KEY, Op::CreditRequest, 0, got.len() as u32, &[]);
    assert_eq!(guest.expect(KEY, Op::CreditUpdate).fwd_cnt, 1000);
}

#[test]
fn what_the_guest_sent_before_it_closed_reaches_a_host_that_reads_late() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    for last in [Op::Shutdown, Op::Reset] {
        let mut socket = guest.connect(&listener, KEY);
        let data = pattern(3, 300 << 10);
        let (mut sent, mut acknowledged) = (0, 0);
        while sent < data.len() && sent - acknowledged < HOST_BUFFER as usize {
            let count = (32 << 10).min(data.len() - sent);
            guest.send(KEY, Op::Data, 0, 0, &data[sent..sent + count]);
            sent += count;
            guest.driver.pump();
            guest.collect();
            for (header, _) in std::mem::take(&mut guest.received) {
                acknowledged = header.fwd_cnt as usize;
            }
        }
        guest.send(KEY, Op::Shutdown, WILL_NOT_SEND, 0, &[]);
        guest.send(KEY, last, BOTH, 0, &[]);
        if last == Op::Shutdown {
            guest.expect(KEY, Op::Reset);
        }
        // The ports can be used again while the rest is delivered.
        let other = guest.connect(&listener, KEY);
        let reading = thread::spawn(move || drain(&mut socket));
        guest.driver.until("the rest", |_| reading.is_finished());
        assert!(reading.join().unwrap() == data[..sent]);
        drop(other);
        assert_eq!(guest.expect(KEY, Op::Shutdown).flags, BOTH);
        guest.send(KEY, Op::Reset, 0, 0, &[]);
    }
}

#[test]
fn a_reset_closes_everything_and_the_device_starts_again() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    guest.buffers.clear();
    guest.driver.restart(0);
    assert_eq!(drain(&mut socket), b"");
    for _ in 0..8 {
        let place = guest.driver.allocate(HEADER + BUFFER as usize);
        guest.give(place);
    }
    guest.driver.kick(RX);
    let _socket = guest.connect(&listener, KEY);
    guest.accept(99);
}

#[test]
fn the_sockets_file_comes_and_goes_with_the_device() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("vsock");
    let bind = |cid, path: PathBuf| Vsock::bind(&api::Vsock { cid, path });
    let device = bind(3, path.clone()).unwrap();
    assert!(path.exists());
    assert!(matches!(bind(3, path.clone()), Err(VsockError::Bind { .. })));
    assert!(path.exists());
    drop(device);
    assert!(!path.exists());
    for cid in [0, 1, 2, u32::MAX] {
        assert!(matches!(bind(cid, path.clone()), Err(VsockError::Cid { .. })));
    }
    let long = directory.path().join("x".repeat(MAX_NAME + 1));
    assert!(matches!(bind(3, long), Err(VsockError::Name { .. })));
    let deep = directory.path().join("d".repeat(200));
    std::fs::create_dir(&deep).unwrap();
    bind(3, deep.join("x".repeat(MAX_NAME))).unwrap();
    let missing = directory.path().join("missing/vsock");
    let error = bind(3, missing.clone()).unwrap_err();
    assert!(error.to_string().contains(missing.to_str().unwrap()));
}
