//! Arguments of `bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::{
    bench::{
        isolation::Profile,
        stage::{Mode, Peer},
    },
    settings::Isolation,
    size::MemorySize,
};

const EXIT_CODES: &str = "\
EXIT CODES
  0        everything was measured
  1        something failed, or a start was not what it should be; one line on standard error says why, and nothing is reported
  125      the command line is wrong
  130      Ctrl-C; like every other end, it leaves nothing behind

FILES
  docs/bench.md describes the JSON file. The HTML page needs nothing but itself.";

const STARTUP: &str = "\
Measure starts of one bundle under all runtimes in turns.

One bundle is made of IMAGE and made, started, ended and deleted with runc's command line under each runtime, A B C A B C …, so that whatever drifts on the host \
hits all alike: a microVM that boots, a microVM cloned of a template, a plain container (bulkhead-oci --isolation host), and every peer. Its program is \
a stamp of bulkhead's own, whose first instructions read the clocks and which then becomes CMD, looked for in the image's PATH; without CMD it ends. What CMD writes is dropped.

Every run proves itself: the stamp lies in the measured interval, each clone's guest holds the nonce that was planted in the bench's own template, and \
no guest that booted holds one. A run that cannot prove it is an error and no number.

Needs root. Times are the host's; guest-kernel instructions are counted where KVM interprets the guest's kernel.

  bulkhead bench startup debian
  bulkhead bench startup -n 50 --peer runc=runc --peer crun=/usr/bin/crun --json new.json --html new.html debian
  bulkhead bench startup --mode clone --mode host --at-once 1,2,4,8 debian true";

const DENSITY: &str = "\
Start idle containers until a limit, and measure what each takes.

Containers whose program waits are started, one after the other or K at once, and left alone, until there are MAX, or they have taken SIZE of the host's memory, or the \
host has no more than a twentieth of its memory left, or the next one is refused. Then each one's memory and processor time is measured, and what one \
more costs is reckoned. Everything is removed, also after Ctrl-C. Needs root.

  bulkhead bench density --limit-memory 4g debian
  bulkhead bench density -n 20 --mode clone,host --json density.json --html density.html debian
  bulkhead bench density -n 10000 --at-once 2 --settle 60 --watch 300 --limit-memory 20g debian";

const SHOW: &str = "\
Show a report that a bench kept with --json, and draw its page with --html.

  bulkhead bench show --html startup.html startup.json";

const COMPARE: &str = "\
Say what changed between two reports, and whether it is noise.

For each measure that is in both, the medians, the change with its 95 % interval (percentile bootstrap), and the chance p that noise alone makes such a \
difference: a Mann-Whitney U test, two-sided, which assumes no distribution, with Holm's correction for the number of measures. What has p below 0.05 and \
medians 1 % or more apart has changed; all else is noise. Compare reports of one host only: where the hosts differ, that is said first.

  bulkhead bench compare old.json new.json";

const COMPARE_CODES: &str = "\
EXIT CODES
  0        nothing has become worse
  1        a file cannot be read, or is no report
  2        something has become worse
  125      the command line is wrong";

/// The benches.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Measure starts of one bundle under all runtimes in turns
    #[command(long_about = STARTUP, after_long_help = EXIT_CODES)]
    Startup(StartupArgs),
    /// Start idle containers until a limit, and measure what each takes
    #[command(long_about = DENSITY, after_long_help = EXIT_CODES)]
    Density(DensityArgs),
    /// Say what changed between two reports, and whether it is noise
    #[command(long_about = COMPARE, after_long_help = COMPARE_CODES)]
    Compare(CompareArgs),
    /// See what a hostile program in a container could see and reach
    Isolation(IsolationArgs),
    /// Measure a container's files and streams
    Io(IoArgs),
    /// Measure a container's network
    Net(NetArgs),
    /// Show a report that was kept as JSON
    #[command(long_about = SHOW)]
    Show(ShowArgs),
}

/// Where a report goes, beside the terminal.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Keep everything, each sample included, in FILE
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw a page of it in FILE
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Arguments of `bench startup`.
#[derive(Debug, Args)]
pub struct StartupArgs {
    /// Starts of each runtime that count
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub runs: u32,
    /// Starts of each before them that do not
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(..=1000))]
    pub warm_up: u32,
    /// Measure the memory of so many idle containers of each
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(..=1000))]
    pub memory_runs: u32,
    /// Bulkhead's own modes: cold, clone, host [default: all that this host can]
    #[arg(long, value_name = "MODE", value_delimiter = ',')]
    pub mode: Vec<Mode>,
    /// Another runtime with runc's command line, by its path or its name in the PATH
    #[arg(long, value_name = "NAME=PATH")]
    pub peer: Vec<Peer>,
    /// Also measure how many lives a second so many at once make
    #[arg(long, value_name = "K,…", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=256))]
    pub at_once: Vec<u16>,
    /// Seconds that a verb of a runtime, or the program, may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// Where the report goes
    #[command(flatten)]
    pub output: OutputArgs,
    /// A name in the store, oci:DIR[:TAG] or docker-archive:FILE
    pub image: String,
    /// What the stamp becomes
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Arguments of `bench isolation`.
#[derive(Debug, Args)]
#[command(after_long_help = EXIT_CODES, long_about = "\
See what a hostile program in a container could see and reach.

One small program, the scout, looks around as root in a container of IMAGE under each isolation, and makes attempts to get out of it that harm nothing even \
where they succeed: they end at the check of permissions, or open and close. Things that are put on the host tell what is the host's. While the scout does what an ordinary \
program does, the system calls are counted that the container's processes (of a microVM: its monitor and VMM) make on the host.

Needs root. docs/security.md tells how to read the table.

  bulkhead bench isolation debian
  bulkhead bench isolation --peer runc=runc --html isolation.html debian
  bulkhead bench isolation --isolation host --profile default debian")]
pub struct IsolationArgs {
    /// Only this isolation of bulkhead's own
    #[arg(long, value_name = "ISOLATION", value_delimiter = ',')]
    pub isolation: Vec<Isolation>,
    /// Only with these rights
    #[arg(long, value_name = "PROFILE", value_delimiter = ',')]
    pub profile: Vec<Profile>,
    /// Another runtime with runc's command line, by its path or its name in the PATH
    #[arg(long, value_name = "NAME=PATH")]
    pub peer: Vec<Peer>,
    /// Seconds that a verb of a runtime, or an answer of the scout, may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// Where the report goes
    #[command(flatten)]
    pub output: OutputArgs,
    /// A name in the store, oci:DIR[:TAG] or docker-archive:FILE
    pub image: String,
}

/// Arguments of `bench net`.
#[derive(Debug, Args)]
#[command(after_long_help = EXIT_CODES, long_about = "\
Measure a container's network beside a veth alone.

One container of IMAGE runs under each isolation, each in a network namespace of its own with a veth, and in turns they receive and send bytes over TCP, \
exchange single bytes over TCP and UDP, and connect, with a peer at the other end of the veth. A plain container has nothing but the veth; a microVM has a tap beside it and a \
virtio network card. Beside rates and round trips there are the guest-kernel instructions and the Ethernet frames that each took (one may be many TCP segments), and the processor time of the \
container's processes on the host. Nothing of the host's own network is touched.

Needs root. Sizes are small because an interpreted guest moves less than a megabyte a second; with hardware KVM take larger ones.

  bulkhead bench net debian
  bulkhead bench net --size 1g --count 10000 -n 10 --json net.json debian")]
pub struct NetArgs {
    /// Times that each step is done
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rounds: u64,
    /// Bytes that are sent at once (suffixes b, k, m, g)
    #[arg(long, value_name = "SIZE", default_value = "256k")]
    pub size: MemorySize,
    /// Bytes that go there and back, and connections
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub count: u64,
    /// Only this isolation
    #[arg(long, value_name = "ISOLATION", value_delimiter = ',')]
    pub isolation: Vec<Isolation>,
    /// Seconds that a step may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// Where the report goes
    #[command(flatten)]
    pub output: OutputArgs,
    /// A name in the store
    pub image: String,
}

/// Arguments of `bench io`.
#[derive(Debug, Args)]
#[command(after_long_help = EXIT_CODES, long_about = "\
Measure a container's files and streams.

One container of IMAGE runs under each isolation, and in turns they read the image's files, write to their layer, read and write a shared directory, make, \
look at and remove small files, and take and give bytes and lines on their standard streams. Beside the rates there are the guest-kernel instructions and \
the requests to devices that each operation took, and the processor time of all processes on the host.

Sizes are small because an interpreted guest reads little more than a megabyte a second; with hardware KVM take larger ones.

  bulkhead bench io debian
  bulkhead bench io --size 64m --count 1000 -n 10 --json io.json debian")]
pub struct IoArgs {
    /// Times that each step is done
    #[arg(short = 'n', long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rounds: u64,
    /// Bytes that are read and written at once (suffixes b, k, m, g)
    #[arg(long, value_name = "SIZE", default_value = "256k")]
    pub size: MemorySize,
    /// Small files that are made, and lines that are exchanged
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub count: u64,
    /// Only this isolation
    #[arg(long, value_name = "ISOLATION", value_delimiter = ',')]
    pub isolation: Vec<Isolation>,
    /// Seconds that a step may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// Where the report goes
    #[command(flatten)]
    pub output: OutputArgs,
    /// A name in the store
    pub image: String,
}

/// Arguments of `bench show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Draw a page of it in FILE
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// What --json wrote
    pub report: PathBuf,
}

/// Arguments of `bench density`.
#[derive(Debug, Args)]
pub struct DensityArgs {
    /// The most containers of each mode
    #[arg(short = 'n', long = "max", value_name = "MAX", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub most: u32,
    /// Memory of the host that they may take (suffixes b, k, m, g)
    #[arg(long, value_name = "SIZE")]
    pub limit_memory: Option<MemorySize>,
    /// Start so many side by side
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub at_once: u16,
    /// Leave them alone for so many seconds before each is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(..=3600))]
    pub settle: u64,
    /// Watch their processor time for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub watch: u64,
    /// Kinds of containers, one after the other: cold, clone, host
    #[arg(long, value_name = "MODE", value_delimiter = ',', default_value = "clone")]
    pub mode: Vec<Mode>,
    /// Seconds that a verb may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// Where the report goes
    #[command(flatten)]
    pub output: OutputArgs,
    /// A name in the store, oci:DIR[:TAG] or docker-archive:FILE
    pub image: String,
}

/// Arguments of `bench compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// What --json wrote before
    pub old: PathBuf,
    /// What --json wrote after
    pub new: PathBuf,
}
