//! `linux.seccomp`: names, arguments, errno, every action, architectures (runtime-spec, config-linux.md, Seccomp).

use bulkhead_tests::harness::oci::Oci;
use serde_json::{Value, json};

isolations!(host: actions, default_denies, what_cannot_be; vm: actions, default_denies, what_cannot_be);

fn rule(names: &[&str], action: &str, more: Value) -> Value {
    let mut rule = json!({"names": names, "action": action});
    for (key, value) in more.as_object().into_iter().flatten() {
        rule[key] = value.clone();
    }
    rule
}

/// Rules over an allowing default: each call's answer, then the actions that end a process.
fn actions(oci: &Oci) {
    let mut bundle = oci.bundle("actions");
    let caps = json!(["CAP_SYS_ADMIN"]);
    bundle.config["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps});
    let arguments =
        |index: u32, value: u64, op: &str| json!([{"index": index, "value": value, "op": op}]);
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            rule(&["mkdir", "mkdirat", "no_such_system_call"], "SCMP_ACT_ERRNO", json!({})),
            rule(&["rmdir"], "SCMP_ACT_ERRNO", json!({"errnoRet": 28})),
            rule(&["chmod"], "SCMP_ACT_ERRNO", json!({"errnoRet": 38})),
            rule(&["sethostname"], "SCMP_ACT_LOG", json!({})),
            rule(&["socket"], "SCMP_ACT_ERRNO", json!({"errnoRet": 5, "args": arguments(0, 2, "SCMP_CMP_EQ")})),
            rule(&["personality"], "SCMP_ACT_ERRNO", json!({"errnoRet": 11, "args": arguments(0, 100, "SCMP_CMP_GE")})),
            rule(&["kill"], "SCMP_ACT_ERRNO", json!({"errnoRet": 6, "args": arguments(0, 77, "SCMP_CMP_NE")})),
            rule(&["setuid"], "SCMP_ACT_ERRNO", json!({"errnoRet": 16, "args": [
                {"index": 0, "value": 0xf0, "valueTwo": 0x10, "op": "SCMP_CMP_MASKED_EQ"}]})),
            rule(&["reboot"], "SCMP_ACT_KILL_PROCESS", json!({})),
            rule(&["sync"], "SCMP_ACT_TRAP", json!({})),
            rule(&["swapoff"], "SCMP_ACT_KILL", json!({})),
        ],
    });
    bundle.sh(
        "/probe calls mkdir:/x rmdir:/tmp chmod:/tmp sethostname:new socket:2 socket:1 personality:99 personality:100 \
            kill:77 kill:1 setuid:16 setuid:31 setuid:0
         for call in reboot sync swapoff:/x; do (/probe calls $call) 2>/dev/null; echo $call ended $?; done
         grep Seccomp: /proc/self/status",
    );
    let outcome = oci.run_bundle("actions", &bundle);
    let text = outcome.text();
    // 128 + SIGSYS (31). A return value of personality(99) is the one before, 0.
    let wanted = "mkdir:/x EPERM\nrmdir:/tmp ENOSPC\nchmod:/tmp ENOSYS\nsethostname:new 0\nsocket:2 EIO\nsocket:1 3\n\
                  personality:99 0\npersonality:100 EAGAIN\nkill:77 3\nkill:1 ENXIO\nsetuid:16 EBUSY\nsetuid:31 EBUSY\n\
                  setuid:0 0\nreboot ended 159\nsync ended 159\nswapoff:/x ended 159\nSeccomp:\t2\n";
    assert_eq!(text, wanted, "{outcome}");
}

/// A default that denies, with what a small static program needs allowed and nothing that only its maker would need.
fn default_denies(oci: &Oci) {
    let mut bundle = oci.bundle("denies");
    bundle.config["process"]["noNewPrivileges"] = json!(true);
    bundle.config["process"]["args"] = json!(["/bin/busybox", "echo", "strict"]);
    let names = [
        "execve",
        "write",
        "writev",
        "exit",
        "exit_group",
        "brk",
        "arch_prctl",
        "mmap",
        "mprotect",
        "set_tid_address",
        "set_robust_list",
        "rseq",
        "readlink",
        "readlinkat",
        "prlimit64",
        "getrandom",
        "uname",
        "newfstatat",
        "fstat",
        "ioctl",
        "getuid",
        "getgid",
        "setuid",
        "setgid",
    ];
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [rule(&names, "SCMP_ACT_ALLOW", json!({}))],
    });
    let outcome = oci.run_bundle("denies", &bundle);
    assert_eq!(outcome.text(), "strict\n", "{outcome}");
}

/// Profiles that no kernel could take are refused by name.
fn what_cannot_be(oci: &Oci) {
    for (name, seccomp) in [
        ("action", json!({"defaultAction": "SCMP_ACT_NONSENSE"})),
        (
            "operator",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule(&["mkdir"], "SCMP_ACT_ERRNO",
            json!({"args": [{"index": 0, "value": 1, "op": "SCMP_CMP_NONSENSE"}]}))]}),
        ),
        (
            "architecture",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_NONSENSE"]}),
        ),
    ] {
        let mut bundle = oci.bundle(name);
        bundle.config["linux"]["seccomp"] = seccomp;
        let outcome = oci.create_with(name, &bundle, &[]);
        assert_eq!(outcome.code(), 1, "{outcome}");
        assert!(outcome.error_text().contains("NONSENSE"), "{outcome}");
    }
}
