//! Arguments of the verbs that work on containers which are there.

use clap::Args;

/// Containers.
#[derive(Debug, Args)]
pub struct Names {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

pub(super) const START_ABOUT: &str = "\
Start containers that do not run, with their writable layers as they were left, and print what they were called here. \
With -a, join the output of one container and give the exit code of its program.";

/// Arguments of `start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Join the container's output, and wait for its end
    #[arg(short, long)]
    pub attach: bool,
    /// Give it standard input too; implies -a. The container must have been made with -i
    #[arg(short, long)]
    pub interactive: bool,
    /// Which
    #[command(flatten)]
    pub names: Names,
}

pub(super) const EXEC_ABOUT: &str = "\
Run another program in a running container. It has the container's environment, user, working directory and limits, unless told otherwise, \
and its exit code is this command's: 126 if it cannot be executed, 127 if it is not there.

  bulkhead exec web ls /srv
  bulkhead exec -it -u www-data web sh";

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Do not wait for the program
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    pub detach: bool,
    /// Give the program this standard input
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set an environment variable; NAME alone takes its value from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// The user, and the group, by number or by a name that the image knows
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// The working directory in the container
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// A name or id
    pub container: String,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub command: Vec<String>,
}

/// Arguments of `ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Those that do not run, too
    #[arg(short, long)]
    pub all: bool,
    /// Print only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// The newest container only, running or not
    #[arg(short, long)]
    pub latest: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Print whole ids and commands
    #[arg(long)]
    pub no_trunc: bool,
}

pub(super) const LOGS_ABOUT: &str = "\
Show what a container wrote: its standard output on standard output, its standard error on standard error.

TIME is 2026-01-02T03:04:05Z, 2026-01-02T03:04:05+01:00, 2026-01-02 03:04 or 2026-01-02 in this host's time zone, seconds since 1970, or how long ago: 90s, 1h30m.";

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Go on until the container ends
    #[arg(short, long)]
    pub follow: bool,
    /// Nothing before this
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Nothing from this on
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only so many lines at the end, or all
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", value_parser = parse_tail)]
    pub tail: Tail,
    /// Begin each line with when it was written
    #[arg(short, long)]
    pub timestamps: bool,
    /// A name or id
    pub container: String,
}

/// How many lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail(pub Option<usize>);

fn parse_tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" | "-1" => Ok(Tail(None)),
        _ => text
            .parse()
            .map(|lines| Tail(Some(lines)))
            .map_err(|_| "a number of lines or all is needed".into()),
    }
}

pub(super) const STOP_ABOUT: &str = "\
Ask containers to end, with their stop signal, and kill those that have not after some seconds.";

/// Arguments of `stop`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Seconds to wait
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS", default_value_t = 10)]
    pub time: u64,
    /// Which
    #[command(flatten)]
    pub names: Names,
}

/// Arguments of `restart`.
#[derive(Debug, Args)]
pub struct RestartArgs {
    /// Seconds to wait before a container is killed
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS", default_value_t = 10)]
    pub time: u64,
    /// Which
    #[command(flatten)]
    pub names: Names,
}

/// Arguments of `kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub signal: String,
    /// Which
    #[command(flatten)]
    pub names: Names,
}

/// Arguments of `rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Kill those that run
    #[arg(short, long)]
    pub force: bool,
    /// Which
    #[command(flatten)]
    pub names: Names,
}

pub(super) const INSPECT_ABOUT: &str = "\
Show all that is known of containers, as JSON.

With -f, print TEXT instead, in which {{.State.ExitCode}} stands for that field and {{json .State}} for its JSON.";

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Print this with fields filled in
    #[arg(short, long, value_name = "TEXT")]
    pub format: Option<String>,
    /// Which
    #[command(flatten)]
    pub names: Names,
}

pub(super) const CP_ABOUT: &str = "\
Copy files between a container, running or not, and this host. One of the two is CONTAINER:PATH; the other is a path here, or - for a tar archive on \
standard input or output. Symbolic links in the container never lead out of it.

  bulkhead cp web:/etc/hosts .
  bulkhead cp page.html web:/srv/
  tar c . | bulkhead cp - web:/srv";

/// Arguments of `cp`.
#[derive(Debug, Args)]
pub struct CpArgs {
    /// Keep users and groups as numbers
    #[arg(short, long)]
    pub archive: bool,
    /// Copy what a symbolic link leads to
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// CONTAINER:PATH, PATH or -
    pub source: String,
    /// CONTAINER:PATH, PATH or -
    pub destination: String,
}

/// Arguments of `top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// A name or id
    pub container: String,
}

/// Arguments of `stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Once, and not again and again
    #[arg(long)]
    pub no_stream: bool,
    /// Print JSON, a line for each time
    #[arg(long)]
    pub json: bool,
    /// Names or ids; all that run otherwise
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

pub(super) const ATTACH_ABOUT: &str = "\
Join a running container's standard streams, from now on. Ctrl-P Ctrl-Q leaves a container with a terminal running. The exit code is that of the container's program.";

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Give it no standard input
    #[arg(long)]
    pub no_stdin: bool,
    /// Signals to this command are for the container's program
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub sig_proxy: bool,
    /// A name or id
    pub container: String,
}

/// Arguments of `rename`.
#[derive(Debug, Args)]
pub struct RenameArgs {
    /// A name or id
    pub container: String,
    /// The new name
    pub name: String,
}
