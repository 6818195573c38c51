//! More clones at once than there is memory for: those that are too many are refused, and no other notices.

use bulkhead_tests::harness::available_kib;

use super::Place;

/// Clones that are asked for at once.
const STORM: usize = 6;

#[test]
fn a_storm_of_clones_is_refused_where_memory_ends_and_earlier_ones_are_untouched() {
    let Some(place) = Place::with_template() else { return };
    let available = available_kib();
    // Each counts as a fifth of what there is, so that the host's other work makes no difference: one always has room, and all never have.
    let run = |name: &str| {
        let words = ["run", "-d", "--template", "require", "--name", name, "busybox"];
        let mut command = place.command(&[&words[..], &["sleep", "100000"]].concat());
        command
            .env("BULKHEAD_ADMISSION", "whole")
            .env("BULKHEAD_ADMISSION_START", format!("{}k", available / 100 * 20))
            .env("BULKHEAD_ADMISSION_RESERVE", format!("{}k", available / 100 * 30));
        command
    };
    place.host.boot_command(run("first")).wait().assert_clean();
    let vmm = place.host.vmms();
    let names: Vec<_> = (0..STORM).map(|number| format!("storm{number}")).collect();
    let asked: Vec<_> = names.iter().map(|name| place.host.start_command(run(name))).collect();
    let mut running = vec!["first"];
    for (name, asked) in names.iter().zip(asked) {
        let outcome = asked.wait();
        if outcome.code() == 0 {
            outcome.assert_clean();
            running.push(name);
        } else {
            outcome.assert_refused(125, &["too little memory for another microVM", "[admission]"]);
        }
    }
    assert!(running.len() <= STORM, "all were admitted");
    let vmms = place.host.vmms();
    assert_eq!(vmms.len(), running.len());
    assert!(vmm.iter().all(|pid| vmms.contains(pid)));
    for name in &running {
        let outcome = place.run(&["exec", name, "echo", "here"]);
        outcome.assert_clean();
        assert_eq!(outcome.text(), "here\n");
    }
    // What ended makes room.
    place.run(&[&["rm", "-f"], &running[..]].concat()).assert_code(0);
    place.host.boot_command(run("after")).wait().assert_clean();
    place.run(&["rm", "-f", "after"]).assert_code(0);
    place.host.assert_nothing_left();
}
