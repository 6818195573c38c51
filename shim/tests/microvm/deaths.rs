//! Processes that are killed, and what is left then.

use std::{fs, path::Path, thread, time::Duration};

use bulkhead::sandbox::{Isolation, Status, remove_remains};

use crate::{
    bundle::{Bundle, process},
    helper::REFUSED,
    lifecycle::{kill, leftovers},
    running::{Maker, children, finish, until},
};

pub(crate) fn a_killed_monitor_takes_its_machine_along() {
    let id = "bulkhead-test-monitor";
    let bundle = Bundle::new(&["sleep", "1000"]);
    let mut maker = Maker::create(&bundle, id);
    maker.with(|sandbox| sandbox.start()).unwrap();
    let monitor = maker.pid();
    let vmm = children(monitor)[0];
    let joined = maker.exec(&process(&["sleep", "1000"]));
    until("the process has joined", || !children(i32::try_from(joined.id()).unwrap()).is_empty());
    kill(monitor, 9);
    assert_eq!(maker.child.wait().unwrap().code(), Some(137));
    assert_eq!(maker.status(), Status::Stopped);
    let (code, _, _) = finish(joined);
    assert_eq!(code, 137);
    until("the VMM ends", || {
        fs::read(format!("/proc/{vmm}/cmdline")).unwrap_or_default().is_empty()
    });
    maker.with(|sandbox| sandbox.remove()).unwrap();
    assert_eq!(leftovers(&bundle, id), Vec::<String>::new());
}

pub(crate) fn a_killed_vmm_ends_the_container() {
    let id = "bulkhead-test-vmm";
    let bundle = Bundle::new(&["sleep", "1000"]);
    let mut maker = Maker::create(&bundle, id);
    kill(children(maker.pid())[0], 9);
    assert_eq!(maker.child.wait().unwrap().code(), Some(137));
    assert!(maker.log().contains("the microVM ended before its program did"), "{}", maker.log());
    assert_eq!(maker.status(), Status::Stopped);
    assert!(maker.with(|sandbox| sandbox.start()).unwrap_err().to_string().contains("not running"));
    maker.with(|sandbox| sandbox.remove()).unwrap();
    assert_eq!(leftovers(&bundle, id), Vec::<String>::new());
}

/// As one would whose processors are stuck, or who does not want to.
pub(crate) fn a_guest_that_hears_nothing_is_killed() {
    let id = "bulkhead-test-deaf";
    let bundle = Bundle::new(&["sleep", "1000"]);
    let mut maker = Maker::create(&bundle, id);
    maker.with(|sandbox| sandbox.start()).unwrap();
    let vmm = children(maker.pid())[0];
    kill(vmm, libc::SIGSTOP);
    let joining = maker.exec(&process(&["true"]));
    // This signal waits in the guest, not its sender.
    maker.with(|sandbox| sandbox.kill(libc::SIGTERM, false)).unwrap();
    assert_eq!(maker.status(), Status::Running);
    maker.with(|sandbox| sandbox.kill(libc::SIGKILL, false)).unwrap();
    assert_eq!(maker.child.wait().unwrap().code(), Some(137));
    assert!(maker.log().contains("after it was killed"), "{}", maker.log());
    assert_eq!(maker.status(), Status::Stopped);
    until("the VMM ends", || !Path::new(&format!("/proc/{vmm}")).exists());
    // It was never answered, or came too late.
    assert_eq!(finish(joining).0, i32::from(REFUSED));
    let why = fs::read_to_string(maker.dir.join("error")).unwrap();
    assert!(why.starts_with("State("), "{why}");
    maker.with(|sandbox| sandbox.remove()).unwrap();
    assert_eq!(leftovers(&bundle, id), Vec::<String>::new());
}

/// At several moments of a creation.
pub(crate) fn a_killed_maker_leaves_nothing() {
    let id = "bulkhead-test-maker";
    for after in [0, 5, 20, 100, 1000, 4000] {
        let bundle = Bundle::new(&["sleep", "1000"]);
        let mut maker = Maker::begin(&bundle, id);
        thread::sleep(Duration::from_millis(after));
        if maker.dir.join("record").exists() {
            break;
        }
        maker.child.kill().unwrap();
        maker.child.wait().unwrap();
        until("nothing is left", || leftovers(&bundle, id).is_empty());
    }
    // Its monitor, too: then the next one removes what is left.
    for after in [20, 1000] {
        let bundle = Bundle::new(&["sleep", "1000"]);
        let mut maker = Maker::begin(&bundle, id);
        thread::sleep(Duration::from_millis(after));
        let maker_pid = i32::try_from(maker.child.id()).unwrap();
        for monitor in children(maker_pid) {
            kill(monitor, 9);
        }
        maker.child.kill().unwrap();
        maker.child.wait().unwrap();
        remove_remains(Isolation::Vm, id, &maker.dir, None).unwrap();
        until("nothing is left", || leftovers(&bundle, id).is_empty());
    }
}
