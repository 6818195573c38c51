//! `create`, `start` and `delete` of `true` with `bulkhead-oci` under host isolation, crun and runc, in turns.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use bulkhead_tests::harness::binary;
use rustix::process::Pid;

use super::{
    bundle::Bundle,
    usage::{adopt, processor_time, wait},
};
use crate::{
    Reason,
    cgroups::leave_hybrid,
    facts::first_line,
    report::{Report, Table, Unit},
};

/// Rounds that do not count: programs and directories come into the host's caches.
const WARM_UP: u16 = 3;
/// A created container is there after so long.
const PATIENCE: Duration = Duration::from_secs(60);

struct Runtime {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// One container's life, in milliseconds.
#[derive(Default)]
struct Lives {
    create: Vec<f64>,
    start: Vec<f64>,
    delete: Vec<f64>,
    total: Vec<f64>,
    processor: Vec<f64>,
}

pub(super) fn compare(report: &mut Report, rounds: u16) {
    match measured(report, rounds) {
        Ok(()) => {}
        Err(reason) => report.fail("create, start and delete of `true`", &reason),
    }
}

fn measured(report: &mut Report, rounds: u16) -> Result<(), Reason> {
    if !rustix::process::geteuid().is_root() {
        return Err("plain containers need root".to_owned());
    }
    adopt()?;
    let groups = leave_hybrid()?;
    let bundle = Bundle::make(&["true"])?;
    let ours = binary("bulkhead-oci");
    let mut runtimes = vec![Runtime::new("bulkhead-oci", ours, &["--isolation", "host"], &bundle)];
    for peer in ["crun", "runc"] {
        let version = first_line(Command::new(peer).arg("--version"));
        if version == "not there" {
            let figure = format!("create, start and delete of `true`, {peer}");
            report.note(&figure, &format!("{peer} is not installed"));
        } else {
            let version = version.rsplit(' ').next().unwrap_or_default();
            runtimes.push(Runtime::new(&format!("{peer} {version}"), peer.into(), &[], &bundle));
        }
    }
    let mut lives: Vec<_> = runtimes.iter().map(|_| Lives::default()).collect();
    for round in 0..WARM_UP + rounds {
        for (runtime, lives) in runtimes.iter().zip(&mut lives) {
            let counts = round >= WARM_UP;
            let mut ignored = Lives::default();
            runtime.live(&bundle, if counts { lives } else { &mut ignored })?;
        }
    }
    let calls: Result<Vec<f64>, Reason> =
        runtimes.iter().map(|runtime| runtime.system_calls(&bundle)).collect();
    let columns = runtimes.iter().map(|runtime| runtime.name.clone()).collect();
    let title = format!(
        "`true` as a plain container (host isolation), {rounds} rounds in turns: median (10th to 90th percentile); {groups}"
    );
    let mut table = Table::new(&title, columns);
    let mut row = |what: &str, get: fn(&Lives) -> &Vec<f64>| {
        table.add(what, Unit::Milliseconds, lives.iter().map(|lives| get(lives).clone()).collect());
    };
    row("`create`", |lives| &lives.create);
    row("`start`", |lives| &lives.start);
    row("`delete`", |lives| &lives.delete);
    row("all three and the program's end", |lives| &lives.total);
    row("processor time of all processes, user and system", |lives| &lives.processor);
    match calls {
        Ok(calls) => {
            let calls = calls.into_iter().map(|count| vec![count]).collect();
            table.add("system calls of all processes (strace)", Unit::Count, calls);
        }
        Err(reason) => report.fail("system calls of create, start and delete", &reason),
    }
    report.add_table(table);
    Ok(())
}

impl Runtime {
    fn new(name: &str, program: PathBuf, arguments: &[&str], bundle: &Bundle) -> Self {
        let mut arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let root = format!("root-{}", name.split(' ').next().unwrap_or_default());
        arguments.extend(["--root".into(), bundle.beside(&root).into()]);
        Self { name: name.to_owned(), program, arguments }
    }

    /// A verb of the command line, under `prefix`.
    fn command(&self, bundle: &Bundle, prefix: &[OsString], verb: &str) -> Result<Command, Reason> {
        let mut words = prefix.to_vec();
        words.push(self.program.clone().into());
        words.extend(self.arguments.iter().cloned());
        words.push(verb.into());
        if verb == "create" {
            let pid_file = bundle.beside("pid");
            words.extend(["--bundle".into(), bundle.path().into(), "--pid-file".into()]);
            words.push(pid_file.into());
        }
        words.push("bulkhead-bench".into());
        let errors = bundle.beside("errors");
        let errors = File::create(&errors).map_err(|error| format!("a log: {error}"))?;
        let (program, rest) = words.split_first().ok_or("there is no command")?;
        let mut command = Command::new(program);
        command.args(rest).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        Ok(command)
    }

    fn spawn(&self, bundle: &Bundle, prefix: &[OsString], verb: &str) -> Result<Child, Reason> {
        let child = self.command(bundle, prefix, verb)?.spawn();
        child.map_err(|error| format!("{}: {error}", self.name))
    }

    fn run(&self, bundle: &Bundle, prefix: &[OsString], verb: &str) -> Result<(), Reason> {
        let ended = self.spawn(bundle, prefix, verb)?.wait();
        let ended = ended.map_err(|error| format!("{}: {error}", self.name))?;
        if ended.success() {
            return Ok(());
        }
        let said = fs::read_to_string(bundle.beside("errors")).unwrap_or_default();
        // What it has left must not be in the way of the next.
        let mut clean = Command::new(&self.program);
        clean.args(&self.arguments).args(["delete", "--force", "bulkhead-bench"]);
        let _ = clean.stdout(Stdio::null()).stderr(Stdio::null()).status();
        Err(format!("{} {verb}: {}", self.name, said.trim()))
    }

    /// A container's life from one end to the other.
    fn live(&self, bundle: &Bundle, lives: &mut Lives) -> Result<(), Reason> {
        let used = processor_time();
        let begin = Instant::now();
        self.run(bundle, &[], "create")?;
        let created = Instant::now();
        let pid = container(bundle).ok_or_else(|| format!("{} wrote no pid file", self.name))?;
        let starting = Instant::now();
        self.run(bundle, &[], "start")?;
        let started = Instant::now();
        let status = wait(pid)?;
        let ended = Instant::now();
        self.run(bundle, &[], "delete")?;
        let deleted = Instant::now();
        if status.exit_status() != Some(0) {
            return Err(format!("{}: `true` ended with {status:?}", self.name));
        }
        let add = |samples: &mut Vec<f64>, took: Duration| samples.push(1e3 * took.as_secs_f64());
        add(&mut lives.create, created - begin);
        add(&mut lives.start, started - starting);
        add(&mut lives.delete, deleted - ended);
        add(&mut lives.total, deleted - begin);
        add(&mut lives.processor, processor_time() - used);
        Ok(())
    }

    /// The system calls of a container's life, those of `true` included.
    fn system_calls(&self, bundle: &Bundle) -> Result<f64, Reason> {
        let log = |verb: &str| bundle.beside(&format!("calls-{verb}"));
        let strace = |verb: &str| -> Vec<OsString> {
            ["strace", "-f", "-c", "-S", "calls", "-o"]
                .into_iter()
                .map(OsString::from)
                .chain([log(verb).into(), "--".into()])
                .collect()
        };
        let _ = fs::remove_file(bundle.beside("pid"));
        // strace ends with the container, which it follows, too.
        let mut create = self.spawn(bundle, &strace("create"), "create")?;
        let deadline = Instant::now() + PATIENCE;
        while container(bundle).is_none() || self.status(bundle)? != "created" {
            if Instant::now() > deadline {
                let _ = create.kill();
                let said = fs::read_to_string(bundle.beside("errors")).unwrap_or_default();
                return Err(format!("{} create under strace: {}", self.name, said.trim()));
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.run(bundle, &strace("start"), "start")?;
        create.wait().map_err(|error| format!("strace: {error}"))?;
        self.run(bundle, &strace("delete"), "delete")?;
        let count = |verb: &str| {
            let text = fs::read_to_string(log(verb)).unwrap_or_default();
            calls(&text).ok_or_else(|| format!("{} {verb}: strace counted nothing", self.name))
        };
        Ok(count("create")? + count("start")? + count("delete")?)
    }

    fn status(&self, bundle: &Bundle) -> Result<String, Reason> {
        let mut command = self.command(bundle, &[], "state")?;
        let output = command.stdout(Stdio::piped()).stderr(Stdio::null()).output();
        let output = output.map_err(|error| format!("{}: {error}", self.name))?;
        let state: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Ok(state["status"].as_str().unwrap_or_default().to_owned())
    }
}

/// The pid in the file that `create` writes.
fn container(bundle: &Bundle) -> Option<Pid> {
    let text = fs::read_to_string(bundle.beside("pid")).ok()?;
    Pid::from_raw(text.trim().parse().ok()?)
}

/// The number of calls in the last line of `strace -c`: `100.00    0.531998         108      4912       391 total`.
fn calls(summary: &str) -> Option<f64> {
    let line = summary.lines().rev().find(|line| line.ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_in_straces_last_line() {
        let summary = "% time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
             96.03    0.000625           2       221           mmap\n\
            100.00    0.531998         108      4912       391 total\n";
        assert_eq!(calls(summary), Some(4912.0));
        assert_eq!(calls("strace: not permitted\n"), None);
    }
}
