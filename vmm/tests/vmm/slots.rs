//! The real guest kernel is saved with empty slots and an open connection, and several machines go on from it with media of their own.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    time::Instant,
};

use bulkhead_vmm::api::{
    Cache, Disk, End, Messages, RequestKind, SerialOutput, Share, ShareEntry, SnapshotFiles,
    VmConfig, Vmm, Vsock,
};

use crate::{
    guest::{Guest, PATIENCE, connection, idle, until_end},
    kernel::{compile, initrd},
    shares::ready,
    snapshot::ask,
};

/// What a guest finds in empty slots.
const EMPTY: &str = r#"disks: 0 0 word: "" share: [] "NotFound""#;

/// One of the machines: its directory, with the sockets that it connects to.
struct Place {
    directory: tempfile::TempDir,
    listener: UnixListener,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("vsock_7")).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { directory, listener }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The machine with empty slots.
    fn config(&self, guest: &Guest, kernel: PathBuf) -> VmConfig {
        let disk = |id: &str, read_only| Disk { id: id.into(), files: Vec::new(), read_only };
        VmConfig {
            kernel,
            initrd: Some(guest.path("initrd")),
            memory_mib: 96,
            cmdline: "quiet".to_owned(),
            serial: Some(SerialOutput::File(self.path("console"))),
            disks: vec![disk("image", true), disk("writable", false)],
            shares: vec![Share { tag: "root".into(), cache: Cache::Auto, entries: Vec::new() }],
            vsock: Some(Vsock { cid: 3, path: self.path("vsock") }),
            balloon: true,
            ..guest.config()
        }
    }

    /// Puts something into the slots.
    fn fill(&self, config: &mut VmConfig, word: &str, mib: u64) {
        for (disk, size) in config.disks.iter_mut().zip([mib << 20, 1 << 20]) {
            disk.files = vec![self.path(&disk.id)];
            fs::write(self.path(&disk.id), word).unwrap();
            fs::File::options()
                .write(true)
                .open(self.path(&disk.id))
                .unwrap()
                .set_len(size)
                .unwrap();
        }
        fs::create_dir(self.path("rw")).unwrap();
        fs::write(self.path("rw/hello"), word).unwrap();
        let entry = ShareEntry {
            name: "rw".into(),
            path: self.path("rw"),
            read_only: false,
            sealed: false,
        };
        config.shares[0].entries = vec![entry];
    }

    /// The guest's connection, once there is one.
    fn accept(&self) -> BufReader<UnixStream> {
        connection(&self.listener, &self.path("console"))
    }
}

fn line(socket: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    socket.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Saves a machine whose guest waits; returns what is needed to let it go on.
fn save(place: &Place, config: &VmConfig, guest: &Guest) -> (Vmm, Messages, BufReader<UnixStream>) {
    let other = UnixListener::bind(place.path("vsock_8")).unwrap();
    let (mut vmm, mut messages) = guest.start(config);
    let mut socket = place.accept();
    let (other, _) = other.accept().unwrap();
    assert_eq!(line(&mut socket), EMPTY);
    // It is saved only once the guest has nothing to send any more.
    let begin = Instant::now();
    while let Err(why) = ask(&mut vmm, &mut messages, RequestKind::Snapshot) {
        assert!(why.contains("busy") && begin.elapsed() < PATIENCE, "{why}");
        ask(&mut vmm, &mut messages, RequestKind::Resume).unwrap();
    }
    drop(other);
    (vmm, messages, socket)
}

#[test]
fn machines_go_on_with_media_of_their_own() {
    let Some(kernel) = ready() else { return };
    let guest = Guest::new(idle());
    fs::write(guest.path("initrd"), initrd(&compile(&guest, "slots"))).unwrap();
    let place = Place::new();
    let files = SnapshotFiles { state: guest.path("state"), memory: guest.path("memory") };
    let mut config = place.config(&guest, kernel.clone());
    config.snapshot = Some(files.clone());
    let (mut vmm, mut messages, mut socket) = save(&place, &config, &guest);

    let mut clones: Vec<_> = [("alpha", 1), ("beta", 3), ("", 0)]
        .into_iter()
        .map(|(word, mib)| {
            let place = Place::new();
            let mut config = place.config(&guest, kernel.clone());
            config.restore = Some(files.clone());
            if mib > 0 {
                place.fill(&mut config, word, mib);
            }
            let begin = Instant::now();
            let (vmm, messages) = guest.start(&config);
            (place, vmm, messages, begin, word, mib)
        })
        .collect();
    for (place, _vmm, messages, begin, word, mib) in &mut clones {
        let mut socket = place.accept();
        let order = if *mib > 0 { format!("filled {word}\n") } else { "empty\n".to_owned() };
        socket.get_mut().write_all(order.as_bytes()).unwrap();
        let report = line(&mut socket);
        println!("{word:?} reported after {:?}: {report}", begin.elapsed());
        let found = match *mib {
            0 => EMPTY.to_owned(),
            mib => {
                let word = format!("{word:\0<8}");
                let length = mib << 20;
                let hello = word.trim_end_matches('\0');
                format!("disks: {length} 1048576 word: {word:?} share: [\"rw\"] {hello:?}")
            }
        };
        // Nobody listens at port 8 of a clone: Linux takes the reset for the end.
        assert_eq!(report, format!("{found} other: Ok(0)"));
        if *mib > 0 {
            let written = fs::read(place.path("writable")).unwrap();
            assert_eq!(&written[512..512 + word.len()], word.as_bytes());
            assert_eq!(fs::read_to_string(place.path("rw/made")).unwrap(), *word);
        }
        drop(socket);
        assert_eq!(until_end(messages).end, End::PowerOff);
    }

    // The machine that was saved goes on too, with its own connections.
    ask(&mut vmm, &mut messages, RequestKind::Resume).unwrap();
    socket.get_mut().write_all(b"empty\n").unwrap();
    assert_eq!(line(&mut socket), format!("{EMPTY} other: Ok(0)"));
    drop(socket);
    assert_eq!(until_end(&mut messages).end, End::PowerOff);
}
