//! The verbs with their flags, from which command lines are read and help is printed.

use std::fmt::Write;

use super::args::{Flag, Order, switch, value};

/// A verb.
#[derive(Debug)]
pub(super) struct Verb {
    pub(super) name: &'static str,
    /// What follows the flags.
    arguments: &'static str,
    about: &'static str,
    pub(super) flags: &'static [Flag],
    pub(super) order: Order,
    /// How many arguments it takes: at least, at most.
    pub(super) count: (usize, usize),
}

const ANY: usize = usize::MAX;
const ID: &str = "<container-id>";
const ISOLATION: Flag = value("isolation", "what isolates the container: 'vm' (default) or 'host'");
const TEMPLATE: Flag = value(
    "template",
    "whether a microVM is a clone of a template: 'auto' (default), 'never' or 'require'",
);
const TENANT: Flag =
    value("tenant", "use templates of this tenant only (default: the calling user)");

const CONSOLE: Flag =
    value("console-socket", "path of a Unix socket that gets the master of the process's terminal");
const PID_FILE: Flag = value("pid-file", "file that gets the process id");
const BUNDLE: Flag =
    value("bundle", "path of the bundle's directory, by default the current one").short("b");
const NO_PIVOT: Flag = switch("no-pivot", "enter the root without pivot_root(2)");
const NO_KEYRING: Flag = switch("no-new-keyring", "keep the caller's session keyring");
const PRESERVE: Flag = value(
    "preserve-fds",
    "pass N more file descriptors (standard streams, $LISTEN_FDS and N in all)",
);
const DETACH: Flag = switch("detach", "do not wait for the process").short("d");
const FORMAT: Flag = value("format", "'table' (default) or 'json'").short("f");

/// The flags before the verb.
pub(super) const GLOBALS: &[Flag] = &[
    switch("debug", "log more"),
    value("log", "log file (default: standard error)"),
    value("log-format", "'text' (default) or 'json'"),
    value("root", "directory of the containers' states (default: /run/bulkhead-oci)"),
    ISOLATION,
    TEMPLATE,
    TENANT,
    switch("systemd-cgroup", "cgroupsPath is slice:prefix:name (needs systemd)"),
    value("cgroup-manager", "'cgroupfs' (default), 'systemd' or 'disabled', as crun takes it"),
    value("rootless", "'true', 'false' or 'auto'"),
    value("criu", "accepted for runc's sake"),
    switch("help", "show help").short("h"),
    switch("version", "print the version").short("v"),
];

/// Those that every verb takes behind its name.
pub(super) const EVERYWHERE: &[Flag] =
    &[ISOLATION, TEMPLATE, TENANT, switch("help", "show help").short("h")];

/// A verb with nothing but a container's name.
const fn plain(name: &'static str, about: &'static str) -> Verb {
    Verb { name, arguments: ID, about, flags: &[], order: Order::Mixed, count: (1, 1) }
}

/// All verbs.
pub(super) static VERBS: &[Verb] = &[
    Verb { count: (0, ANY), flags: CHECKPOINT, ..plain("checkpoint", "not supported yet") },
    Verb { flags: CREATE, ..plain("create", "make a container, whose process waits for start") },
    Verb { flags: &[FORCE], ..plain("delete", "remove a container that has stopped") },
    Verb {
        flags: EVENTS,
        ..plain("events", "show what a container uses, and out-of-memory events")
    },
    Verb {
        arguments: "<container-id> <command> [arguments...]",
        flags: EXEC,
        order: Order::First,
        count: (1, ANY),
        ..plain("exec", "run one more process in a container")
    },
    Verb {
        arguments: "",
        count: (0, ANY),
        ..plain("features", "show what this runtime can do, as JSON")
    },
    Verb {
        arguments: "<container-id> [signal]",
        flags: &[ALL],
        count: (1, 2),
        ..plain("kill", "send a signal (default: SIGTERM) to a container's process")
    },
    Verb {
        arguments: "",
        flags: &[FORMAT, QUIET],
        count: (0, 0),
        ..plain("list", "list the containers of the state root")
    },
    plain("pause", "freeze all processes of a container"),
    Verb {
        arguments: "<container-id> [ps options]",
        flags: &[FORMAT],
        order: Order::First,
        count: (1, ANY),
        ..plain("ps", "show the processes of a container")
    },
    Verb { count: (0, ANY), flags: RESTORE, ..plain("restore", "not supported yet") },
    plain("resume", "thaw a paused container"),
    Verb { flags: RUN, ..plain("run", "create and start a container, wait for it, delete it") },
    Verb {
        arguments: "",
        flags: &[SPEC_BUNDLE, ROOTLESS],
        count: (0, 0),
        ..plain("spec", "write a config.json to begin with")
    },
    plain("start", "run the program of a created container"),
    plain("state", "print the state of a container, as JSON"),
    Verb { flags: UPDATE, ..plain("update", "change the limits of a container") },
];

const FORCE: Flag = switch("force", "kill it first if it runs (SIGKILL)").short("f");
const ALL: Flag = switch("all", "send the signal to all its processes").short("a");
const QUIET: Flag = switch("quiet", "names only").short("q");
const SPEC_BUNDLE: Flag = value("bundle", "path of the bundle's directory").short("b");
const ROOTLESS: Flag = switch("rootless", "for a container of a user who is not root");

const CREATE: &[Flag] = &[BUNDLE, CONSOLE, PID_FILE, NO_PIVOT, NO_KEYRING, PRESERVE];

const RUN: &[Flag] = &[
    BUNDLE,
    CONSOLE,
    DETACH,
    switch("keep", "do not delete the container when it has ended"),
    PID_FILE,
    switch("no-subreaper", "accepted for runc's sake: there is no process to adopt"),
    NO_PIVOT,
    NO_KEYRING,
    PRESERVE,
];

const EVENTS: &[Flag] = &[
    value("interval", "time between two lines (default: 5s)"),
    switch("stats", "one line, and no more"),
];

const EXEC: &[Flag] = &[
    CONSOLE,
    value("cwd", "working directory in the container"),
    value("env", "NAME=value, may be repeated").short("e"),
    switch("tty", "give the process a terminal").short("t"),
    value("user", "uid[:gid]").short("u"),
    value("additional-gids", "supplementary group, may be repeated").short("g"),
    value("process", "file with the process, in the form of config.json's").short("p"),
    DETACH,
    PID_FILE,
    value("process-label", "SELinux label of the process"),
    value("apparmor", "AppArmor profile of the process"),
    switch("no-new-privs", "no privileges are gained by execve"),
    value("cap", "add a capability, may be repeated").short("c"),
    PRESERVE,
    value("cgroup", "run in a cgroup below the container's"),
    switch("ignore-paused", "in a paused container, run when that is resumed"),
];

const UPDATE: &[Flag] = &[
    value(
        "resources",
        "file with linux.resources as JSON, '-' for standard input; other flags are ignored",
    )
    .short("r"),
    value("blkio-weight", "10 to 1000"),
    value("cpu-period", "microseconds"),
    value("cpu-quota", "microseconds in each period"),
    value("cpu-burst", "microseconds that unused time may add"),
    value("cpu-share", "relative weight"),
    value("cpu-rt-period", "microseconds, for realtime processes"),
    value("cpu-rt-runtime", "microseconds in each period, for realtime processes"),
    value("cpu-idle", "1: run only when nobody else wants to"),
    value("cpuset-cpus", "processors to use, as 0-3,7"),
    value("cpuset-mems", "memory nodes to use"),
    value("kernel-memory", "accepted for runc's sake: the kernel no longer has this limit"),
    value("kernel-memory-tcp", "accepted for runc's sake"),
    value("memory", "bytes, or with k, m, g; -1: no limit"),
    value("memory-reservation", "bytes, the soft limit"),
    value("memory-swap", "bytes of memory and swap together; -1: no limit"),
    value("pids-limit", "how many processes; -1: no limit"),
    value("l3-cache-schema", "Intel RDT, not supported"),
    value("mem-bw-schema", "Intel RDT, not supported"),
];

const CHECKPOINT: &[Flag] = &[
    value("image-path", ""),
    value("work-path", ""),
    value("parent-path", ""),
    switch("leave-running", ""),
    switch("tcp-established", ""),
    switch("ext-unix-sk", ""),
    switch("shell-job", ""),
    switch("lazy-pages", ""),
    value("status-fd", ""),
    value("page-server", ""),
    switch("file-locks", ""),
    switch("pre-dump", ""),
    value("manage-cgroups-mode", ""),
    value("empty-ns", ""),
    switch("auto-dedup", ""),
];

const RESTORE: &[Flag] = &[
    CONSOLE,
    BUNDLE,
    DETACH,
    PID_FILE,
    NO_PIVOT,
    switch("no-subreaper", ""),
    value("image-path", ""),
    value("work-path", ""),
    switch("tcp-established", ""),
    switch("ext-unix-sk", ""),
    switch("shell-job", ""),
    switch("file-locks", ""),
    value("manage-cgroups-mode", ""),
    value("empty-ns", ""),
    switch("auto-dedup", ""),
    switch("lazy-pages", ""),
    value("lsm-profile", ""),
    value("lsm-mount-context", ""),
];

/// The verb of this name.
pub(super) fn find(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}

impl Verb {
    /// Its help.
    pub(super) fn help(&self) -> String {
        let Verb { name, about, arguments, .. } = self;
        let options = if self.flags.is_empty() { "" } else { " [command options]" };
        let mut text = format!(
            "NAME:\n   bulkhead-oci {name} - {about}\n\nUSAGE:\n   bulkhead-oci {name}{options} {arguments}\n\nOPTIONS:\n"
        );
        flags(&mut text, self.flags);
        flags(&mut text, EVERYWHERE);
        text
    }
}

/// The help of all.
pub(super) fn help() -> String {
    let mut text = "NAME:\n   bulkhead-oci - an OCI runtime whose containers run in microVMs, with runc's command line\n\n\
                    USAGE:\n   bulkhead-oci [global options] command [command options] [arguments...]\n\n\
                    COMMANDS:\n"
        .to_owned();
    for Verb { name, about, .. } in VERBS {
        // A string takes all that is written to it.
        let _ = writeln!(text, "   {name:<12}{about}");
    }
    text.push_str("\nGLOBAL OPTIONS:\n");
    flags(&mut text, GLOBALS);
    text
}

fn flags(text: &mut String, list: &[Flag]) {
    for flag in list {
        let value = if flag.value { " value" } else { "" };
        let short = flag.short.map_or(String::new(), |short| format!(", -{short}{value}"));
        let names = format!("--{}{value}{short}", flag.name);
        // As above.
        let _ = writeln!(text, "   {names:<34}{}", flag.help);
    }
}
