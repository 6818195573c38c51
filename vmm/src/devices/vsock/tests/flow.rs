//! Credit, back-pressure, much data and many streams.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

#[test]
fn a_guest_that_cannot_hold_more_gets_no_more_until_it_says_so() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    let data = pattern(4, 3 * GUEST_BUFFER as usize);
    socket.write_all(&data).unwrap();
    let mut got = Vec::new();
    for round in 1..=3 {
        let end = (round * GUEST_BUFFER) as usize;
        while got.len() < end {
            let (header, data) = guest.receive();
            assert_eq!(header.op, Op::Data);
            got.extend(data);
        }
        assert_eq!(got.len(), end);
        if round < 3 {
            guest.expect(KEY, Op::CreditRequest);
            guest.expect_silence();
            // It answers that there is no room, and is not asked again.
            guest.send(KEY, Op::CreditUpdate, 0, got.len() as u32 - GUEST_BUFFER, &[]);
            guest.expect_silence();
        }
        guest.send(KEY, Op::CreditUpdate, 0, got.len() as u32, &[]);
    }
    assert!(got == data);
}

#[test]
fn ten_mebibytes_pass_both_ways_through_a_slow_host_and_a_slow_guest() {
    const TOTAL: usize = 10 << 20;
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let socket = guest.connect(&listener, KEY);
    let (to_host, to_guest) = (pattern(1, TOTAL), pattern(2, TOTAL));
    let mut writer = socket.try_clone().unwrap();
    let writing = {
        let to_guest = to_guest.clone();
        thread::spawn(move || {
            writer.write_all(&to_guest).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        })
    };
    let reading = thread::spawn(move || {
        let mut socket = socket;
        let (mut bytes, mut piece) = (Vec::<u8>::new(), [0; 1499]);
        loop {
            let count = socket.read(&mut piece).unwrap();
            if count == 0 {
                return bytes;
            }
            bytes.extend(&piece[..count]);
        }
    });
    let (mut sent, mut acknowledged, mut got, mut ended) = (0, 0, Vec::new(), false);
    let mut told = 0;
    while sent < TOTAL || !ended {
        let room = HOST_BUFFER as usize - (sent - acknowledged);
        let count = room.min(64 << 10).min(TOTAL - sent);
        if count > 0 {
            guest.send(KEY, Op::Data, 0, told, &to_host[sent..sent + count]);
            sent += count;
        } else {
            guest.driver.pump_once();
        }
        guest.collect();
        for (header, data) in std::mem::take(&mut guest.received) {
            acknowledged = header.fwd_cnt as usize;
            assert!(acknowledged <= sent);
            got.extend(data);
            match header.op {
                Op::Data | Op::CreditUpdate => {}
                // It forwards what it got only when it is asked: a slow reader.
                Op::CreditRequest => {
                    told = got.len() as u32;
                    guest.send(KEY, Op::CreditUpdate, 0, told, &[]);
                }
                Op::Shutdown => ended = true,
                other => panic!("{other:?}"),
            }
            assert!(got.len() as u32 - told <= GUEST_BUFFER, "more than the guest can hold");
        }
    }
    guest.send(KEY, Op::Shutdown, BOTH, told, &[]);
    guest.driver.until("the host to read everything", |_| reading.is_finished());
    writing.join().unwrap();
    assert!(reading.join().unwrap() == to_host);
    assert!(got == to_guest);
    assert_eq!(guest.counts.errors.get(), 0);
}

#[test]
fn many_streams_share_and_the_table_has_an_end() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut sockets = Vec::new();
    for port in 0..300 {
        let key = Key { host: 7, guest: port };
        sockets.push((key, guest.connect(&listener, key)));
    }
    for (key, socket) in &mut sockets {
        socket.write_all(&key.guest.to_le_bytes().repeat(1000)).unwrap();
    }
    let mut got = vec![Vec::new(); sockets.len()];
    while got.iter().any(|bytes| bytes.len() < 4000) {
        let (header, data) = guest.receive();
        got[header.dst_port as usize].extend(data);
    }
    for (key, socket) in &mut sockets {
        assert!(got[key.guest as usize] == key.guest.to_le_bytes().repeat(1000));
        guest.send(*key, Op::Data, 0, 4000, &key.guest.to_le_bytes());
        let mut echo = [0; 4];
        socket.read_exact(&mut echo).unwrap();
        assert_eq!(echo, key.guest.to_le_bytes());
        guest.send(*key, Op::Shutdown, BOTH, 4000, &[]);
        guest.expect(*key, Op::Reset);
    }
    drop(sockets);
    guest.expect_silence();
}

#[test]
fn a_busy_stream_does_not_starve_another() {
    let mut guest = Guest::without(0, 4);
    let listener = guest.listen(7);
    let other = Key { host: 7, guest: 2000 };
    let mut busy = guest.connect(&listener, KEY);
    let mut quiet = guest.connect(&listener, other);
    busy.write_all(&[1; 64 << 10]).unwrap();
    quiet.write_all(b"me too").unwrap();
    let mut before = 0;
    loop {
        let (header, data) = guest.receive();
        if header.dst_port == other.guest {
            assert_eq!(data, b"me too");
            break;
        }
        before += data.len();
    }
    assert!(before <= 8 * BUFFER as usize, "{before} bytes of the busy stream came first");
}

#[test]
fn the_table_is_full_at_its_limit_and_not_for_ever() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    // Both ends of each connection are this process's.
    let limit = getrlimit(Resource::Nofile);
    let enough = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, enough).unwrap();
    let needed = 2 * MAX_CONNECTIONS as u64 + 100;
    assert!(
        limit.maximum.is_none_or(|limit| limit > needed),
        "the test needs {needed} descriptors"
    );
    let mut sockets = Vec::new();
    for port in 0..MAX_CONNECTIONS as u32 {
        sockets.push(guest.connect(&listener, Key { host: 7, guest: port }));
    }
    let one_more = Key { host: 7, guest: 5000 };
    guest.send(one_more, Op::Request, 0, 0, &[]);
    guest.expect(one_more, Op::Reset);
    // The host's connection waits on the listening socket until there is room.
    let mut waiting = UnixStream::connect(&guest.path).unwrap();
    waiting.write_all(b"CONNECT 80\n").unwrap();
    guest.expect_silence();
    let key = Key { host: 7, guest: 3 };
    guest.send(key, Op::Shutdown, BOTH, 0, &[]);
    guest.expect(key, Op::Reset);
    let (request, _) = guest.receive();
    assert_eq!((request.op, request.dst_port), (Op::Request, 80));
}
