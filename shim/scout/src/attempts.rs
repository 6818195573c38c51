//! The attempts: what each one does, and why it harms nothing even where it succeeds.

/// What an attempt that was allowed has got hold of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Something that only the host has: the bench put it there.
    Canary,
    /// The kernel that it runs on, whichever that is.
    Kernel,
    /// A namespace of this name, which is the container's own unless it is the host's.
    Namespace(&'static str),
    /// Nothing but its own container.
    Container,
}

/// An attempt.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// Its name in reports.
    pub name: &'static str,
    /// What is tried.
    pub what: &'static str,
    /// What it means when it is allowed.
    pub means: &'static str,
    /// Why it harms nothing.
    pub harmless: &'static str,
    /// What it has got hold of then.
    pub scope: Scope,
}

macro_rules! attempts {
    ($($name:literal $scope:expr, $what:literal, $means:literal, $harmless:literal;)*) => {
        &[$(Attempt { name: $name, what: $what, means: $means, harmless: $harmless, scope: $scope }),*]
    };
}

use Scope::{Canary, Container, Kernel, Namespace};

/// All attempts, in the order in which they are made and shown.
pub const ATTEMPTS: &[Attempt] = attempts! {
    "host-file" Canary, "open a file of the host by its path",
        "files of the host are in its tree", "the bench's own file, opened for reading";
    "host-file-handle" Canary, "open a file of the host by its number (open_by_handle_at)",
        "every file of a file system that any of its mounts is on is open to it", "the bench's own file, opened for reading";
    "host-socket" Canary, "connect to an abstract socket of the host",
        "it is in the host's network namespace", "the bench's own socket, closed at once";
    "host-key" Canary, "find a key of the host's user (keyctl)",
        "keys of the host's users of the same number are its own", "the bench's own key, searched only";
    "host-process" Canary, "trace a process of the host (ptrace)",
        "it can read and change the memory of the host's processes", "the bench's own process, let go at once";
    "ptrace-neighbour" Container, "trace a process of its own container",
        "one process of the container can take over another", "a child of its own";
    "device-node" Kernel, "make a block device's node and open it",
        "it reads the disk under all file systems", "opened for reading, never read, removed";
    "kvm" Kernel, "make the node of /dev/kvm and open it",
        "it can make virtual machines", "closed at once, removed";
    "dev-mem" Kernel, "make the node of /dev/mem and open it",
        "it reads the machine's memory", "never read, removed";
    "kcore" Kernel, "open /proc/kcore",
        "it reads the kernel's memory", "never read";
    "mount" Namespace("mnt"), "mount a tmpfs",
        "it can cover files, and reach the code behind mount(2)", "empty, unmounted at once";
    "unshare-user" Kernel, "make a user namespace",
        "it has all capabilities over new namespaces, and reaches the kernel code behind them", "in a child that ends at once";
    "kexec" Kernel, "load another kernel (kexec_load)",
        "it replaces the kernel", "more segments than there can be: refused after the check of permissions";
    "init-module" Kernel, "load a module (init_module)",
        "it runs code in the kernel", "an empty image: refused after the check of permissions";
    "finit-module" Kernel, "load a module of a file (finit_module)",
        "it runs code in the kernel", "no file and unknown flags: refused after the check of permissions";
    "delete-module" Kernel, "unload a module",
        "it takes code out of the kernel", "a name that no module has";
    "reboot" Namespace("pid"), "reboot",
        "it stops the machine (in a PID namespace: that namespace)", "wrong magic numbers: refused after the check of permissions";
    "set-clock" Kernel, "set the clock",
        "time is wrong for everybody on this kernel", "a time zone that does not exist: refused after the check of permissions";
    "io-ports" Kernel, "use the machine's I/O ports (ioperm)",
        "it drives the machine's devices", "in a child that ends at once and touches none";
    "bpf" Kernel, "make an eBPF map",
        "it reaches the kernel's eBPF code", "one entry, closed at once";
    "perf" Kernel, "count events of all processes (perf_event_open)",
        "it observes everybody on this kernel", "a disabled counter, closed at once";
    "io-uring" Kernel, "make an io_uring",
        "it reaches the kernel's io_uring code", "one entry, closed at once";
    "userfaultfd" Kernel, "handle page faults of the kernel (userfaultfd)",
        "it can hold the kernel in the middle of its work", "closed at once";
    "keyctl" Kernel, "use keys (keyctl)",
        "it reaches the kernel's keyring code", "asks for the number of its own keyring";
    "raw-socket" Namespace("net"), "make a raw IP socket",
        "it forges packets on its network", "closed at once, nothing sent";
    "packet-socket" Namespace("net"), "make a packet socket",
        "it reads and forges frames on its network", "closed at once, nothing sent";
    "vsock" Kernel, "make a vsock socket",
        "no namespace separates these sockets: it can reach a hypervisor and guests", "closed at once, never connected";
    "sysrq" Kernel, "open /proc/sysrq-trigger for writing",
        "it can crash or restart the machine", "never written";
    "core-pattern" Kernel, "open /proc/sys/kernel/core_pattern for writing",
        "the kernel runs a program of its choice outside of the container", "never written";
    "uevent-helper" Kernel, "open /sys/kernel/uevent_helper for writing",
        "the kernel runs a program of its choice outside of the container", "never written";
    "release-agent" Kernel, "open a control group's release_agent for writing",
        "the kernel runs a program of its choice outside of the container", "never written; what had to be mounted for it is unmounted";
    "cgroup-procs" Namespace("cgroup"), "open a control group's cgroup.procs for writing",
        "it can move processes between the control groups that it sees", "never written";
};
