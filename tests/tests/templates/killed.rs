//! Makers, and the VMMs of clones, killed.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use bulkhead_tests::harness::signal_process;
use rustix::process::Signal;

use super::Place;

const PATIENCE: Duration = Duration::from_secs(300);

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

impl Place {
    /// The length that this file has in the only draft, if it is there.
    fn drafted(&self, name: &str) -> Option<u64> {
        let draft = self.names().into_iter().find(|name| name.starts_with(".new-"))?;
        let found = fs::metadata(self.directory.join(draft).join(name)).ok()?;
        Some(std::os::unix::fs::MetadataExt::blocks(&found))
    }
}

#[test]
fn a_maker_may_be_killed_at_any_time() {
    let Some(place) = Place::empty() else { return };
    type Moment = fn(&Place) -> bool;
    let moments: [(&str, Moment); 4] = [
        ("its directory is there", |place| place.drafted("").is_some()),
        ("its machine is made", |place| place.drafted("state").is_some()),
        ("its memory is written", |place| place.drafted("memory").is_some_and(|size| size > 0)),
        ("its state is written", |place| place.drafted("state").is_some_and(|size| size > 0)),
    ];
    for (what, moment) in moments {
        let making = place.host.boot_command(place.command(&["template", "create"]));
        until(what, || moment(&place) || place.names().iter().any(|name| name.len() == 64));
        making.signal(Signal::KILL);
        drop(making);
        until("its VMM ends", || place.host.vmms().is_empty());
        // One that was faster than this test is whole.
        assert!(place.list().iter().all(|template| template["state"] == "ready"), "{what}");
        if !place.list().is_empty() {
            place.run(&["template", "prune", "--all"]).assert_code(0);
        }
    }
    // A VMM that is killed under its maker.
    let making = place.host.boot_command(place.command(&["template", "create"]));
    until("it has a VMM", || !place.host.vmms().is_empty());
    place.host.vmms().into_iter().for_each(|vmm| signal_process(vmm, Signal::KILL));
    making.wait().assert_refused(1, &["VMM was killed"]);
    assert!(!place.names().iter().any(|name| name.starts_with('.')));
    // That is remembered for starts that must have a clone, and forgotten where one is asked for.
    let outcome = place.run(&["run", "--rm", "--template", "require", "busybox", "true"]);
    outcome.assert_refused(125, &["VMM was killed", "template create"]);
    place.run(&["template", "create"]).assert_clean();
    let outcome = place.run(&["run", "--rm", "--template", "require", "busybox", "echo", "clone"]);
    outcome.assert_clean();
    assert_eq!(outcome.text(), "clone\n");
    let [key] = place.list().try_into().unwrap();
    let key = key["key"].as_str().unwrap().to_owned();
    assert_eq!(place.names(), [key.clone(), format!("{key}.lock")]);
    place.host.assert_nothing_left();
}

#[test]
fn a_killed_vmm_of_a_clone_is_told_of_and_boots_instead() {
    let Some(place) = Place::with_template() else { return };
    let begin = |mode: &str| {
        let words = ["run", "--rm", "--template", mode, "busybox", "echo", "through"];
        let run = place.host.boot_command(place.command(&words));
        until("it has a VMM", || !place.host.vmms().is_empty());
        place.host.vmms().into_iter().for_each(|vmm| signal_process(vmm, Signal::KILL));
        run.wait()
    };
    // A clone that has begun its container is not begun again.
    let outcome = begin("auto");
    let errors = outcome.error_text();
    assert_eq!(errors.lines().count(), 1, "{outcome}");
    assert!(errors.contains("VMM was killed"), "{outcome}");
    if outcome.code() != 125 {
        assert_eq!(outcome.assert_code(0).text(), "through\n");
    }
    let outcome = begin("require");
    outcome.assert_refused(125, &["VMM was killed"]);
    // The template is not to blame.
    assert_eq!(place.list().len(), 1);
    place.host.assert_nothing_left();
}
