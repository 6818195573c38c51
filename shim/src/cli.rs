//! The command line of `bulkhead`, as clap reads it and `--help` shows it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::size::MemorySize;

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
  BULKHEAD_DATA          images and writable layers       [/var/lib/bulkhead]
  BULKHEAD_RUN           state of running containers      [/run/bulkhead]
  BULKHEAD_KERNEL        the guest's kernel               [vmlinux]
  BULKHEAD_INITRD        the guest's agent                [bulkhead-initrd.cpio]
  BULKHEAD_VMM           the virtual machine monitor      [bulkhead-vmm]
  BULKHEAD_BOOT_TIMEOUT  seconds a guest has to answer    [180]
  BULKHEAD_KVM           auto, hardware or software       [auto]
  The last three files are looked for beside this program, then in /usr/lib/bulkhead.";

/// Runs OCI containers, each in its own microVM.
///
/// Every container boots in a minimal KVM virtual machine with a kernel of its own. An image comes from an OCI image
/// layout (`oci:DIR[:TAG]`) or from a docker archive (`docker-archive:FILE`).
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
    /// Run a program of an image in a new microVM
    Run(Box<RunArgs>),
    /// Import, list and remove images
    #[command(subcommand, arg_required_else_help = true)]
    Image(ImageCommand),
}

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_long_help = EXIT_CODES, long_about = "\
Run a program of an image in a new microVM.

The image's entry point, command, environment, user, working directory and stop signal are honoured as docker does. \
Standard input is given to the program with -i, a terminal with -t. The container, its writable layer and its microVM \
are gone when the program ends.

  bulkhead run oci:images/debian uname -a
  tar c . | bulkhead run -i debian tar t
  bulkhead run -it --memory 512m --cpus 2 debian bash")]
pub struct RunArgs {
    /// Give the program this standard input; without it, its input is empty
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Remove the container when it ends (the container is removed without it too: there is no way to start it again yet)
    #[arg(long)]
    pub rm: bool,
    /// Set an environment variable; NAME alone takes its value from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// The working directory in the container
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// The user, and the group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// The container's name; two running containers cannot share one
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The microVM's memory (suffixes b, k, m, g); the container gets what the guest's kernel leaves of it
    #[arg(long, short, value_name = "SIZE", default_value = "256m")]
    pub memory: MemorySize,
    /// CPUs: the microVM has as many, rounded up, and the container's share of them is limited to this
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_cpus)]
    pub cpus: f64,
    /// The largest size of the container's writable layer
    #[arg(long, value_name = "SIZE", default_value = "10g")]
    pub disk_size: MemorySize,
    /// Mount the container's root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// Mount a tmpfs, with mount options such as size=16m,mode=1777
    #[arg(long, value_name = "DIR[:OPTIONS]")]
    pub tmpfs: Vec<String>,
    /// The container's host name
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Run this program instead of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// The signal that asks the program to end when this terminal closes
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Boot this kernel: an ELF vmlinux
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Append the guest's console to this file, for debugging (slows the start down)
    #[arg(long, value_name = "FILE")]
    pub console_log: Option<PathBuf>,
    /// Say on standard error, when the program has ended, how long each step of the start took
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "table")]
    pub timeline: Option<TimelineFormat>,
    /// The image: a name from `bulkhead image ls`, an image's id, oci:DIR[:TAG] or docker-archive:FILE
    pub image: String,
    /// The program and its arguments instead of the image's command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
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

fn parse_cpus(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(cpus) if (0.01..=8.0).contains(&cpus) => Ok(cpus),
        _ => Err("a number from 0.01 to 8 is needed".into()),
    }
}
