//! Containers in microVMs through the seam that every program uses: made, started, joined, killed, frozen, removed.
//! Each scenario boots one machine and looks at many things.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod bundle;
mod deaths;
mod helper;
mod host;
mod lifecycle;
mod running;
mod snapshots;
mod terminal;

use std::{env, io::ErrorKind, os::unix::fs::OpenOptionsExt, process::ExitCode, time::Instant};

/// A scenario's name and itself.
type Scenario = (&'static str, fn());

const SCENARIOS: [Scenario; 9] = [
    ("refusals_need_no_machine", lifecycle::refusals_need_no_machine),
    ("a_container_lives_and_leaves_nothing", lifecycle::a_container_lives_and_leaves_nothing),
    ("the_program_cannot_be_found", lifecycle::the_program_cannot_be_found),
    ("terminals_have_sizes", terminal::terminals_have_sizes),
    ("a_killed_monitor_takes_its_machine_along", deaths::a_killed_monitor_takes_its_machine_along),
    ("a_killed_vmm_ends_the_container", deaths::a_killed_vmm_ends_the_container),
    ("a_guest_that_hears_nothing_is_killed", deaths::a_guest_that_hears_nothing_is_killed),
    ("a_killed_maker_leaves_nothing", deaths::a_killed_maker_leaves_nothing),
    ("roots_of_containerds_mounts", snapshots::roots_of_containerds_mounts),
];

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    if let Some(code) = helper::run(&words) {
        return code;
    }
    if words.iter().any(|word| word == "--list") {
        for (name, _) in SCENARIOS {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let filter: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let chosen = SCENARIOS
        .iter()
        .filter(|(name, _)| filter.is_empty() || filter.iter().any(|part| name.contains(*part)));
    if missing() {
        return ExitCode::SUCCESS;
    }
    for (name, scenario) in chosen {
        let begun = Instant::now();
        println!("test {name} ...");
        // A failed check panics, which ends this process with an error.
        scenario();
        println!("test {name} ... ok ({:.1} s)", begun.elapsed().as_secs_f64());
    }
    ExitCode::SUCCESS
}

/// Says that this machine cannot run microVMs, or fails where it must.
fn missing() -> bool {
    let opened = std::fs::File::options().read(true).write(true).custom_flags(0).open("/dev/kvm");
    let why = match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => "there is no /dev/kvm".to_owned(),
        Err(error) => format!("/dev/kvm: {error}"),
        Ok(_) if !rustix::process::geteuid().is_root() => "not root".to_owned(),
        Ok(_) => return false,
    };
    assert!(env::var_os("BULKHEAD_REQUIRE_KVM").is_none_or(|value| value != "1"), "{why}");
    println!("skipped: {why}");
    true
}
