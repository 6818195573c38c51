//! The agent as the first process of a guest. `BULKHEAD_VMM`, `BULKHEAD_KERNEL` and `BULKHEAD_INITRD` say of what the guest
//! is made; `BULKHEAD_SERIAL` names a file for its console.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod ahead;
mod clones;
mod directory;
mod disks;
mod memory;
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;

use std::path::PathBuf;

use bulkhead_protocol::{Call, Create, Lower, Prepare, Root, Stdio, Upper};
use bulkhead_vmm::api::End;
use serde_json::Value;
use support::{Agent, Guest, Origin, erofs, ext4, make_root, parts, shell};

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

fn shared() -> Root {
    Root::Directory { path: PathBuf::from("/run/bulkhead/shares/root/root") }
}

fn create(root: Root, share: Option<&str>, script: &str) -> Call {
    Call::Create(Box::new(Create {
        container: "c".to_owned(),
        spec: shell(script),
        root,
        stdio: Stdio { main: Some(1), stdin: false, stderr: Some(2) },
        shares: share.into_iter().map(str::to_owned).collect(),
        bundle: String::new(),
        network: None,
        shared: Vec::new(),
        memory: Vec::new(),
    }))
}

fn prepare(nonce: &str, specs: Vec<Value>) -> Call {
    Call::Prepare(Box::new(Prepare { nonce: nonce.to_owned(), specs, shares: Vec::new() }))
}

#[test]
fn a_monitor_that_goes_away_ends_the_guest() {
    let Some(mut agent) = boot() else { return };
    let stdio = Stdio { main: Some(1), stdin: true, stderr: None };
    agent.create_in("c", shell("trap '' TERM; sleep 1000"), layers(Upper::None), stdio).unwrap();
    agent.start_container("c").unwrap();
    agent.close();
    assert_eq!(agent.ended().0, End::PowerOff);
}

#[test]
fn nobody_to_connect_to_is_a_panic() {
    let Some(parts) = parts() else { return };
    let dir = tempfile::TempDir::new().unwrap();
    let mut guest = Guest::start(parts, &dir.path().join("agent"), &[], None, Origin::Boot);
    assert_eq!(guest.end(), End::Panic);
}
