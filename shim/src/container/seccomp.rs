//! The system calls that a container on this host's kernel does without.
//!
//! A microVM's container has no filter: its kernel is its own. On this host's kernel, capabilities and namespaces already keep a container from most
//! of these; the filter keeps it from the code behind them.

use serde_json::{Value, json};

/// Modules, boots and kernel code; clocks; keys; mounts; namespaces; devices; what reads other processes or the kernel itself.
const REFUSED: [&str; 62] = [
    "_sysctl",
    "acct",
    "add_key",
    "afs_syscall",
    "bpf",
    "clock_adjtime",
    "clock_settime",
    "create_module",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_kernel_syms",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "modify_ldt",
    "mount",
    "mount_setattr",
    "move_mount",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pivot_root",
    "pidfd_getfd",
    "process_madvise",
    "process_vm_readv",
    "process_vm_writev",
    "query_module",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "swapoff",
    "swapon",
    "syslog",
    "sysfs",
    "umount",
    "umount2",
    "unshare",
    "uselib",
    "userfaultfd",
    "ustat",
    "vhangup",
    "vm86",
    "vm86old",
];

/// `CLONE_NEW*` of clone(2): NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; `CLONE_NEWTIME` is clone3's only.
const NAMESPACES: [u64; 7] =
    [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];

const AF_VSOCK: u64 = 40;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// The filter (OCI runtime-spec, config-linux.md, "Seccomp").
#[must_use]
pub fn filter() -> Value {
    let refuse = |names: &[&str], errno: u32, args: Value| json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": args });
    let mut rules = vec![
        refuse(&REFUSED, EPERM, json!([])),
        // Its flags are in memory, where a filter cannot see them; libraries then use clone(2).
        refuse(&["clone3"], ENOSYS, json!([])),
        // No namespace separates these sockets from this host's.
        refuse(
            &["socket"],
            EAFNOSUPPORT,
            json!([{ "index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_EQ" }]),
        ),
    ];
    rules.extend(NAMESPACES.iter().map(|flag| {
        let given =
            json!([{ "index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ" }]);
        refuse(&["clone"], EPERM, given)
    }));
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}
