//! A container's streams: a client's pipes, a terminal, files, programs that log, and readers that do not come.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
};

use bulkhead_tests::harness::{Terminal, containerd::Containerd, oci::Oci, own_memory};
use containerd_shim_protos::api::StateRequest;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
};

isolations!(
    in_the_foreground,
    go_where_they_are_wanted,
    wait_for_their_reader,
    are_whole_however_late_they_are_read,
);

/// Standard input to its end, both outputs, and a terminal of some size.
fn in_the_foreground(oci: &Oci) {
    let containerd = Containerd::new(oci);
    let words = ["sh", "-c", "echo ready; cat; echo problem >&2; exit 23"];
    let mut run = oci.start_command(containerd.run_command(&["--rm"], "streams", &words));
    // `ctr` forgets to close the input of a container that is not started yet.
    run.wait_for("ready");
    run.feed(b"through standard input\n".to_vec());
    let outcome = run.wait();
    outcome.assert_code(23);
    assert_eq!(outcome.text(), "ready\nthrough standard input\n");
    assert!(outcome.error_text().starts_with("problem\n"), "{outcome}");
    let script = "tty; read line; until stty size | grep '37 91'; do sleep 0.1; done 2>/dev/null; echo got $line; exit 9";
    let command = containerd.run_command(&["--rm", "--tty"], "terminal", &["sh", "-c", script]);
    let mut terminal = Terminal::of(&command, 37, 91);
    terminal.wait_for("/dev/");
    terminal.type_keys("typed\n");
    terminal.wait_for("37 91");
    terminal.wait_for("got typed");
    assert_eq!(terminal.wait().code(), Some(9), "{}", terminal.screen());
}

/// A file that is made with its directory, and a program that is told whose output it gets.
fn go_where_they_are_wanted(oci: &Oci) {
    let containerd = Containerd::new(oci);
    let file = oci.path("logs/here/file.log");
    let url = format!("file://{}", file.display());
    let script = "echo out; echo err >&2";
    containerd.detached(&["--log-uri", &url], "file", script);
    containerd.wait_for_state("file", "STOPPED");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("out\n") && text.contains("err\n"), "{text}");
    containerd.remove("file");
    let (program, log) = (oci.path("logger"), oci.path("logged"));
    let text = format!(
        "#!/bin/sh\nexec 5>&-\n{{ echo $CONTAINER_ID $1=$2; cat <&3; cat <&4; echo end; }} >{}\n",
        log.display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let url = format!("binary://{}?name=value", program.display());
    containerd.detached(&["--log-uri", &url], "logger", script);
    let read = || fs::read_to_string(&log).unwrap_or_default();
    oci.wait("the log's end", || read().ends_with("end\n"));
    assert_eq!(read(), "logger name=value\nout\nerr\nend\n");
    containerd.remove("logger");
}

/// More output than a pipe holds, and nobody who reads it: the program waits, the shim does not grow, and who attaches later gets all.
fn wait_for_their_reader(oci: &Oci) {
    const LENGTH: usize = 400_000;
    let containerd = Containerd::new(oci);
    let script = format!(
        "until [ -e /go ]; do sleep 0.1; done; head -c {LENGTH} /dev/zero | tr '\\0' x; echo; touch /written; echo end; sleep 1000"
    );
    containerd.detached(&[], "writer", &script);
    containerd.exec("go", "writer", "touch /go").assert_code(0);
    let resident = || own_memory(containerd.shim_pid("writer"));
    if oci.is_bulkhead() {
        assert!(resident() < 8 << 10, "{} KiB", resident());
    }
    let blocked = containerd.exec("look", "writer", "[ -e /written ]");
    assert_eq!(blocked.code(), 1, "more than a pipe is written: {blocked}");
    let mut attached = oci.start_command(containerd.command(&["task", "attach", "writer"]));
    attached.wait_for("end\n");
    containerd.run(&["task", "kill", "--signal", "SIGKILL", "writer"]);
    let outcome = attached.wait();
    let count = outcome.stdout.iter().filter(|byte| **byte == b'x').count();
    assert_eq!(count, LENGTH);
    // The task went with `attach`.
    containerd.text(&["container", "rm", "writer"]);
    // One whose last output nobody takes can be killed all the same.
    containerd.detached(
        &[],
        "unread",
        "until [ -e /go ]; do sleep 0.1; done; head -c 400000 /dev/zero",
    );
    containerd.exec("go", "unread", "touch /go").assert_code(0);
    containerd.remove("unread");
}

/// Many times what is on the way from a program to a fifo, whose reader sleeps first: the program waits, nobody grows meanwhile or afterwards, and
/// each byte comes once, in its place.
fn are_whole_however_late_they_are_read(oci: &Oci) {
    // Each has eight digits and a newline: 64 MiB. In a microVM a guest kernel may be interpreted that moves a quarter of a MiB in a second; these 4 MiB
    // are many times what is on the way there, too.
    let lines: u32 = if oci.is_vm() { 466_034 } else { 7_456_541 };
    const FIRST: u32 = 10_000_000;
    let containerd = Containerd::new(oci);
    let script = format!(
        "until [ -e /go ]; do sleep 0.1; done; seq {FIRST} {}; touch /written; exit 3",
        FIRST + lines - 1
    );
    containerd.detached(&[], "writer", &script);
    let shim = containerd.shim("writer");
    let asked = StateRequest { id: "writer".into(), ..StateRequest::default() };
    let state = shim.state(&asked).unwrap();
    let mut reader = Patient(oci, open_waiting(&state.stdout));
    let processes = [containerd.shim_pid("writer"), containerd.task("writer").unwrap().0];
    let memory = || processes.map(own_memory);
    containerd.exec("go", "writer", "touch /go").assert_code(0);
    // A pipe holds 64 KiB, which may not be full to the last byte.
    oci.wait("a full fifo", || waiting(&reader.1) > 60_000);
    let blocked = containerd.exec("look", "writer", "[ -e /written ]");
    assert_eq!(blocked.code(), 1, "more than a pipe is written: {blocked}");
    let before = memory();
    let mut most = before;
    let mut reader = BufReader::with_capacity(1 << 16, &mut reader);
    let mut line = String::new();
    for number in FIRST..FIRST + lines {
        line.clear();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end().parse(), Ok(number), "{line:?}");
        if number % 100_000 == 0 {
            most = [0, 1].map(|at| most[at].max(memory()[at]));
        }
    }
    containerd.wait_for_state("writer", "STOPPED");
    assert_eq!(reader.read_line(&mut line).unwrap(), 0, "{line:?}");
    let grown = [0, 1].map(|at| most[at] - before[at]);
    println!("grown by {grown:?} KiB from {before:?} KiB");
    if oci.is_bulkhead() {
        assert!(grown.iter().all(|grown| *grown < 1024), "{grown:?} KiB from {before:?} KiB");
    }
    let removed = containerd.run(&["task", "rm", "writer"]);
    assert!(removed.error_text().contains("exit code 3"), "{removed}");
    containerd.text(&["container", "rm", "writer"]);
}

/// A fifo's reading end that does not wait for a writer.
fn open_waiting(path: &str) -> File {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).unwrap().into()
}

/// Bytes that are there to be read.
fn waiting(fifo: &File) -> u64 {
    rustix::io::ioctl_fionread(fifo).unwrap()
}

/// Waits for what is not there yet, as long as anything in a test.
struct Patient<'a>(&'a Oci, File);

impl Read for Patient<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let Self(oci, file) = self;
        oci.wait("more output", || {
            let mut fds = [PollFd::new(file, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
        });
        file.read(space)
    }
}
