//! Processes that are killed, and what is left then.

use std::{fs, thread, time::Duration};

use bulkhead::sandbox::{Isolation, Status, remove_remains};

use crate::{
    bundle::{Bundle, process},
    lifecycle::{kill, leftovers},
    running::{Maker, children, until},
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
    let (code, _, _) = crate::running::finish(joined);
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
