//! The same agent as the first process of a guest.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bulkhead_vmm::api::{
    Backend, Cache, Disk, End, FromVmm, Mark, Messages, RequestKind, Response, SerialOutput, Share,
    ShareEntry, SnapshotFiles, VmConfig, Vmm, Vsock,
};

/// A machine, and what its VMM has told of it.
pub struct Guest {
    vmm: Vmm,
    messages: Messages,
    pub marks: Vec<(Mark, u64)>,
}

/// The programs and files that a guest is made of, from the environment; `None`, and a line that says so, without them.
pub fn parts() -> Option<[String; 3]> {
    let names = ["BULKHEAD_VMM", "BULKHEAD_KERNEL", "BULKHEAD_INITRD"];
    let parts = names.map(env::var);
    if parts.iter().any(Result::is_err) {
        eprintln!("skipped: {names:?} name no VMM, kernel and initial RAM disk");
        return None;
    }
    Some(parts.map(Result::unwrap))
}

/// What a machine has to do with others of its kind.
pub enum Origin {
    /// It boots.
    Boot,
    /// It boots, and is to be saved into these files.
    Template(SnapshotFiles),
    /// It goes on from these files.
    Clone(SnapshotFiles),
}

impl Guest {
    /// `disks`: the files of each; the first is read-only. `shared`: a directory of the host, as `root` in the share of
    /// the same name.
    pub fn start(
        [vmm, kernel, initrd]: [String; 3],
        vsock: &Path,
        disks: &[Vec<PathBuf>],
        shared: Option<&Path>,
        origin: Origin,
    ) -> Self {
        let serial = env::var("BULKHEAD_SERIAL").ok();
        let entry = |path: &Path| ShareEntry {
            name: "root".to_owned(),
            path: path.to_owned(),
            read_only: false,
            sealed: false,
        };
        let root = Share {
            tag: "root".to_owned(),
            cache: Cache::Auto,
            entries: shared.into_iter().map(entry).collect(),
        };
        let boots = matches!(origin, Origin::Boot);
        let (snapshot, restore) = match origin {
            Origin::Boot => (None, None),
            Origin::Template(files) => (Some(files), None),
            Origin::Clone(files) => (None, Some(files)),
        };
        let config = VmConfig {
            kernel: kernel.into(),
            initrd: Some(initrd.into()),
            cmdline: serial.as_ref().map_or(String::new(), |_| "console=ttyS0 loglevel=7".into()),
            vcpus: 1,
            memory_mib: 256,
            disks: disks
                .iter()
                .enumerate()
                .map(|(number, files)| Disk {
                    id: format!("disk{number}"),
                    files: files.clone(),
                    read_only: number == 0,
                })
                .collect(),
            vsock: Some(Vsock { cid: 3, path: vsock.to_owned() }),
            shares: if boots && shared.is_none() { Vec::new() } else { vec![root] },
            nics: Vec::new(),
            serial: serial.map(|file| SerialOutput::File(file.into())),
            backend: Backend::Auto,
            balloon: !boots,
            exchange: false,
            snapshot,
            restore,
        };
        let (vmm, messages) =
            Vmm::spawn(Path::new(&vmm), &config, Stdio::inherit(), Stdio::inherit()).unwrap();
        Self { vmm, messages, marks: Vec::new() }
    }

    /// Hears the VMM out.
    pub fn end(&mut self) -> End {
        loop {
            match self.messages.next_message().unwrap() {
                FromVmm::Mark { mark, instructions, .. } => self.marks.push((mark, instructions)),
                FromVmm::Ended(end) => return end,
                FromVmm::Response { .. } => {}
            }
        }
    }

    /// Guest-kernel instructions that have been interpreted so far.
    pub fn count(&mut self) -> u64 {
        match self.ask(RequestKind::Counters) {
            Response::Counters(counters) => counters.instructions,
            Response::Done => panic!("these are no counters"),
        }
    }

    /// The same, once nothing more is done for the moment.
    pub fn settle(&mut self) -> u64 {
        let mut before = self.count();
        loop {
            std::thread::sleep(Duration::from_millis(100));
            let now = self.count();
            // A tick costs a few thousand.
            if now - before < 10_000 {
                return now;
            }
            before = now;
        }
    }

    /// Saves the machine and ends it.
    pub fn save(&mut self) {
        self.settle();
        self.ask(RequestKind::Snapshot);
        self.ask(RequestKind::Stop);
    }

    fn ask(&mut self, what: RequestKind) -> Response {
        let asked = self.vmm.request(what).unwrap();
        loop {
            match self.messages.next_message().unwrap() {
                FromVmm::Mark { mark, instructions, .. } => self.marks.push((mark, instructions)),
                FromVmm::Response { id, result } if id == asked => return result.unwrap(),
                other => panic!("{other:?} is no answer"),
            }
        }
    }

    /// Interpreted guest-kernel instructions between two marks.
    pub fn instructions(&self, from: Mark, to: Mark) -> u64 {
        self.at(to) - self.at(from)
    }

    /// How many there were at a mark.
    pub fn at(&self, wanted: Mark) -> u64 {
        self.marks.iter().find(|(mark, _)| *mark == wanted).unwrap().1
    }
}

/// An EROFS image of a directory.
pub fn erofs(directory: &Path, image: &Path) {
    let status = std::process::Command::new("mkfs.erofs")
        .arg("--quiet")
        .args([image, directory])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

/// An empty ext4 image with the directories that an overlay wants.
pub fn ext4(image: &Path, content: &Path) {
    fs::create_dir_all(content.join("upper")).unwrap();
    fs::create_dir_all(content.join("work")).unwrap();
    fs::File::create(image).unwrap().set_len(64 << 20).unwrap();
    let status = std::process::Command::new("mkfs.ext4")
        // As the store makes them.
        .args([
            "-q",
            "-F",
            "-O",
            "^metadata_csum,^64bit,^resize_inode",
            "-E",
            "lazy_itable_init=1",
            "-d",
        ])
        .args([content, image])
        .status()
        .unwrap();
    assert!(status.success());
}
