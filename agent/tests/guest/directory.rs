//! A root whose writes go into a directory of the host.

use std::{fs, io::Read, path::PathBuf};

use bulkhead_protocol::{ExitStatus, Upper};
use bulkhead_vmm::api::End;

use crate::{
    create, layers,
    support::{Agent, erofs, make_root, parts},
};

/// What is written goes into a directory of the host, in overlayfs's own form.
#[test]
fn a_root_over_a_directory_of_the_host() {
    let Some(parts) = parts() else { return };
    let script = "set -e; cd /work; echo new > new; echo more >> changed; rm gone; rm -r closed; mkdir closed; echo x > closed/x; \
        mv moved elsewhere; ln changed again; ln -s changed link; chmod 700 mode; mkdir -p deep/er; mv deep far; \
        mkfifo pipe; dd if=/dev/zero of=big bs=64k count=2 2>/dev/null; sync; \
        ls; ls closed; cat changed elsewhere; stat -c %a mode; grep ' / ' /proc/mounts";
    let mut agent = Agent::boot_with_all(parts, |dir| {
        let root = make_root(dir.join("root"));
        for directory in ["closed", "mode"] {
            fs::create_dir_all(root.join("work").join(directory)).unwrap();
        }
        for name in ["changed", "gone", "moved", "closed/old"] {
            fs::write(root.join("work").join(name), format!("{name}\n")).unwrap();
        }
        let lower = dir.join("lower");
        erofs(&root, &lower);
        let snapshot = dir.join("snapshot");
        for directory in ["fs", "work"] {
            fs::create_dir_all(snapshot.join(directory)).unwrap();
        }
        (vec![lower], snapshot)
    });
    let shared = PathBuf::from("/run/bulkhead/shares/root/root");
    let upper = Upper::Directory { upper: shared.join("fs"), work: shared.join("work") };
    agent.call(create(layers(upper), Some("root"), script)).unwrap();
    agent.start_container("c").unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    agent.stream(1).read_to_string(&mut out).unwrap();
    agent.stream(2).read_to_string(&mut err).unwrap();
    assert_eq!(err, "");
    let listed = "again\nbig\nchanged\nclosed\nelsewhere\nfar\nlink\nmode\nnew\npipe\nx\n";
    assert!(
        out.starts_with(&format!("{listed}changed\nmore\nmoved\n700\noverlay / overlay rw")),
        "{out}"
    );
    assert_eq!(agent.wait("c", None).status, ExitStatus::Code(0));
    let written = agent.dir.path().join("snapshot/fs/work");
    let (end, _) = agent.power_off();
    assert_eq!(end, End::PowerOff);
    let kind = |name: &str| fs::symlink_metadata(written.join(name)).unwrap();
    for hidden in ["gone", "moved"] {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let device = kind(hidden);
        assert!(device.file_type().is_char_device() && device.rdev() == 0, "{hidden}");
    }
    assert_eq!(fs::read_to_string(written.join("changed")).unwrap(), "changed\nmore\n");
    assert_eq!(fs::metadata(written.join("big")).unwrap().len(), 128 << 10);
    let mut value = [0; 1];
    let closed = written.join("closed");
    assert_eq!(rustix::fs::getxattr(&closed, "user.overlay.opaque", &mut value), Ok(1));
    assert_eq!(value, *b"y");
}
