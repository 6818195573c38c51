//! A container from an image's disk and a writable one.

use std::{io::Read, path::PathBuf, process::Command};

use bulkhead_protocol::{Awaken, Call, ExitStatus, Reply, Stdio, Upper};
use bulkhead_vmm::api::{End, Mark};

use crate::{
    boot, layers, prepare,
    support::{Agent, shell},
};

#[test]
fn a_container_from_disks() {
    let Some(mut agent) = boot() else { return };
    assert!(agent.ready.kernel.starts_with('6'), "{:?}", agent.ready);
    awakens(&mut agent);
    let upper = Upper::Ext4 { device: PathBuf::from("/dev/vdb") };
    let stdio = Stdio { main: Some(1), stdin: false, stderr: Some(2) };
    let spec =
        shell("echo $$ $(hostname) $(date +%Y); echo x > /file && cat /file; echo err >&2; exit 3");
    agent.create_in("c", spec, layers(upper), stdio).unwrap();
    agent.start_container("c").unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    agent.stream(1).read_to_string(&mut out).unwrap();
    agent.stream(2).read_to_string(&mut err).unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("1 inside 2033\nx\n", "err\n"));
    assert_eq!(agent.wait("c", None).status, ExitStatus::Code(3));
    let (end, guest) = agent.power_off();
    println!(
        "guest-kernel instructions: entry to init {}, init to container {}",
        guest.instructions(Mark::KernelEntry, Mark::InitExec),
        guest.instructions(Mark::InitExec, Mark::ContainerExec)
    );
    assert_eq!(end, End::PowerOff);
    // What was written is on the disk, which was let go of in good order.
    let disk = agent.dir.path().join("upper");
    let check = Command::new("e2fsck").arg("-fn").arg(&disk).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    let find = Command::new("debugfs").args(["-R", "cat /upper/file"]).arg(&disk).output().unwrap();
    assert_eq!(find.stdout, b"x\n");
}

/// The kernel's generator and clock follow what the monitor says; the nonce comes back.
fn awakens(agent: &mut Agent) {
    let awaken = |seed: &str| {
        let seed = seed.repeat(128 / seed.len());
        Call::Awaken(Awaken { seed, realtime_ns: 2_000_000_000_000_000_000 })
    };
    let nonce = |reply| match reply {
        Reply::Awake { nonce } => nonce,
        other => panic!("{other:?}"),
    };
    assert_eq!(nonce(agent.call(awaken("0f")).unwrap()), None);
    agent.call(prepare("0123", Vec::new())).unwrap_err();
    let digits = "0123456789abcdef".repeat(2);
    agent.call(prepare(&digits, Vec::new())).unwrap();
    let failure = agent.call(awaken("0")).map(nonce);
    assert_eq!(failure.unwrap(), Some(digits));
    agent.call(Call::Awaken(Awaken { seed: "12".to_owned(), realtime_ns: 0 })).unwrap_err();
}
