//! Guests that break the rules, and what is answered.

use super::*;

#[test]
fn packets_that_belong_to_no_connection_are_reset_but_resets_are_not() {
    let mut guest = Guest::new();
    for op in
        [Op::Response, Op::Shutdown, Op::Data, Op::CreditUpdate, Op::CreditRequest, Op::Unknown(99)]
    {
        guest.send(KEY, op, 0, 0, &[]);
        guest.expect(KEY, Op::Reset);
    }
    assert_eq!(guest.counts.errors.get(), 6);
    guest.send(KEY, Op::Reset, 0, 0, &[]);
    guest.expect_silence();
}

#[test]
fn packets_that_are_not_for_the_host_or_from_the_guest_are_dropped() {
    let mut guest = Guest::new();
    let good = header(KEY, Op::Request, 0, 0, 0);
    for bad in [
        Header { src_cid: 6, ..good },
        Header { dst_cid: 3, ..good },
        Header { dst_cid: 1, ..good },
    ] {
        guest.send_raw(&bad, &[]);
    }
    guest.expect_silence();
    assert_eq!(guest.counts.errors.get(), 3);
    guest.send_raw(&Header { kind: 2, ..good }, &[]);
    guest.expect(KEY, Op::Reset);
}

#[test]
fn a_stream_that_breaks_the_rules_is_reset() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let bad: [(&str, Header); 5] = [
        ("a second request", header(KEY, Op::Request, 0, 0, 0)),
        ("a response to nothing", header(KEY, Op::Response, 0, 0, 0)),
        ("no such operation", header(KEY, Op::Unknown(0), 0, 0, 0)),
        ("more than there is", header(KEY, Op::Data, 0, 0, 10)),
        ("data where none belong", header(KEY, Op::CreditUpdate, 0, 0, 1)),
    ];
    for (what, header) in bad {
        let mut socket = guest.connect(&listener, KEY);
        guest.send_raw(&header, b"x");
        let (reset, _) = guest.receive();
        assert_eq!(reset.op, Op::Reset, "{what}");
        assert_eq!(drain(&mut socket), b"", "{what}");
    }
    let mut socket = guest.connect(&listener, KEY);
    guest.send(KEY, Op::Shutdown, WILL_NOT_SEND, 0, &[]);
    guest.send(KEY, Op::Data, 0, 0, b"after the end");
    guest.expect(KEY, Op::Reset);
    assert_eq!(drain(&mut socket), b"");
}

#[test]
fn malformed_chains_are_dropped_and_counted() {
    let mut guest = Guest::new();
    let scratch = guest.scratch;
    for chain in
        [(scratch, 43, false), (scratch, 44, true), (u64::MAX - 4, 44, false), (scratch, 0, false)]
    {
        guest.driver.add(TX, &[chain]);
        guest.driver.kick(TX);
        assert_eq!(guest.driver.wait_used(TX, 1)[0].1, 0);
    }
    assert_eq!(guest.counts.errors.get(), 4);
    guest.expect_silence();
}

#[test]
fn receive_buffers_that_are_none_are_given_back() {
    let mut guest = Guest::without(0, 0);
    let scratch = guest.scratch;
    for chain in [(scratch, 44, true), (scratch, 100, false), (u64::MAX - 4, 100, true)] {
        guest.driver.add(RX, &[chain]);
    }
    let place = guest.driver.allocate(HEADER + BUFFER as usize);
    guest.give(place);
    guest.driver.kick(RX);
    guest.send(KEY, Op::Request, 0, 0, &[]);
    let used = guest.driver.wait_used(RX, 4);
    assert_eq!(used.iter().map(|used| used.1).collect::<Vec<_>>(), [0, 0, 0, 44]);
    assert_eq!(guest.counts.errors.get(), 3);
}

#[test]
fn resets_do_not_pile_up_when_the_guest_gives_no_buffers() {
    for without in [0, feature::EVENT_IDX] {
        let mut guest = Guest::without(without, 0);
        let scratch = guest.scratch;
        guest.driver.poke(scratch, &header(KEY, Op::Data, 0, 0, 0).encode());
        let mut taken = 0;
        for _ in 0..20 {
            for _ in 0..32 {
                guest.driver.add(TX, &[(scratch, HEADER as u32, false)]);
            }
            guest.driver.kick(TX);
            guest.driver.pump();
            let used = guest.driver.used(TX).len();
            taken += used;
            if used < 32 {
                break;
            }
        }
        assert_eq!(taken, MAX_RESETS);
        for _ in 0..32 {
            let place = guest.driver.allocate(HEADER + BUFFER as usize);
            guest.give(place);
        }
        guest.driver.kick(RX);
        let mut resets = 0;
        while resets < taken + 32 {
            let (reset, _) = guest.receive();
            assert_eq!(reset.op, Op::Reset);
            resets += 1;
        }
        guest.expect_silence();
    }
}

#[test]
fn a_guest_that_sends_more_than_its_credit_is_reset() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    // The socket takes some, the device holds its buffer full, and then it is too much.
    let mut sent = 0;
    while guest.received.is_empty() {
        assert!(sent < 16 << 20, "the device holds more than it may");
        guest.send(KEY, Op::Data, 0, 0, &[7; 32 << 10]);
        sent += 32 << 10;
        guest.driver.pump();
        guest.collect();
        guest.received.retain(|(header, _)| header.op != Op::CreditUpdate);
    }
    guest.expect(KEY, Op::Reset);
    assert!(sent > HOST_BUFFER as usize);
    assert!(drain(&mut socket).len() < sent);
}
