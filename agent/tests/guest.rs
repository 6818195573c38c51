//! The agent as the first process of a guest. `BULKHEAD_VMM`, `BULKHEAD_KERNEL` and `BULKHEAD_INITRD` say of what the guest
//! is made; `BULKHEAD_SERIAL` names a file for its console.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

#[allow(dead_code)]
mod support;

use std::{io::Read, path::PathBuf};

use bulkhead_protocol::{ExitStatus, Lower, Root, Stdio, Upper};
use bulkhead_vmm::api::{End, Mark};
use support::{Agent, erofs, ext4, make_root, parts, shell};

fn layers(upper: Upper) -> Root {
    Root::Layers { lower: Lower::Erofs { device: PathBuf::from("/dev/vda") }, upper }
}

/// An image with busybox and a writable disk.
fn boot() -> Option<Agent> {
    let parts = parts()?;
    Some(Agent::boot(parts, |dir| {
        let root = make_root(dir.join("root"));
        let (lower, upper) = (dir.join("lower"), dir.join("upper"));
        erofs(&root, &lower);
        ext4(&upper, &dir.join("content"));
        vec![lower, upper]
    }))
}

#[test]
fn a_container_from_disks() {
    let Some(mut agent) = boot() else { return };
    assert!(agent.ready.kernel.starts_with('6'), "{:?}", agent.ready);
    let upper = Upper::Ext4 { device: PathBuf::from("/dev/vdb") };
    let stdio = Stdio { main: Some(1), stdin: false, stderr: Some(2) };
    let spec = shell("echo $$ $(hostname); echo x > /file && cat /file; echo err >&2; exit 3");
    agent.create_in("c", spec, layers(upper), stdio).unwrap();
    agent.start_container("c").unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    agent.stream(1).read_to_string(&mut out).unwrap();
    agent.stream(2).read_to_string(&mut err).unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("1 inside\nx\n", "err\n"));
    assert_eq!(agent.wait("c", None).status, ExitStatus::Code(3));
    let (end, guest) = agent.power_off();
    println!(
        "guest-kernel instructions: entry to init {}, init to container {}",
        guest.instructions(Mark::KernelEntry, Mark::InitExec),
        guest.instructions(Mark::InitExec, Mark::ContainerExec)
    );
    assert_eq!(end, End::PowerOff);
}
