//! More files than descriptors.

use std::os::unix::fs::MetadataExt;

use super::*;

/// Descriptors: a quarter for known files, half for open ones.
const FEW: usize = 64;

#[test]
fn more_files_are_known_than_descriptors_are_open() {
    let mut guest = Guest::with(FEW, Cache::Auto);
    fs::create_dir(guest.host("rw/a")).unwrap();
    fs::create_dir(guest.host("rw/a/b")).unwrap();
    for number in 0..500 {
        fs::write(guest.host("rw/a/b").join(number.to_string()), number.to_string()).unwrap();
    }
    let b = guest.walk("rw/a/b").unwrap().node;
    let known: Vec<_> =
        (0..500).map(|number| guest.lookup(b, &number.to_string()).unwrap()).collect();
    let open = fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 400, "{open} descriptors");
    for (number, file) in known.iter().enumerate() {
        let path = guest.host("rw/a/b").join(number.to_string());
        assert_eq!(guest.stat(file.node).unwrap().number, fs::metadata(path).unwrap().ino());
    }
    // Moved by the guest, it is found under its new name; replaced on the host, it is not taken for the other one.
    let rw = guest.walk("rw").unwrap().node;
    let rename = [quads(&[rw]), words(&[0, 0]), string("7"), string("seven")].concat();
    guest.ask(RENAME2, b, &rename).unwrap();
    let path = guest.host("rw/a/b/8");
    fs::rename(guest.host("rw/a/b/9"), &path).unwrap();
    let rename = [quads(&[ROOT]), words(&[0, 0]), string("a"), string("z")].concat();
    assert_eq!(guest.ask(RENAME2, rw, &rename), Err(libc::EROFS));
    let rename = [quads(&[rw]), words(&[0, 0]), string("a"), string("z")].concat();
    guest.ask(RENAME2, rw, &rename).unwrap();
    for file in &known[100..300] {
        guest.stat(file.node).unwrap();
    }
    let handle = guest.open(known[7].node, libc::O_RDONLY).unwrap();
    assert_eq!(guest.read(known[7].node, handle, 0, 10).unwrap(), b"7");
    assert_eq!(guest.stat(known[8].node).unwrap_err(), libc::ESTALE);
    // Removed by the guest, it stays for who has it open.
    guest.ask(UNLINK, b, &string("10")).unwrap();
    for file in &known[100..300] {
        guest.stat(file.node).unwrap();
    }
    assert_eq!(guest.stat(known[10].node).unwrap().links, 0);
}

#[test]
fn too_many_open_files_are_refused_and_the_others_go_on() {
    let mut guest = Guest::with(FEW, Cache::Auto);
    fs::write(guest.host("rw/file"), "still there").unwrap();
    let file = guest.walk("rw/file").unwrap().node;
    let handles: Vec<_> = (0..FEW / 2).map(|_| guest.open(file, libc::O_RDONLY).unwrap()).collect();
    assert_eq!(guest.open(file, libc::O_RDONLY).unwrap_err(), libc::ENFILE);
    let rw = guest.walk("rw").unwrap().node;
    assert_eq!(guest.create(rw, "new", 0o644, 0).unwrap_err(), libc::ENFILE);
    assert_eq!(guest.read(file, handles[3], 0, 100).unwrap(), b"still there");
    guest.ask(RELEASE, file, &[quads(&[handles[0]]), vec![0; 16]].concat()).unwrap();
    guest.open(file, libc::O_RDONLY).unwrap();
}

#[test]
fn a_directory_deeper_than_any_path_is_found_again() {
    let mut guest = Guest::with(FEW, Cache::None);
    let mut node = guest.walk("rw").unwrap().node;
    let mut nodes = Vec::new();
    for _ in 0..300 {
        let body = [words(&[0o755, 0]), string(&"d".repeat(200))].concat();
        node = found(&guest.ask(MKDIR, node, &body).unwrap()).node;
        nodes.push(node);
    }
    for node in nodes.iter().rev().chain(&nodes) {
        guest.stat(*node).unwrap();
    }
}
