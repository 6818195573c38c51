//! A containerd with two containers: one whose processes are killed, and one beside it.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
};

use bulkhead_tests::harness::{
    Namespace, Running, Shim,
    containerd::{Containerd, HOST_PROGRAM, PROGRAM},
    oci::{Followed, Isolation, Oci, Peer, Step},
    signal_process,
};
use rustix::process::Signal;

pub(super) const VICTIM: &str = "victim";

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// The shim's first thread.
    Shim,
    /// Whichever of it, of its other threads and of all that it starts comes first.
    Any,
}

/// What is done meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// `Create` and `Start`.
    Run,
    Exec,
    /// `Kill` and `Delete`.
    End,
}

/// A containerd whose calls of the shim's program are held up, and a container beside those that are killed.
pub(super) struct Stage<'a> {
    pub(super) containerd: Containerd<'a>,
    pub(super) oci: &'a Oci,
    /// The victim's network, and its other end.
    namespaces: [Namespace; 2],
    neighbour: u32,
    before: BTreeSet<String>,
    wrong: Vec<String>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(oci: &'a Oci) -> Self {
        let containerd = Containerd::new(oci);
        behind_a_script(oci);
        if oci.is_vm() {
            // A boot in place of a clone that was killed takes too long to be had at each step.
            let file = oci.path("options.toml");
            let text = fs::read_to_string(&file).unwrap() + "template = \"require\"\n";
            fs::write(file, text).unwrap();
        }
        let words = ["sh", "-c", "exec sleep 100000"];
        let peer = Peer::Bulkhead(Isolation::Host);
        let run = containerd.run_with(peer, &["--detach", "--null-io"], "neighbour", &words);
        oci.run_command(run).assert_code(0);
        let neighbour = containerd.task("neighbour").unwrap().0;
        let namespaces =
            Namespace::pair("ip address add 10.92.8.5/24 dev eth0; ip link set eth0 up");
        let mut stage = Self {
            containerd,
            oci,
            namespaces,
            neighbour,
            before: BTreeSet::new(),
            wrong: Vec::new(),
        };
        // What is kept for the next container is there from now on.
        stage.prepare(Verb::End);
        stage.act(Verb::End);
        stage.clean("nothing");
        stage.before = stage.left();
        stage
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.oci.path(name)
    }

    /// Everything of the test's that is there.
    fn left(&self) -> BTreeSet<String> {
        // Other processes only see a mount of the test's, in namespaces that were made while it was there.
        let things = self.oci.leftovers().into_iter();
        let mut left: BTreeSet<_> = things.filter(|thing| !thing.starts_with("process")).collect();
        let daemon = self.containerd.pid();
        let processes = self.oci.processes().into_iter().filter(|pid| *pid != daemon);
        left.extend(processes.map(|pid| format!("process {pid}")));
        let bundle = self.containerd.bundle(VICTIM);
        let state = self.oci.root().join(self.oci.mark()).join(VICTIM);
        // What containerd could not remove of a bundle is in the way of all that follow.
        let removed = bundle.with_file_name(format!(".{VICTIM}"));
        let stored = [&self.file("data"), &removed].map(|directory| all_below(directory));
        let paths = [bundle, removed, self.containerd.socket_of(VICTIM), state];
        let paths = paths.into_iter().filter(|path| path.exists());
        let paths = paths.chain(stored.into_iter().flatten());
        left.extend(paths.map(|path| format!("file {}", path.display())));
        let links = self.namespaces[0].text("ip -o link show");
        left.extend(links.lines().filter_map(|line| {
            let name = line.split(": ").nth(1)?;
            (!name.starts_with("eth0") && !name.starts_with("lo"))
                .then(|| format!("interface {name}"))
        }));
        left
    }

    /// What brings the container to the state before a verb.
    pub(super) fn prepare(&self, verb: Verb) {
        if verb != Verb::Run {
            let done = self.run().wait();
            assert!(done.status.success(), "{done}\n{}", self.containerd.logged());
        }
    }

    fn run(&self) -> Running {
        let network = format!("network:{}", self.namespaces[0].path());
        let options = ["--detach", "--null-io", "--with-ns", &network];
        let command = self.containerd.run_command(&options, VICTIM, &["sleep", "100000"]);
        self.oci.start_command(command)
    }

    /// Does it, however it ends.
    pub(super) fn act(&self, verb: Verb) {
        match verb {
            Verb::Run => drop(self.run().wait()),
            Verb::Exec => drop(self.containerd.exec("one", VICTIM, "exit 4")),
            Verb::End => {
                self.containerd.run(&["task", "kill", "--signal", "SIGKILL", VICTIM]);
                self.oci.wait("the victim's end", || {
                    self.containerd.task(VICTIM).is_none_or(|(_, state)| state == "STOPPED")
                });
                self.containerd.run(&["task", "rm", VICTIM]);
            }
        }
    }

    /// Does it while somebody follows the shim.
    pub(super) fn follow(&self, verb: Verb, who: Who, step: Option<&Step>) -> Followed {
        let all = who == Who::Any;
        if verb != Verb::Run {
            let followed = Followed::new(self.oci, self.containerd.shim_pid(VICTIM), all, step);
            self.act(verb);
            return followed;
        }
        for name in ["held", "go"] {
            fs::remove_file(self.file(name)).ok();
        }
        fs::write(self.file("hold"), "").unwrap();
        let run = self.run();
        self.oci.wait("the shim", || self.file("held").exists());
        let address = fs::read_to_string(self.file("held")).unwrap();
        let followed = Followed::new(self.oci, Shim::new(&address, true).pid(VICTIM), all, step);
        fs::remove_file(self.file("hold")).unwrap();
        fs::write(self.file("go"), "").unwrap();
        // Most steps are failures of it.
        drop(run.wait());
        followed
    }

    /// Removes the container as a user would, and notes what is left then.
    pub(super) fn clean(&mut self, step: &str) {
        // There may be no task any more.
        self.containerd.run(&["task", "rm", "--force", VICTIM]);
        self.oci.wait("the task's end", || self.containerd.task(VICTIM).is_none());
        let listed = self.containerd.text(&["container", "ls", "--quiet"]);
        if listed.lines().any(|id| id == VICTIM) {
            let removed = self.containerd.run(&["container", "rm", VICTIM]);
            if !removed.status.success() {
                self.wrong.push(format!("{step}: {removed}"));
            }
        }
        if self.before.is_empty() {
            return;
        }
        let new = |stage: &Self| -> Vec<String> {
            stage.left().difference(&stage.before).cloned().collect()
        };
        for _ in 0..1500 {
            self.oci.reap_adopted();
            if new(self).is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let mut left = new(self);
        // Nobody is asked to remove the socket of a shim that was killed before containerd connected or after its last answer; the next one does.
        let socket = self.containerd.socket_of(VICTIM);
        if UnixStream::connect(&socket).is_err() {
            let socket = format!("file {}", socket.display());
            left.retain(|thing| *thing != socket);
        }
        if !left.is_empty() {
            let words = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let processes = self.oci.processes().into_iter();
            let told: Vec<_> = processes
                .map(|pid| format!("{pid} {}", String::from_utf8_lossy(&words(pid))))
                .collect();
            eprintln!("{step}: left: {left:#?} of {told:#?}");
            self.wrong.push(format!("{step}: left: {left:#?} of {told:#?}"));
            let ours = self.oci.processes().into_iter();
            for pid in ours.filter(|pid| left.contains(&format!("process {pid}"))) {
                signal_process(pid, Signal::KILL);
            }
            self.before = self.left();
        }
    }

    /// What was wrong, if anything was.
    #[track_caller]
    pub(super) fn end(self) {
        let Self { containerd, oci, namespaces, neighbour, wrong, .. } = self;
        assert!(
            wrong.is_empty(),
            "{}:\n{}\n{}",
            wrong.len(),
            wrong.join("\n"),
            containerd.logged()
        );
        assert_eq!(containerd.task("neighbour").unwrap(), (neighbour, "RUNNING".into()));
        containerd.exec("after", "neighbour", "exit 4").assert_code(4);
        containerd.remove("neighbour");
        oci.run_command(containerd.run_command(&["--rm"], "next", &["true"])).assert_code(0);
        // Whoever was killed so that nobody was asked to remove the socket: the next start of any container has done it.
        assert!(!containerd.socket_of(VICTIM).exists());
        drop((containerd, namespaces));
    }
}

/// Puts a script in the place of the shim's program, which follows a command or holds up a start when there is a file that says so.
fn behind_a_script(oci: &Oci) {
    let (bin, real) = (oci.path("bin"), oci.path("bin/real"));
    fs::create_dir(&real).unwrap();
    let directory = oci.path("");
    let directory = directory.display();
    let text = format!(
        "#!/bin/sh\n\
         for command; do :; done\n\
         real={bin}/real/${{0##*/}}\n\
         if [ -e {directory}/$command.strace ]; then\n\
             exec strace -o {directory}/command.log $(cat {directory}/$command.strace) -- $real \"$@\"\n\
         fi\n\
         [ $command = start ] && [ -e {directory}/hold ] || exec $real \"$@\"\n\
         address=$($real \"$@\") || exit\n\
         printf %s $address > {directory}/held.new && mv {directory}/held.new {directory}/held\n\
         until [ -e {directory}/go ]; do sleep 0.02; done\n\
         printf %s $address\n",
        bin = bin.display(),
    );
    fs::write(bin.join("script"), text).unwrap();
    fs::set_permissions(bin.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
    for name in [PROGRAM, HOST_PROGRAM] {
        fs::rename(bin.join(name), real.join(name)).unwrap();
        fs::hard_link(bin.join("script"), bin.join(name)).unwrap();
    }
}

fn all_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in fs::read_dir(directory).into_iter().flatten().flatten() {
        if item.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(all_below(&item.path()));
        }
        found.push(item.path());
    }
    found
}
