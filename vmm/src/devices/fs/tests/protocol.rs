//! Requests that make no sense, and the frame of the others.

use super::*;
use crate::devices::virtio::VirtioDevice;

#[test]
fn the_configuration_space_has_the_tag_and_one_queue() {
    let directory = tempfile::tempdir().unwrap();
    let device = device(directory.path(), FILES, Cache::Auto);
    let mut config = [0xff; 48];
    device.read_config(0, &mut config);
    assert_eq!(&config[..10], b"the share\0");
    assert_eq!(&config[36..40], &[1, 0, 0, 0]);
    let mut byte = [0];
    device.read_config(4, &mut byte);
    assert_eq!(&byte, b"s");
    assert_eq!(device.queue_sizes().len(), 2);
}

#[test]
fn a_driver_is_told_what_is_served_and_an_old_one_is_refused() {
    let mut guest = Guest::new();
    let answer = guest.ask(INIT, 0, &words(&[7, 40, 1 << 17, u32::MAX])).unwrap();
    assert_eq!(answer.len(), 64);
    assert_eq!(&answer[..8], &words(&[7, 37])[..]);
    let flags = u32::from_le_bytes(answer[12..16].try_into().unwrap());
    // Locks and a cache of writes would say of the host's files what nobody keeps true.
    assert_eq!(flags & (1 << 1 | 1 << 10 | 1 << 16), 0);
    assert_eq!(guest.ask(INIT, 0, &words(&[8, 0, 0, 0])).unwrap()[..8], words(&[7, 37])[..]);
    assert_eq!(guest.ask(INIT, 0, &words(&[7, 8, 0, 0])), Err(libc::EPROTO));
}

#[test]
fn a_new_session_knows_nothing_of_the_one_before() {
    let mut guest = Guest::new();
    let node = guest.walk("rw").unwrap().node;
    guest.stat(node).unwrap();
    guest.ask(INIT, 0, &words(&[7, 37, 0, 0])).unwrap();
    assert_eq!(guest.stat(node).unwrap_err(), libc::EBADF);
    guest.walk("rw").unwrap();
    guest.driver.restart(0);
    guest.walk("rw").unwrap();
}

#[test]
fn malformed_requests_are_counted_and_answered() {
    let mut guest = Guest::new();
    let cases: [(u32, u64, Vec<u8>, i32); 14] = [
        (99, ROOT, Vec::new(), libc::ENOSYS),
        (LOOKUP, ROOT, Vec::new(), libc::EINVAL),
        (LOOKUP, ROOT, b"without end".to_vec(), libc::EINVAL),
        (LOOKUP, 77, string("rw"), libc::EBADF),
        (GETATTR, ROOT, vec![0; 15], libc::EINVAL),
        (GETATTR, ROOT, [words(&[1, 0]), quads(&[5])].concat(), libc::EBADF),
        (READ, ROOT, vec![0; 24], libc::EBADF),
        (WRITE, ROOT, vec![0; 30], libc::EINVAL),
        (SETATTR, ROOT, vec![0; 80], libc::EINVAL),
        (SETXATTR, ROOT, [words(&[9999, 0, 0, 0]), string("user.a")].concat(), libc::EINVAL),
        (READDIR, ROOT, [quads(&[9, 0]), words(&[4096])].concat(), libc::EBADF),
        (MKNOD, ROOT, [words(&[0, 0, 0, 0]), string("")].concat(), libc::EINVAL),
        (RENAME2, ROOT, [quads(&[1]), words(&[0, 0]), string("a")].concat(), libc::EINVAL),
        (LSEEK, ROOT, [quads(&[1, 0]), words(&[0, 0])].concat(), libc::EINVAL),
    ];
    for (opcode, node, body, error) in cases {
        assert_eq!(guest.ask(opcode, node, &body), Err(error), "{opcode} {body:?}");
    }
    let counted = guest.counts.errors.get();
    assert!(counted >= 13, "{counted}");
    // Lengths that do not fit the chain.
    for length in [0, 39, 41, u32::MAX as usize] {
        let header = guest.header(GETATTR, ROOT, length);
        assert_eq!(guest.send(&header, 200), Err(libc::EINVAL), "{length}");
    }
    // Too long to be any request, and too short to be one at all: the second is given back without an answer.
    let long = [guest.header(LOOKUP, ROOT, 40 + 80_000), vec![b'x'; 80_000]].concat();
    assert_eq!(guest.send(&long, 200), Err(libc::E2BIG));
    assert_eq!(guest.send(&[0; 39], 200), Ok(Vec::new()));
    guest.walk("rw").unwrap();
}

#[test]
fn an_answer_for_which_there_is_no_room_is_an_error() {
    let mut guest = Guest::new();
    let errors = guest.counts.errors.get();
    let request = [guest.header(LOOKUP, ROOT, 43), string("rw")].concat();
    let from = guest.driver.put(&request);
    let to = guest.driver.allocate(200);
    for (room, written) in [(20, 16), (15, 0)] {
        guest.driver.add(QUEUE, &[(from, 43, false), (to, room, true)]);
        guest.driver.kick(QUEUE);
        assert_eq!(guest.driver.wait_used(QUEUE, 1)[0].1, written);
    }
    assert_eq!(guest.driver.bytes(to + 4, 4), (-libc::EIO).to_le_bytes());
    assert_eq!(guest.counts.errors.get(), errors + 2);
}

#[test]
fn forgetting_is_not_answered_and_forgets() {
    let mut guest = Guest::new();
    let node = guest.walk("rw").unwrap().node;
    assert_eq!(guest.walk("rw").unwrap().node, node);
    guest.ask(FORGET, node, &quads(&[1])).unwrap();
    guest.stat(node).unwrap();
    guest.ask(FORGET, node, &quads(&[7])).unwrap();
    assert_eq!(guest.stat(node).unwrap_err(), libc::EBADF);
    guest.ask(FORGET, ROOT, &quads(&[u64::MAX])).unwrap();
    guest.walk("rw").unwrap();
}
