//! The command line of `bulkhead`, as clap reads it and `--help` shows it.

mod bench;
mod container;
mod template;
mod verbs;

use clap::{Args, Parser, Subcommand};

pub use bench::{
    BenchCommand, CompareArgs, DensityArgs, IoArgs, IsolationArgs, NetArgs, OutputArgs, ShowArgs,
    StartupArgs,
};
pub use container::{ContainerArgs, CreateArgs, RunArgs};
pub use template::{TemplateCommand, TemplateCreateArgs};
pub use verbs::{
    AttachArgs, CpArgs, ExecArgs, InspectArgs, KillArgs, LogsArgs, Names, PsArgs, RenameArgs,
    RestartArgs, RmArgs, StartArgs, StatsArgs, StopArgs, TopArgs,
};

const EXIT_CODES: &str = "\
EXIT CODES
  The code of the container's program, and otherwise, as docker's:
  125      bulkhead itself failed; one line on standard error says why
  126      the program cannot be executed
  127      the program was not found
  128+N    signal N ended the program (137: killed, also when out of memory)

FILES AND ENVIRONMENT
  Each setting comes from its environment variable, else from /etc/bulkhead/config.toml
  (the key is the name after BULKHEAD_, in small letters), else from its default.
  BULKHEAD_DATA          images and containers            [/var/lib/bulkhead]
  BULKHEAD_RUN           state of running containers      [/run/bulkhead]
  BULKHEAD_ISOLATION     vm or host                       [vm]
  BULKHEAD_KERNEL        the guest's kernel               [vmlinux]
  BULKHEAD_INITRD        the guest's agent                [bulkhead-initrd.cpio]
  BULKHEAD_VMM           the virtual machine monitor      [bulkhead-vmm]
  BULKHEAD_STAMP         what a bench runs in containers  [bulkhead-stamp]
  BULKHEAD_TEMPLATE      auto, never or require           [auto]
  BULKHEAD_TEMPLATES     templates of microVMs            [/var/lib/bulkhead/templates]
  BULKHEAD_ADMISSION     start, whole or off              [start]
  BULKHEAD_BOOT_TIMEOUT  seconds a guest has to answer    [180]
  BULKHEAD_KVM           auto, hardware or software       [auto]
  The two of templates are `mode` and `directory` in the file's section [template], where `max` is how many are kept [16].
  Whether there is memory for a microVM is `mode` in [admission]; BULKHEAD_ADMISSION_RESERVE (`reserve`) stays free, BULKHEAD_ADMISSION_START (`start`) is needed.
  The kernel, the agent, the VMM and the bench's stamp are looked for beside this program, then in /usr/lib/bulkhead.";

/// Runs OCI containers, each in its own microVM.
///
/// Every container boots in a minimal KVM virtual machine with a kernel of its own; with `--isolation host` it runs on this host's kernel instead. An image
/// comes from an OCI image layout (`oci:DIR[:TAG]`) or from a docker archive (`docker-archive:FILE`). A container is named by its name, its id or the
/// start of its id.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, after_long_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program of an image in a new container
    #[command(long_about = container::RUN_ABOUT, after_long_help = EXIT_CODES)]
    Run(Box<RunArgs>),
    /// Make a container without starting it
    #[command(long_about = container::CREATE_ABOUT)]
    Create(Box<CreateArgs>),
    /// Start containers that do not run
    #[command(long_about = verbs::START_ABOUT)]
    Start(StartArgs),
    /// Run another program in a running container
    #[command(long_about = verbs::EXEC_ABOUT)]
    Exec(ExecArgs),
    /// List containers
    #[command(visible_alias = "ls")]
    Ps(PsArgs),
    /// Show what a container wrote
    #[command(long_about = verbs::LOGS_ABOUT)]
    Logs(LogsArgs),
    /// Ask containers to end, and kill those that do not
    #[command(long_about = verbs::STOP_ABOUT)]
    Stop(StopArgs),
    /// Send a signal to containers
    Kill(KillArgs),
    /// Stop and start containers
    Restart(RestartArgs),
    /// Remove containers
    Rm(RmArgs),
    /// Show all that is known of containers, as JSON
    #[command(long_about = verbs::INSPECT_ABOUT)]
    Inspect(InspectArgs),
    /// Copy files between a container and this host
    #[command(long_about = verbs::CP_ABOUT)]
    Cp(CpArgs),
    /// List the processes of a container
    Top(TopArgs),
    /// Show what containers use
    Stats(StatsArgs),
    /// Wait until containers end, and print their exit codes
    Wait(Names),
    /// Join a running container's standard streams
    #[command(long_about = verbs::ATTACH_ABOUT)]
    Attach(AttachArgs),
    /// Give a container another name
    Rename(RenameArgs),
    /// Freeze all processes of containers
    Pause(Names),
    /// Let frozen containers go on
    Unpause(Names),
    /// Import, list and remove images
    #[command(subcommand, arg_required_else_help = true)]
    Image(ImageCommand),
    /// Make, list and remove templates, of which microVMs are clones
    #[command(subcommand, arg_required_else_help = true)]
    Template(TemplateCommand),
    /// Measure what isolation costs, and see that it is there
    #[command(subcommand, arg_required_else_help = true)]
    Bench(BenchCommand),
    /// Keep a container (for this program itself)
    #[command(hide = true)]
    Keeper(KeeperArgs),
}

/// Arguments of the keeper.
#[derive(Debug, Args)]
pub struct KeeperArgs {
    /// Be the keeper and not its guardian
    #[arg(long)]
    pub keep: bool,
    /// The container
    pub id: String,
}

/// How a timeline is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TimelineFormat {
    /// A table for people
    Table,
    /// One line of JSON
    Json,
}

/// The verbs of `image`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Bring an image into the store
    #[command(long_about = "\
Bring an image into the store.

SOURCE is oci:DIR[:TAG], an OCI image layout, or docker-archive:FILE, what `docker save` writes. Each layer becomes a \
read-only block image; nothing of it is unpacked on this machine, and what is there already is not made again. \
The image's id is printed.")]
    Import {
        /// Name it so; otherwise it is named after the source's tag or directory
        #[arg(long, short, value_name = "NAME[:TAG]")]
        name: Option<String>,
        /// Print nothing but the id
        #[arg(long, short)]
        quiet: bool,
        /// oci:DIR[:TAG] or docker-archive:FILE
        source: String,
    },
    /// List the images in the store
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Print only ids
        #[arg(long, short)]
        quiet: bool,
    },
    /// Remove images, and the layers that no other image uses
    Rm {
        /// Names or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
}
