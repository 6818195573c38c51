//! The same agent as the first process of a guest.

use std::{env, fs, path::Path, process::Stdio};

use bulkhead_vmm::api::{
    Backend, Disk, End, FromVmm, Mark, Messages, RequestKind, Response, SerialOutput, VmConfig,
    Vmm, Vsock,
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

impl Guest {
    pub fn boot([vmm, kernel, initrd]: [String; 3], vsock: &Path, disks: &[&Path]) -> Self {
        let serial = env::var("BULKHEAD_SERIAL").ok();
        let config = VmConfig {
            kernel: kernel.into(),
            initrd: Some(initrd.into()),
            cmdline: serial.as_ref().map_or(String::new(), |_| "console=ttyS0 loglevel=7".into()),
            vcpus: 1,
            memory_mib: 256,
            disks: disks
                .iter()
                .enumerate()
                .map(|(number, file)| Disk {
                    id: format!("disk{number}"),
                    files: vec![file.to_path_buf()],
                    read_only: number == 0,
                })
                .collect(),
            vsock: Some(Vsock { cid: 3, path: vsock.to_owned() }),
            shares: Vec::new(),
            serial: serial.map(|file| SerialOutput::File(file.into())),
            backend: Backend::Auto,
            balloon: false,
            snapshot: None,
            restore: None,
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
        let asked = self.vmm.request(RequestKind::Counters).unwrap();
        loop {
            match self.messages.next_message().unwrap() {
                FromVmm::Mark { mark, instructions, .. } => self.marks.push((mark, instructions)),
                FromVmm::Response { id, result } if id == asked => match result.unwrap() {
                    Response::Counters(counters) => return counters.instructions,
                    Response::Done => panic!("these are no counters"),
                },
                other => panic!("{other:?} is no counters"),
            }
        }
    }

    /// Interpreted guest-kernel instructions between two marks.
    pub fn instructions(&self, from: Mark, to: Mark) -> u64 {
        let at = |wanted| self.marks.iter().find(|(mark, _)| *mark == wanted).unwrap().1;
        at(to) - at(from)
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
        .args(["-q", "-F", "-E", "lazy_itable_init=1", "-d"])
        .args([content, image])
        .status()
        .unwrap();
    assert!(status.success());
}
