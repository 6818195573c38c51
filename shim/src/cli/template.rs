//! Arguments of `template`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::container::parse_cpus;
use crate::size::MemorySize;

/// The verbs of `template`.
#[derive(Debug, Subcommand)]
#[command(after_long_help = "\
A template is a booted microVM at rest, made the first time that a container's machine is like it: the same kernel, agent, VMM, memory, processors, \
host and tenant. Later machines are its clones: they have its memory, copy-on-write, and begin where it stopped. A template serves one tenant only; \
a new kernel, agent or VMM makes another one.

EXIT CODES
  0        done
  1        one line on standard error says why not; `rm` goes on with the others

FILES
  The directory is BULKHEAD_TEMPLATES, else `directory` in the section [template] of /etc/bulkhead/config.toml, else `templates` in BULKHEAD_DATA.
  `max` in that section is how many are kept [16]; of more, the least recently used goes.")]
pub enum TemplateCommand {
    /// List templates
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Print only keys
        #[arg(long, short)]
        quiet: bool,
    },
    /// Make the template of a machine ahead of its first start
    #[command(long_about = "\
Make the template of a machine ahead of its first start, and print its key. One that is there is not made again; one whose making failed lately is tried again.

The flags are those of `run`, whose machines with the same ones are its clones:

  bulkhead template create --memory 512m --cpus 2
  bulkhead run --memory 512m --cpus 2 --template require debian true")]
    Create(TemplateCreateArgs),
    /// Remove templates; microVMs that are clones of them run on
    Rm {
        /// Keys, or their beginnings
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Remove templates that no start could use any more, and what killed makers left
    Prune {
        /// All others, too
        #[arg(long)]
        all: bool,
    },
}

/// Arguments of `template create`.
#[derive(Debug, Args)]
pub struct TemplateCreateArgs {
    /// The microVM's memory (suffixes b, k, m, g) [default: the configuration's, or 256m]
    #[arg(long, short, value_name = "SIZE")]
    pub memory: Option<MemorySize>,
    /// Its CPUs, rounded up [default: 1]
    #[arg(long, value_name = "N", value_parser = parse_cpus)]
    pub cpus: Option<f64>,
    /// Its kernel: an ELF vmlinux
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Whose it is [default: the calling user]
    #[arg(long, value_name = "KEY")]
    pub tenant: Option<String>,
    /// Do not say how it goes
    #[arg(long, short)]
    pub quiet: bool,
}
