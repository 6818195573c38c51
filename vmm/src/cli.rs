//! The command line of `bulkhead-vmm`.

use std::{os::fd::RawFd, path::PathBuf};

use clap::Parser;

const LONG_ABOUT: &str = "\
A minimal virtual machine monitor: boots one Linux guest with KVM, serves its virtio devices, and says how it ended.

One process is one machine. It is configured once, runs, and ends with its guest. `bulkhead run` starts it for you; \
by hand it serves to try a kernel or to debug a guest.";

const AFTER_LONG_HELP: &str = r#"CONFIGURATION
  One JSON object. An unknown field is an error.

  kernel      path of an ELF vmlinux, or of a bzImage (needed)
  memory_mib  memory in MiB, from 64 to the host's (needed)
  vcpus       virtual CPUs, 1 to 8; default 1
  initrd      path of an initial RAM disk
  cmdline     words for the kernel, behind those that the machine needs
  disks       [{"id": NAME, "files": [PATH, ...], "read_only": BOOL}, ...]
              /dev/vda, /dev/vdb, ...: the files' bytes one after the other;
              no files: a slot without a medium
  vsock       {"cid": NUMBER, "path": PATH}
              a guest's connection to port N of the host goes to the Unix
              socket PATH_N; one to PATH that says CONNECT N goes to the guest
  shares      [{"tag": NAME, "cache": "auto" or "none", "entries":
                [{"name": NAME, "path": PATH, "read_only": BOOL}, ...]}, ...]
              a virtio-fs device each: a directory with these entries, which
              are directories and files of the host; entries need root
  balloon     true: memory that the guest does not use goes back to the host
  serial      "stdout" or {"file": PATH}: where a serial console's output
              goes; without it the machine has no serial port
  snapshot    {"state": PATH, "memory": PATH}: files that are made for this
              machine to be saved into; nothing may be there
  restore     {"state": PATH, "memory": PATH}: go on from a machine that was
              saved, instead of booting; the rest of the configuration is its
              own, but for disks without files and shares without entries,
              which may have some now, and the paths of sockets and outputs
  backend     "auto" (find out), "hardware" or "software": whether the
              processor executes the guest's kernel or KVM interprets it

JAIL
  Before the guest's first instruction the process enters namespaces and a
  root directory of its own, which holds the shares and the directory of the
  vsock sockets and nothing else, and drops its capabilities; with shares it
  keeps those of a file server. Where the user may make no namespaces it says
  so and goes on, but shares nothing.

CONTROL
  With --control, each line that a client sends is a request and gets one line
  as its answer: {"id": 1, "kind": "counters"}. Kinds: pause, resume, stop,
  counters, snapshot. The socket is for its user only.

  snapshot pauses the machine and writes it into the files of its
  configuration. It stays paused; resume lets it go on.

EXIT STATUS
  0  the guest powered off or reset itself, or the machine was stopped
  1  the machine could not be made or could not go on
  2  the guest's kernel panicked
  3  a triple fault

EXAMPLES
  Boot a kernel with its messages on the terminal:

    echo '{"kernel": "vmlinux", "memory_mib": 128, "serial": "stdout"}' |
        bulkhead-vmm --config -

  Ask a running machine what it has counted:

    echo '{"id": 1, "kind": "counters"}' | socat - UNIX-CONNECT:/run/vm.sock

  Save it, if its configuration has "snapshot", and end it:

    printf '%s\n' '{"id": 1, "kind": "snapshot"}' '{"id": 2, "kind": "stop"}' |
        socat - UNIX-CONNECT:/run/vm.sock
"#;

/// Boots one Linux guest with KVM and says how it ended.
#[derive(Debug, Parser)]
#[command(name = "bulkhead-vmm", version, long_about = LONG_ABOUT, after_long_help = AFTER_LONG_HELP)]
#[command(group = clap::ArgGroup::new("source").required(true))]
pub struct Cli {
    /// Read the machine's configuration from FILE, or from standard input when it is -
    #[arg(long, value_name = "FILE", group = "source")]
    pub config: Option<PathBuf>,

    /// Take the configuration and requests from the program at the other end of this inherited Unix socket
    ///
    /// For programs. Each message is one line of JSON; the first is {"configure": CONFIGURATION}. The machine ends when the
    /// other end is closed.
    #[arg(long, value_name = "FD", group = "source", value_parser = clap::value_parser!(RawFd).range(0..))]
    pub owner_fd: Option<RawFd>,

    /// Also listen for requests at a Unix socket made at PATH
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Print the points of the start as they are passed, and the counters at the end, on standard error
    #[arg(long)]
    pub timeline: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn there_is_exactly_one_source_of_the_configuration() {
        let parse = |words: &[&str]| Cli::try_parse_from(words.iter().copied());
        assert!(parse(&["bulkhead-vmm"]).is_err());
        assert!(parse(&["bulkhead-vmm", "--config", "-", "--owner-fd", "0"]).is_err());
        assert!(parse(&["bulkhead-vmm", "--owner-fd", "-1"]).is_err());
        let cli = parse(&["bulkhead-vmm", "--config", "-", "--control", "/x"]).unwrap();
        assert_eq!(cli.control, Some("/x".into()));
    }
}
