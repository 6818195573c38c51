//! Arguments of `run` and `create`.

use std::path::PathBuf;

use clap::Args;

use super::TimelineFormat;
use crate::{cni::Port, settings::Isolation, size::MemorySize, template::Mode};

pub(super) const RUN_ABOUT: &str = "\
Run a program of an image in a new container.

The image's entry point, command, environment, user, working directory and stop signal are honoured as docker does. \
Standard input is given to the program with -i, a terminal with -t; Ctrl-P Ctrl-Q leaves a container with a terminal running. \
The container stays when its program has ended, with what it wrote, until it is removed; with --rm it goes at once. \
A container whose program could not be started goes in any case.

  bulkhead run --rm oci:images/debian uname -a
  tar c . | bulkhead run --rm -i debian tar t
  bulkhead run -it --memory 512m --cpus 2 debian bash
  bulkhead run -d --name web -p 8080:80 busybox httpd -f -p 80 && bulkhead logs -f web";

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Leave the container running and print its id
    #[arg(short, long, conflicts_with = "timeline")]
    pub detach: bool,
    /// Say on standard error, when the program has ended, how long each step of the start took
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "table")]
    pub timeline: Option<TimelineFormat>,
    /// The container
    #[command(flatten)]
    pub container: ContainerArgs,
}

pub(super) const CREATE_ABOUT: &str = "\
Make a container without starting it, and print its id. `bulkhead start` starts it.";

/// Arguments of `create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The container
    #[command(flatten)]
    pub container: ContainerArgs,
}

/// What a container is made of.
#[derive(Debug, Args)]
pub struct ContainerArgs {
    /// What separates the container from this host [default: BULKHEAD_ISOLATION, the configuration's, or vm]
    #[arg(long, value_name = "KIND")]
    pub isolation: Option<Isolation>,
    /// Give the program this standard input; without it, its input is empty
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Remove the container when its program ends
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
    /// The container's name [default: the first 12 digits of its id]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Memory (suffixes b, k, m, g). With vm: the microVM's [default: 256m], of which the container gets what the guest's kernel leaves; with
    /// host: the container's limit [default: none]
    #[arg(long, short, value_name = "SIZE")]
    pub memory: Option<MemorySize>,
    /// CPUs that the container may use. A microVM has as many, rounded up [default: 1]; with host there is no limit by default
    #[arg(long, value_name = "N", value_parser = parse_cpus)]
    pub cpus: Option<f64>,
    /// The most processes and threads
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub pids_limit: Option<i64>,
    /// The largest size of a microVM's writable layer
    #[arg(long, value_name = "SIZE", default_value = "10g")]
    pub disk_size: MemorySize,
    /// Mount the container's root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// Mount a directory or file of this host
    #[arg(long, short, value_name = "HOST:DIR[:ro]")]
    pub volume: Vec<String>,
    /// Mount a tmpfs, with mount options such as size=16m,mode=1777
    #[arg(long, value_name = "DIR[:OPTIONS]")]
    pub tmpfs: Vec<String>,
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Take a capability away, or ALL
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// The container's network: none (a loopback device only), bulkhead (a bridge of its own), or the name of a CNI network of this host.
    /// Needs root [default: none; bulkhead with -p]
    #[arg(long, visible_alias = "net", value_name = "NAME")]
    pub network: Option<String>,
    /// Publish a port of the container on this host
    #[arg(long, short, value_name = "[IP:]HOST:CONTAINER[/tcp|udp]")]
    pub publish: Vec<Port>,
    /// Where the files of CNI networks are [default: BULKHEAD_CNI_CONF_DIR, the configuration's, or /etc/cni/net.d]
    #[arg(long, value_name = "DIR")]
    pub cni_config_dir: Option<PathBuf>,
    /// The container's host name
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Run this program instead of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// The signal that asks the program to end
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// How much output is kept: max-size=SIZE of a log file, max-file=N of them
    #[arg(long, value_name = "KEY=VALUE")]
    pub log_opt: Vec<String>,
    /// Boot this kernel: an ELF vmlinux
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Append the guest's console to this file, for debugging (the microVM boots then, and slowly)
    #[arg(long, value_name = "FILE")]
    pub console_log: Option<PathBuf>,
    /// Whether the microVM is a clone of a template, which the first start of its kind makes [default: BULKHEAD_TEMPLATE, the configuration's, or auto]
    #[arg(long, value_name = "MODE")]
    pub template: Option<Mode>,
    /// Use templates of this tenant only; what one tenant's template holds in memory, no other's microVM sees [default: the calling user]
    #[arg(long, value_name = "KEY")]
    pub tenant: Option<String>,
    /// The image: a name from `bulkhead image ls`, an image's id, oci:DIR[:TAG] or docker-archive:FILE
    pub image: String,
    /// The program and its arguments instead of the image's command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

pub(super) fn parse_cpus(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(cpus) if (0.01..=8192.0).contains(&cpus) => Ok(cpus),
        _ => Err("a number from 0.01 to 8192 is needed".into()),
    }
}
