//! The rule, and the ledger under many who ask at once.

use std::{
    process::{Child, Command},
    thread,
};

use super::*;
use crate::size::MemorySize;

const MIB: u64 = 1 << 20;

fn admission(directory: &std::path::Path, rule: Rule) -> Admission {
    Admission { rule, directory: directory.to_owned() }
}

/// A process that stands for a monitor or a VMM.
struct Process(Child);

impl Process {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    fn identity(&self) -> Identity {
        Identity::of(self.0.id().cast_signed()).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn memory(available_mib: u64, total_mib: u64) -> Memory {
    Memory { available: available_mib * MIB, total: total_mib * MIB }
}

#[test]
fn the_hosts_figures_are_read() {
    let text =
        "MemTotal:       24684196 kB\nMemFree:         4704000 kB\nMemAvailable:   23779328 kB\n";
    let memory = Memory::parse(text).unwrap();
    assert_eq!(memory, Memory { available: 23_779_328 << 10, total: 24_684_196 << 10 });
    for bad in ["", "MemTotal: 5 kB\n", "MemTotal: 5 kB\nMemAvailable: x kB\n"] {
        assert_eq!(Memory::parse(bad), None, "{bad}");
    }
    assert!(Memory::of_host().unwrap().available > 0);
    assert!(host::taken(std::process::id().cast_signed()) > 0);
    assert_eq!(host::taken(i32::MAX), 0);
}

#[test]
fn what_a_machine_needs_depends_on_the_mode() {
    let rule = |mode| Rule { mode, ..Rule::default() };
    let promise = |mode, mib: u64| rule(mode).promise(mib * MIB).map(|bytes| bytes / MIB);
    assert_eq!(promise(Mode::Start, 256), Some(48));
    assert_eq!(promise(Mode::Start, 20), Some(36));
    assert_eq!(promise(Mode::Whole, 256), Some(272));
    assert_eq!(promise(Mode::Off, 256), None);
    assert!(rule(Mode::Whole).lease().is_none() && rule(Mode::Start).lease().is_some());
}

#[test]
fn the_reserve_stays_free() {
    let check = |rule: Rule, available: u64, total: u64, owed: u64| {
        let place = Place::Host { available: available * MIB, total: total * MIB };
        rule.check(&place, 48 * MIB, owed * MIB)
    };
    let usual = Rule::default();
    // 256 MiB, or 3 % of a larger host.
    assert!(check(usual, 304, 4000, 0).is_ok());
    assert!(check(usual, 303, 4000, 0).is_err());
    assert!(check(usual, 3048, 100_000, 0).is_ok());
    assert!(check(usual, 3047, 100_000, 0).is_err());
    assert!(check(usual, 404, 4000, 100).is_ok());
    assert!(check(usual, 403, 4000, 100).is_err());
    let own = Rule { reserve: Some(MemorySize(0)), ..usual };
    assert!(check(own, 48, 4000, 0).is_ok());
    assert!(check(own, 47, 4000, 0).is_err());
    let all = Rule { reserve: Some(MemorySize(u64::MAX)), ..usual };
    assert!(check(all, u64::MAX >> 20, 4000, 5).is_err());
}

#[test]
fn a_refusal_says_what_there_is_what_is_needed_and_the_way_out() {
    let place = Place::Host { available: 400 * MIB, total: 4000 * MIB };
    let refusal = Rule::default().check(&place, 48 * MIB, 100 * MIB).unwrap_err().to_string();
    for words in [
        "the host has 400 MiB available, 100 MiB of them for machines",
        "may need 48 MiB at its start",
        "256 MiB must stay free",
        "[admission] in /etc/bulkhead/config.toml",
    ] {
        assert!(refusal.contains(words), "{refusal}");
    }
    let place = Place::Group { path: "/sys/fs/cgroup/pod", left: 20 * MIB, limit: 512 * MIB };
    let refusal = Rule::default().check(&place, 48 * MIB, 0).unwrap_err().to_string();
    assert!(refusal.contains("/sys/fs/cgroup/pod has 20 MiB left of its 512 MiB"), "{refusal}");
    assert!(refusal.contains("15 MiB must stay free") && !refusal.contains('\n'), "{refusal}");
}

#[test]
fn of_many_that_ask_at_once_so_many_start_as_there_is_room_for() {
    let directory = tempfile::tempdir().unwrap();
    let rule = Rule { reserve: Some(MemorySize(100 * MIB)), ..Rule::default() };
    let admission = admission(directory.path(), rule);
    let host = || Ok(memory(100 + 5 * 48 + 10, 4000));
    let mut monitors: Vec<Process> = (0..12).map(|_| Process::new()).collect();
    let mut answers: Vec<Option<Admitted>> = thread::scope(|scope| {
        let ask = |monitor: &Process| {
            let (admission, monitor) = (&admission, monitor.identity());
            scope.spawn(move || match admission.note(monitor, 48 * MIB, host, None) {
                Ok(admitted) => Some(admitted),
                Err(AdmissionError::Refused(_)) => None,
                Err(error) => panic!("{error}"),
            })
        };
        let askers: Vec<_> = monitors.iter().map(ask).collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().flatten().count(), 5);
    // A monitor that was killed is owed nothing: there is room again.
    let late = Process::new();
    assert!(admission.note(late.identity(), 48 * MIB, host, None).is_err());
    let killed = answers.iter().position(Option::is_some).unwrap();
    std::mem::forget(answers.remove(killed));
    drop(monitors.remove(killed));
    let admitted = admission.note(late.identity(), 48 * MIB, host, None).unwrap();
    assert!(admission.note(late.identity(), 48 * MIB, host, None).is_err());
    // Nor one that ended in good order.
    drop(admitted);
    assert!(admission.note(late.identity(), 48 * MIB, host, None).is_ok());
}

#[test]
fn what_a_machine_has_taken_is_not_counted_twice() {
    let directory = tempfile::tempdir().unwrap();
    let rule = Rule { mode: Mode::Whole, reserve: Some(MemorySize(0)), ..Rule::default() };
    let admission = admission(directory.path(), rule);
    let (first, second) = (Process::new(), Process::new());
    let own = Identity::own();
    let taken = host::taken(own.pid);
    // This process stands for the VMM; it has a little memory.
    let promise = 300 * MIB;
    let mut admitted =
        admission.note(first.identity(), promise, || Ok(memory(310, 4000)), None).unwrap();
    let host = || Ok(Memory { available: 600 * MIB - taken / 2, total: 4000 * MIB });
    let refused = admission.note(second.identity(), promise, host, None);
    assert!(matches!(refused, Err(AdmissionError::Refused(_))), "{refused:?}");
    admitted.taken_by(Some(own)).unwrap();
    assert!(admission.note(second.identity(), promise, host, None).is_ok());
    // A machine that is over owes nothing, although who started it lives.
    let vmm = Process::new();
    let small = || Ok(memory(310, 4000));
    let (third, fourth) = (Process::new(), Process::new());
    drop((first, second));
    let mut admitted = admission.note(third.identity(), promise, small, None).unwrap();
    admitted.taken_by(Some(vmm.identity())).unwrap();
    assert!(admission.note(fourth.identity(), promise, small, None).is_err());
    drop(vmm);
    drop(admission.note(fourth.identity(), promise, small, None).unwrap());
    // Unless another one takes its place.
    let another = Process::new();
    admitted.taken_by(Some(another.identity())).unwrap();
    assert!(admission.note(fourth.identity(), promise, small, None).is_err());
}

#[test]
fn a_start_that_is_over_makes_room() {
    let directory = tempfile::tempdir().unwrap();
    let admission = admission(directory.path(), Rule::default());
    let host = || Ok(memory(256 + 50, 4000));
    let (first, second) = (Process::new(), Process::new());
    let mut admitted = admission.note(first.identity(), 48 * MIB, host, None).unwrap();
    assert!(admission.note(second.identity(), 48 * MIB, host, None).is_err());
    admitted.started();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "the lock");
    assert!(admission.note(second.identity(), 48 * MIB, host, None).is_ok());
    // Nothing is left to say.
    admitted.started();
    // A machine that was promised all of its memory is owed it for its life.
    let rule = Rule { mode: Mode::Whole, ..Rule::default() };
    let path = directory.path().join("whole");
    let whole = Admission { rule, directory: path };
    let mut admitted = whole.note(first.identity(), 48 * MIB, host, None).unwrap();
    admitted.started();
    assert!(whole.note(second.identity(), 48 * MIB, host, None).is_err());
}

#[test]
fn a_group_counts_only_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let admission = admission(directory.path(), Rule::default());
    let monitors = [(); 4].map(|()| Process::new());
    let host = || Ok(memory(4000, 4000));
    let group = |path: &str| Some(Headroom { path: path.into(), limit: 100 * MIB, left: 80 * MIB });
    let note = |at: usize, group| admission.note(monitors[at].identity(), 48 * MIB, host, group);
    let _others = (note(0, group("/a")).unwrap(), note(1, group("/b")).unwrap());
    let refused = note(2, group("/a")).unwrap_err().to_string();
    assert!(refused.contains("the control group /a has 80 MiB left"), "{refused}");
    assert!(note(3, None).is_ok());
}

#[test]
fn what_is_damaged_or_of_the_dead_goes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/run");
    let admission = admission(&path, Rule::default());
    let host = || Ok(memory(4000, 4000));
    let (alive, dead) = (Process::new(), Process::new());
    let _living = admission.note(alive.identity(), MIB, host, None).unwrap();
    let _dying = admission.note(dead.identity(), MIB, host, None).unwrap();
    let names = || {
        let items = std::fs::read_dir(&path).unwrap().map(|item| item.unwrap().file_name());
        items.filter(|name| name != "lock").count()
    };
    assert_eq!(names(), 2);
    drop(dead);
    for (name, text) in
        [("x", ""), ("1-2+", "{}"), ("77", "[{"), (&alive.identity().to_string(), "{")]
    {
        std::fs::write(path.join(name), text).unwrap();
    }
    let late = Process::new();
    let _late = admission.note(late.identity(), MIB, host, None).unwrap();
    assert_eq!(names(), 1);
}
