//! SIGKILL of every process at each step of a task's life, through containerd: of the shim's `start`, of the shim, of its helpers, monitors and
//! VMMs, and of the shim's `delete`. Afterwards containerd removes all of the container, a neighbour notices nothing, and the next container of
//! the same name can be made.

mod stage;

use std::{collections::BTreeSet, env, fs};

use bulkhead_tests::harness::{
    oci::{Isolation, Oci, parse, steps_of},
    signal_process,
};
use rustix::process::Signal;
use stage::{Stage, VICTIM, Verb, Who};

/// Calls at which each one is a step, since something of the host changes there.
const ALWAYS: [&str; 8] =
    ["clone3", "execve", "mount", "move_mount", "renameat", "mkdirat", "bind", "sendmsg"];
const ALWAYS_VM: [&str; 1] = ["execve"];
const ALWAYS_OF_COMMANDS: [&str; 8] =
    ["bind", "listen", "vfork", "clone3", "rename", "sendmsg", "unlink", "umount2"];

/// How many times the usual number of steps: `BULKHEAD_TEST_STEPS=10` for a closer look.
fn times(steps: usize) -> usize {
    let more = env::var("BULKHEAD_TEST_STEPS").ok();
    more.map_or(1, |text| text.parse::<usize>().unwrap()) * steps
}

impl Stage<'_> {
    /// Each step of a verb, about as many as this.
    fn each(&mut self, verb: Verb, who: Who, most: usize) {
        self.prepare(verb);
        let log = self.follow(verb, who, None).log();
        self.clean("nothing");
        if verb == Verb::Run && who == Who::Any {
            self.assert_helpers_keep_out(&log);
        }
        let calls = parse(&log);
        let always: &[&str] = match (who, self.oci.is_vm()) {
            (Who::Shim, _) => &[],
            (Who::Any, false) => &ALWAYS,
            (Who::Any, true) => &ALWAYS_VM,
        };
        let mut steps = steps_of(&calls, times(most), always);
        assert!(calls.len() > 10, "{verb:?}: {} calls of {who:?} were traced", calls.len());
        // Before its first call in a making, containerd has not connected, and asks nobody to remove the socket: the next shim of the name does.
        steps.retain(|step| verb != Verb::Run || step.when > 1 || step.calls != "all");
        for step in &steps {
            self.prepare(verb);
            drop(self.follow(verb, who, Some(step)));
            self.clean(&format!("{verb:?}, {who:?}, {step}"));
        }
    }

    /// A helper lives on for a moment when its shim is killed, while containerd removes the bundle, and what it makes there meanwhile would stay.
    #[track_caller]
    fn assert_helpers_keep_out(&self, log: &str) {
        let bundle = format!("{}/", self.containerd.bundle(VICTIM).display());
        let pid = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        let helpers: BTreeSet<_> = log
            .lines()
            .filter(|line| line.contains(" execve(") && line.contains("\"helper\"]"))
            .map(pid)
            .collect();
        assert!(!helpers.is_empty(), "{log}");
        let makes = |line: &&str| {
            line.contains(&bundle)
                && ["O_CREAT", " mkdir", " rename", " symlink", " link", " mknod"]
                    .iter()
                    .any(|word| line.contains(word))
        };
        let (by_helpers, by_shim): (Vec<_>, Vec<_>) =
            log.lines().filter(makes).partition(|line| helpers.contains(&pid(line)));
        assert!(by_helpers.is_empty() && !by_shim.is_empty(), "{by_helpers:#?}\n{by_shim:#?}");
    }

    /// Each step of a command of the shim's program: `start`, or `delete` after the shim was killed.
    fn each_of_command(&mut self, command: &str, most: usize) {
        let options = self.file(&format!("{command}.strace"));
        let log = self.file("command.log");
        let verb = if command == "start" { Verb::Run } else { Verb::Exec };
        let act = |stage: &mut Self, words: &str| {
            fs::remove_file(&log).ok();
            stage.prepare(verb);
            fs::write(&options, words).unwrap();
            if command == "start" {
                stage.act(Verb::Run);
            } else {
                signal_process(stage.containerd.shim_pid(VICTIM), Signal::KILL);
                stage.oci.wait("the end of the task", || {
                    stage.containerd.task(VICTIM).is_none_or(|(_, state)| state == "STOPPED")
                });
                let log = || fs::read_to_string(&log).unwrap_or_default();
                stage.oci.wait("the end of delete", || log().contains("+++"));
            }
            fs::remove_file(&options).unwrap();
        };
        act(self, "");
        let calls = parse(&fs::read_to_string(&log).unwrap());
        self.clean("nothing");
        let steps = steps_of(&calls, times(most), &ALWAYS_OF_COMMANDS);
        assert!(calls.len() > 10, "{command}: {} calls were traced", calls.len());
        for step in &steps {
            act(self, &step.options().join(" "));
            if command == "delete" {
                // It asks again for what it could not remove. One that is killed while it removes a bundle is in its own way afterwards.
                self.containerd.kill();
                let bundle = self.containerd.bundle(VICTIM);
                fs::remove_dir_all(bundle.with_file_name(format!(".{VICTIM}"))).ok();
                self.containerd.start();
            }
            self.clean(&format!("{command}, {step}"));
        }
    }
}

fn on(isolation: Isolation, body: fn(&mut Stage<'_>)) {
    let Some(oci) = Oci::new(isolation).filter(Oci::is_bulkhead) else { return };
    let mut stage = Stage::new(&oci);
    body(&mut stage);
    stage.end();
    oci.assert_nothing_left();
}

#[test]
fn a_start_on_the_host() {
    on(Isolation::Host, |stage| {
        stage.each_of_command("start", 4);
        stage.each(Verb::Run, Who::Shim, 6);
    });
}

#[test]
fn a_making_on_the_host() {
    on(Isolation::Host, |stage| stage.each(Verb::Run, Who::Any, 16));
}

#[test]
fn an_exec_on_the_host() {
    on(Isolation::Host, |stage| {
        stage.each(Verb::Exec, Who::Shim, 5);
        stage.each(Verb::Exec, Who::Any, 12);
    });
}

#[test]
fn an_end_on_the_host() {
    on(Isolation::Host, |stage| {
        stage.each(Verb::End, Who::Shim, 6);
        stage.each(Verb::End, Who::Any, 8);
        stage.each_of_command("delete", 6);
    });
}

#[test]
fn a_life_in_a_microvm() {
    on(Isolation::Vm, |stage| {
        stage.each(Verb::Run, Who::Any, 4);
        stage.each(Verb::End, Who::Any, 2);
    });
}
