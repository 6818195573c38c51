//! podman.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bulkhead_tests::harness::{Namespace, Outcome, Terminal, oci::Oci};
use serde_json::Value;

use super::{
    network::Network,
    shared::{IMAGE, archive, exec_on_a_terminal, isolation, runtime, streams_and_code},
};

isolations!(a_long_life, a_network, exit_codes_and_streams, limits_and_rights);

struct Podman<'a> {
    oci: &'a Oci,
    runtime: PathBuf,
    /// What is the host's network to it.
    namespace: Option<Namespace>,
}

impl<'a> Podman<'a> {
    fn new(oci: &'a Oci) -> Self {
        // Without CAP_SYS_RESOURCE limits cannot be raised.
        let config = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
                      [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";
        let networks =
            format!("[network]\nnetwork_config_dir = {:?}\n", oci.path("networks").display());
        fs::write(oci.path("containers.conf"), format!("{config}{networks}")).unwrap();
        let podman = Self { oci, runtime: runtime(oci), namespace: None };
        podman.run(&["load", "--input", archive(oci).to_str().unwrap()]).assert_code(0);
        podman
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.namespace {
            None => Command::new("podman"),
            Some(namespace) => namespace.command("podman"),
        };
        for (option, name) in
            [("--root", "storage"), ("--runroot", "storage-run"), ("--tmpdir", "tmp")]
        {
            command.arg(option).arg(self.oci.path(name));
        }
        command
            .args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--runtime"])
            .arg(&self.runtime);
        if let Some(isolation) = isolation(self.oci) {
            command.args(["--runtime-flag", &format!("isolation={isolation}")]);
        }
        command.env("CONTAINERS_CONF", self.oci.path("containers.conf")).args(arguments);
        self.oci.settings(&mut command);
        command
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Outcome {
        self.oci.run_command(self.command(arguments))
    }

    #[track_caller]
    fn text(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        outcome.assert_code(0);
        outcome.text().trim().to_owned()
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        self.run(&["rm", "--all", "--force", "--time", "0"]);
        self.run(&["rmi", "--all", "--force"]);
        if self.oci.cleared() {
            for name in ["storage", "storage-run", "tmp"] {
                fs::remove_dir_all(self.oci.path(name)).ok();
            }
        }
    }
}

/// run -d, exec, logs, inspect, healthcheck, a volume, pause, cp, top, stop, start again, rm.
fn a_long_life(oci: &Oci) {
    let podman = Podman::new(oci);
    let volume = oci.path("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("from-host"), "words of the host\n").unwrap();
    let script = "trap 'echo terminated; exit 0' TERM; echo started; cat /data/from-host; echo from inside > /data/from-guest; \
                  echo to-error >&2; while :; do sleep 0.2; done";
    let shared = format!("{}:/data", volume.display());
    let kept = format!("{}:/kept:ro", volume.display());
    podman.text(&[
        "run",
        "--detach",
        "--name",
        "life",
        "--network",
        "none",
        "--volume",
        &shared,
        "--volume",
        &kept,
        "--env",
        "GIVEN=value",
        "--hostname",
        "a-name",
        "--health-cmd",
        "test -e /data/healthy",
        "--health-interval",
        "disable",
        "--label",
        "key=value",
        IMAGE,
        "sh",
        "-c",
        script,
    ]);
    oci.wait("its first words", || {
        let logs = podman.run(&["logs", "life"]);
        logs.text().contains("words of the host") && logs.error_text().contains("to-error")
    });
    let logs = podman.run(&["logs", "life"]);
    assert_eq!(logs.text(), "started\nwords of the host\n", "{logs}");
    assert_eq!(logs.error_text(), "to-error\n", "{logs}");
    assert_eq!(fs::read_to_string(volume.join("from-guest")).unwrap(), "from inside\n");
    let inspected: Value = serde_json::from_str(&podman.text(&["inspect", "life"])).unwrap();
    assert_eq!(inspected[0]["State"]["Status"], "running");
    assert!(
        inspected[0]["State"]["Pid"].as_u64().is_some_and(|pid| pid > 1),
        "{}",
        inspected[0]["State"]
    );
    assert!(podman.text(&["ps"]).contains("life"));
    assert_eq!(
        podman.text(&["exec", "life", "sh", "-c", "echo $GIVEN $(hostname); id -u"]),
        "value a-name\n0"
    );
    let failed = podman.run(&[
        "exec",
        "--user",
        "1000",
        "--workdir",
        "/tmp",
        "life",
        "sh",
        "-c",
        "id -u; pwd; exit 6",
    ]);
    failed.assert_code(6);
    assert_eq!(failed.text(), "1000\n/tmp\n");
    assert_eq!(podman.run(&["exec", "life", "no-such-program"]).code(), 127);
    let refused =
        podman.run(&["exec", "life", "sh", "-c", "cat /kept/from-host; echo > /kept/new"]);
    assert_eq!((refused.code(), refused.text().as_str()), (1, "words of the host\n"), "{refused}");
    assert!(refused.error_text().contains("Read-only file system"), "{refused}");
    exec_on_a_terminal("life", |arguments| podman.command(arguments));
    assert_ne!(podman.run(&["healthcheck", "run", "life"]).code(), 0, "not healthy yet");
    fs::write(volume.join("healthy"), "").unwrap();
    // A directory that was listed a moment ago may be remembered for a second.
    oci.wait("health", || podman.run(&["healthcheck", "run", "life"]).status.success());
    // podman enters the mount namespace of the container's pid: in a microVM, that of its monitor.
    fs::write(oci.path("into"), "copied in\n").unwrap();
    podman.text(&["cp", oci.path("into").to_str().unwrap(), "life:/etc/copied"]);
    podman.text(&["cp", "life:/etc/copied", oci.path("out").to_str().unwrap()]);
    assert_eq!(fs::read_to_string(oci.path("out")).unwrap(), "copied in\n");
    assert!(!Path::new("/etc/copied").exists());
    podman.text(&["pause", "life"]);
    assert_eq!(podman.text(&["inspect", "--format", "{{.State.Status}}", "life"]), "paused");
    podman.text(&["unpause", "life"]);
    assert_eq!(podman.text(&["inspect", "--format", "{{.State.Status}}", "life"]), "running");
    podman.text(&["kill", "--signal", "WINCH", "life"]);
    podman.text(&["stop", "--time", "60", "life"]);
    assert_eq!(podman.text(&["inspect", "--format", "{{.State.ExitCode}}", "life"]), "0");
    assert!(podman.run(&["logs", "life"]).text().ends_with("terminated\n"));
    assert_eq!(podman.text(&["wait", "life"]), "0");
    podman.text(&["start", "life"]);
    assert_eq!(podman.text(&["exec", "life", "cat", "/etc/copied"]), "copied in");
    if !oci.is_vm() {
        // It looks into the pid namespace of the container's pid on the host.
        let top = podman.text(&["top", "life"]);
        assert!(top.contains("sh -c"), "{top}");
    }
    podman.text(&["kill", "life"]);
    assert_eq!(podman.text(&["wait", "life"]), "137");
    podman.text(&["rm", "life"]);
    assert_eq!(podman.text(&["ps", "--all", "--quiet"]), "");
}

/// A network of podman's with both families, published ports, another container, a restart; and none.
fn a_network(oci: &Oci) {
    let mut podman = Podman::new(oci);
    podman.namespace = Some(Namespace::new("true"));
    // The plugins note addresses by it, outside the test's directories.
    let name = format!("bulkhead-test-{}-{}", std::process::id(), oci.is_vm());
    let subnets = ["--subnet", "10.90.7.0/24", "--ipv6", "--subnet", "fd90:7::/64"];
    podman.text(&[&["network", "create", "--opt", "mtu=1400"], &subnets[..], &[&name]].concat());
    let network = Network {
        oci,
        namespace: podman.namespace.as_ref().unwrap(),
        run: &|arguments| podman.run(arguments),
        name: &name,
        gateway: [10, 90, 7, 1].into(),
        server: [10, 90, 7, 9].into(),
        server6: Some("fd90:7::9".parse().unwrap()),
        mtu: 1400,
        has_names: false,
    };
    network.is_whole();
    network.can_be_absent();
    podman.text(&["network", "rm", "--force", &name]);
}

/// Foreground runs: standard streams, a terminal, exit codes of programs, signals and of podman's own.
fn exit_codes_and_streams(oci: &Oci) {
    let podman = Podman::new(oci);
    streams_and_code(oci, |arguments| podman.command(arguments));
    let mut terminal = Terminal::of(
        &podman.command(&[
            "run",
            "--rm",
            "-it",
            "--network",
            "none",
            IMAGE,
            "sh",
            "-c",
            "tty; stty size; read line; echo got $line; exit 9",
        ]),
        37,
        91,
    );
    terminal.wait_for("/dev/pts/0");
    terminal.wait_for("37 91");
    terminal.type_keys("typed\n");
    terminal.wait_for("got typed");
    assert_eq!(terminal.wait().code(), Some(9), "{}", terminal.screen());
    let cases: &[(&[&str], i32)] =
        &[(&["sh", "-c", "exit 200"], 200), (&["/no/such/program"], 127), (&["/etc/passwd"], 126)];
    for (program, code) in cases.iter().skip(usize::from(oci.is_vm())) {
        let outcome =
            podman.run(&[&["run", "--rm", "--network", "none", IMAGE], *program].concat());
        assert_eq!(outcome.code(), *code, "{outcome}");
    }
    assert_eq!(podman.text(&["ps", "--all", "--quiet"]), "");
}

/// --memory --cpus --pids-limit --read-only --cap-drop --user --security-opt seccomp=… --tmpfs --ulimit --sysctl.
fn limits_and_rights(oci: &Oci) {
    let podman = Podman::new(oci);
    let profile = oci.path("seccomp.json");
    let rule = serde_json::json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28});
    let text = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule]});
    fs::write(&profile, text.to_string()).unwrap();
    let seccomp = format!("seccomp={}", profile.display());
    let outcome = podman.run(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--memory",
        "64m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "33",
        "--read-only",
        "--cap-drop",
        "all",
        "--cap-add",
        "CHOWN",
        "--user",
        "1000:1001",
        "--security-opt",
        &seccomp,
        "--security-opt",
        "no-new-privileges",
        "--tmpfs",
        "/scratch:size=64k,mode=1777",
        "--ulimit",
        "nofile=99:100",
        "--ulimit",
        "nproc=1024:1024",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        IMAGE,
        "sh",
        "-c",
        "mkdir /scratch/new; exec /probe look path=/ path=/scratch \
         read=/sys/fs/cgroup/memory/memory.limit_in_bytes read=/sys/fs/cgroup/memory.max \
         read=/sys/fs/cgroup/pids/pids.max read=/sys/fs/cgroup/pids.max \
         read=/sys/fs/cgroup/cpu.max read=/sys/fs/cgroup/cpu/cpu.cfs_quota_us sysctl=net.ipv4.ip_forward",
    ]);
    outcome.assert_code(0);
    let seen: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let wanted = &seen["wanted"];
    let either = |v1: &str, v2: &str| {
        let (v1, v2) = (
            &wanted[format!("read=/sys/fs/cgroup/{v1}")],
            &wanted[format!("read=/sys/fs/cgroup/{v2}")],
        );
        v1.as_str().or(v2.as_str()).unwrap_or_else(|| panic!("{wanted}")).to_owned()
    };
    assert_eq!(either("memory/memory.limit_in_bytes", "memory.max"), (64u64 << 20).to_string());
    assert_eq!(either("pids/pids.max", "pids.max"), "33");
    assert!(
        ["50000", "50000 100000"].contains(&either("cpu/cpu.cfs_quota_us", "cpu.max").as_str()),
        "{wanted}"
    );
    assert_eq!(seen["status"]["Uid"], "1000 1000 1000 1000");
    assert_eq!(seen["status"]["Gid"], "1001 1001 1001 1001");
    assert_eq!(seen["status"]["CapBnd"], "0000000000000001");
    assert_eq!(seen["status"]["NoNewPrivs"], "1");
    assert_eq!(seen["status"]["Seccomp"], "2");
    assert_ne!(wanted["path=/"]["write"], 0);
    assert_eq!(wanted["path=/scratch"]["write"], 0);
    assert_eq!(seen["rlimits"]["RLIMIT_NOFILE"], serde_json::json!([99, 100]));
    assert_eq!(wanted["sysctl=net.ipv4.ip_forward"], "1");
    assert!(outcome.error_text().contains("No space left"), "{outcome}");
}
