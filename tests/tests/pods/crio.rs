//! A pod as CRI-O makes it: namespaces that are pinned to files before there is a sandbox, its annotations, and conmon between it and the runtime, with the
//! words that its runtime_oci.go and factory/container have.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Stdio},
};

use bulkhead_tests::harness::{
    binary,
    oci::{Bundle, Isolation, Oci, on},
};
use serde_json::{Value, json};

use super::share_memory;

const SANDBOX: &str = "infra";
const NAMESPACES: [(&str, &str); 3] = [("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
/// What the kubelet says of all containers together, and how large the machine is then.
const RESOURCES: &str =
    r#"{"cpu_period":100000,"cpu_quota":100000,"cpu_shares":2,"memory_limit_in_bytes":268435456}"#;
const SIZE: [u64; 2] = [256, 300];

/// CRI-O, as far as a runtime sees it.
struct Crio<'a> {
    oci: &'a Oci,
}

impl<'a> Crio<'a> {
    fn new(oci: &'a Oci) -> Self {
        for name in ["ns", "exits", "attach", "shm", "files"] {
            fs::create_dir_all(oci.path(name)).unwrap();
        }
        let shm = oci.path("shm");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", "mode=1777,size=1m", "shm"])
            .arg(&shm));
        let crio = Self { oci };
        let mut pin = Command::new("unshare");
        for (_, name) in NAMESPACES {
            let file = crio.pinned(name);
            File::create(&file).unwrap();
            pin.arg(format!("--{name}={}", file.display()));
        }
        // As pinns and the loopback plugin of CNI do.
        run(pin.args(["sh", "-c", "hostname the-pod && ip link set lo up"]));
        for (name, content) in
            [("hostname", "the-pod\n"), ("resolv.conf", "search x\n"), ("containerenv", "")]
        {
            fs::write(oci.path("files").join(name), content).unwrap();
        }
        crio
    }

    fn pinned(&self, name: &str) -> PathBuf {
        self.oci.path("ns").join(name)
    }

    /// What the specifications of both kinds of containers have.
    fn bundle(&self, id: &str, kind: &str) -> Bundle {
        let mut bundle = self.oci.bundle(id);
        for (kind, file) in NAMESPACES {
            bundle.namespace(kind, Some(self.pinned(file).to_str().unwrap()));
        }
        share_memory(&mut bundle, &self.oci.path("shm"));
        for (file, place) in [
            ("hostname", "/etc/hostname"),
            ("resolv.conf", "/etc/resolv.conf"),
            ("containerenv", "/run/.containerenv"),
        ] {
            let options = ["rw", "bind", "nodev", "nosuid", "noexec"];
            bundle.mount("bind", &self.oci.path("files").join(file), place, &options);
        }
        let root = bundle.rootfs();
        let config = &mut bundle.config;
        config["hostname"] = json!("the-pod");
        config["root"] = json!({ "path": root, "readonly": kind == "sandbox" });
        let mut annotations = json!({ "org.systemd.property.CollectMode": "'inactive-or-failed'" });
        for (name, value) in [
            ("ContainerType", kind),
            ("ContainerID", id),
            ("SandboxID", SANDBOX),
            ("Name", &format!("k8s_{id}_pod_default_uid_0")),
            ("SandboxName", "k8s_POD_pod_default_uid_0"),
            ("Namespace", "default"),
            ("HostName", "the-pod"),
            ("HostNetwork", "false"),
            ("RuntimeHandler", "bulkhead"),
            ("MountPoint", root.to_str().unwrap()),
            ("ShmPath", self.oci.path("shm").to_str().unwrap()),
            ("NamespaceOptions", r#"{"pid":1}"#),
            ("PodLinuxResources", RESOURCES),
            ("PodLinuxOverhead", "null"),
            ("TTY", "false"),
        ] {
            annotations[format!("io.kubernetes.cri-o.{name}")] = value.into();
        }
        config["annotations"] = annotations;
        let env = config["process"]["env"].as_array_mut().unwrap();
        env.push("HOSTNAME=the-pod".into());
        bundle
    }

    /// Runs conmon with the pipes that CRI-O gives it; what it says over its own when it is done.
    #[track_caller]
    fn conmon(&self, id: &str, arguments: &[&str]) -> Value {
        let (said, go) = (self.oci.path(&format!("{id}.said")), self.oci.path("go"));
        fs::write(&go, [0]).unwrap();
        let runtime = binary("bulkhead-oci");
        let root = format!("--root={}", self.oci.root().display());
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec conmon \"$@\" 3>\"$SAID\" 4<\"$GO\"", "conmon"])
            .args(["-c", id, "-n", id, "--log-level", "info", "--runtime-arg", &root])
            .arg("-r")
            .arg(runtime)
            .arg("--socket-dir-path")
            .arg(self.oci.path("attach"))
            .args(arguments)
            .env("SAID", &said)
            .env("GO", &go)
            .env("_OCI_SYNCPIPE", "3")
            .env("_OCI_STARTPIPE", "4")
            // What monitor_env says in crio.conf.
            .env("BULKHEAD_ISOLATION", if self.oci.is_vm() { "vm" } else { "host" });
        self.oci.settings(&mut command);
        self.oci.run_command(command);
        self.oci.wait(&format!("conmon's word on {id}"), || {
            fs::read_to_string(&said).is_ok_and(|text| text.ends_with('\n'))
        });
        serde_json::from_str(&fs::read_to_string(&said).unwrap()).unwrap()
    }

    /// CreateContainer and StartContainer.
    #[track_caller]
    fn start(&self, id: &str, bundle: &Bundle) {
        bundle.write();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let said = self.conmon(
            id,
            &[
                "-b",
                &text(bundle.path.clone()),
                "--exit-dir",
                &text(self.oci.path("exits")),
                "-l",
                &text(self.log(id)),
                "-P",
                &text(bundle.path.join("conmon-pidfile")),
                "-p",
                &text(bundle.path.join("pidfile")),
                "--persist-dir",
                &text(bundle.path.clone()),
                "--syslog",
                "-u",
                id,
            ],
        );
        let pid = said["pid"].as_i64().unwrap_or(-1);
        assert!(pid > 0, "{said}");
        assert_eq!(fs::read_to_string(bundle.path.join("pidfile")).unwrap(), pid.to_string());
        self.oci.run(&["start", id]).assert_code(0);
        assert_eq!(self.oci.status(id), "running");
    }

    fn log(&self, id: &str) -> PathBuf {
        self.oci.path(&format!("{id}.log"))
    }

    /// The lines that a container has written so far, as the kubelet reads them.
    fn logged(&self, log: &std::path::Path) -> String {
        let text = fs::read_to_string(log).unwrap_or_default();
        let mut written = String::new();
        for line in text.lines() {
            // The time, the stream, whether the line is whole, what was written.
            let mut parts = line.splitn(4, ' ').skip(2);
            let (tag, content) = (parts.next(), parts.next());
            written.push_str(content.unwrap_or_default());
            written.push_str(if tag == Some("P") { "" } else { "\n" });
        }
        written.trim_end().to_owned()
    }

    #[track_caller]
    fn wait_for_log(&self, id: &str, text: &str) {
        let log = self.log(id);
        self.oci.wait(&format!("{text:?} in the log of {id}"), || self.logged(&log).contains(text));
    }

    /// ExecSync: the code and what was written.
    #[track_caller]
    fn exec(&self, id: &str, bundle: &Bundle, script: &str) -> (i64, String) {
        let mut process = bundle.config["process"].clone();
        process["args"] = json!(["sh", "-c", script]);
        let (spec, log) = (self.oci.path("process.json"), self.oci.path("exec.log"));
        fs::write(&spec, process.to_string()).unwrap();
        let _ = fs::remove_file(&log);
        let pid_file = self.oci.path("exec.pid");
        let said = self.conmon(
            id,
            &[
                "-p",
                pid_file.to_str().unwrap(),
                "-e",
                "-l",
                log.to_str().unwrap(),
                "--sync",
                "--log-global-size-max",
                "16777216",
                "--exec-process-spec",
                spec.to_str().unwrap(),
            ],
        );
        (said["exit_code"].as_i64().unwrap_or(-1), self.logged(&log))
    }

    /// The code that conmon has noted.
    #[track_caller]
    fn exit_code(&self, id: &str) -> String {
        let file = self.oci.path("exits").join(id);
        self.oci.wait(&format!("the exit file of {id}"), || {
            fs::read_to_string(&file).is_ok_and(|text| !text.is_empty())
        });
        fs::read_to_string(file).unwrap()
    }

    /// StopContainer and RemoveContainer.
    #[track_caller]
    fn stop(&self, id: &str, signal: &str, code: &str) {
        self.oci.run(&["kill", id, signal]).assert_code(0);
        assert_eq!(self.exit_code(id), code);
        assert_eq!(self.oci.status(id), "stopped");
        self.oci.run(&["delete", "--force", id]).assert_code(0);
    }

    fn end(self) {
        for (_, name) in NAMESPACES {
            run(Command::new("umount").arg(self.pinned(name)));
        }
        run(Command::new("umount").arg(self.oci.path("shm")));
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let done = command.stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{command:?}: {done:?}");
}

fn cri_o_makes_a_pod(oci: &Oci) {
    let crio = Crio::new(oci);
    let mut sandbox = crio.bundle(SANDBOX, "sandbox");
    sandbox.sh("trap 'exit 0' TERM; echo sandbox runs; while :; do sleep 1000 & wait; done");
    crio.start(SANDBOX, &sandbox);
    crio.wait_for_log(SANDBOX, "sandbox runs");
    if oci.is_vm() {
        // As large as the whole pod may be.
        let script = "nproc; grep MemTotal /proc/meminfo | tr -dc 0-9";
        let (code, text) = crio.exec(SANDBOX, &sandbox, script);
        let numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!((code, numbers[0]), (0, 1), "{text}");
        assert!((SIZE[0] - 40..SIZE[1]).contains(&(numbers[1] >> 10)), "{text}");
    }
    let bundles = ["one", "two"].map(|id| {
        let mut bundle = crio.bundle(id, "container");
        bundle.sh(&format!(
            "trap 'exit 5' TERM; echo {id} runs; while :; do sleep 1000 & wait; done"
        ));
        fs::write(bundle.rootfs().join("etc/name"), id).unwrap();
        bundle.config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
        crio.start(id, &bundle);
        crio.wait_for_log(id, &format!("{id} runs"));
        bundle
    });
    let [one, two] = &bundles;
    // Roots of their own; network, IPC, host name and memory of the pod.
    for (id, bundle) in [("one", one), ("two", two)] {
        let script =
            "cat /etc/name; echo; hostname; cat /etc/hostname /etc/resolv.conf; echo $HOSTNAME";
        let expected = format!("{id}\nthe-pod\nthe-pod\nsearch x\nthe-pod");
        assert_eq!(crio.exec(id, bundle, script), (0, expected));
    }
    let look = "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done";
    let of = [(SANDBOX, &sandbox), ("one", one), ("two", two)].map(|(id, bundle)| {
        let (code, text) = crio.exec(id, bundle, look);
        assert_eq!(code, 0, "{text}");
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    });
    for shared in 0..3 {
        assert!(of[0][shared] == of[1][shared] && of[1][shared] == of[2][shared], "{of:?}");
    }
    for own in 3..5 {
        assert!(of[0][own] != of[1][own] && of[1][own] != of[2][own], "{of:?}");
    }
    assert_eq!(crio.exec("two", two, "echo word > /dev/shm/word").0, 0);
    assert_eq!(crio.exec("one", one, "cat /dev/shm/word"), (0, "word".into()));
    // What a command says, and its code.
    let (code, text) = crio.exec("one", one, "echo out; echo err >&2; exit 3");
    assert_eq!(code, 3);
    assert!(text.contains("out") && text.contains("err"), "{text}");
    // UpdateContainerResources: over standard input.
    let mut update = oci.command(&["update", "--resources", "-", "one"]);
    update.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut update = update.spawn().unwrap();
    let resources = json!({ "memory": { "limit": 48 << 20 } }).to_string();
    std::io::Write::write_all(&mut update.stdin.take().unwrap(), resources.as_bytes()).unwrap();
    let updated = update.wait_with_output().unwrap();
    assert!(updated.status.success(), "{updated:?}");
    let limit = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true";
    assert_eq!(crio.exec("one", one, limit), (0, (48 << 20).to_string()));
    // One ends and comes again, the other goes on.
    crio.stop("one", "TERM", "5");
    assert_eq!(crio.exec("two", two, "echo here"), (0, "here".into()));
    fs::remove_file(oci.path("exits").join("one")).unwrap();
    fs::remove_file(crio.log("one")).unwrap();
    crio.start("one", one);
    crio.wait_for_log("one", "one runs");
    crio.stop("one", "KILL", "137");
    crio.stop("two", "TERM", "5");
    crio.stop(SANDBOX, "TERM", "0");
    crio.end();
}

#[test]
fn vm_cri_o_makes_a_pod() {
    on(Isolation::Vm, cri_o_makes_a_pod);
}

#[test]
fn host_cri_o_makes_a_pod() {
    on(Isolation::Host, cri_o_makes_a_pod);
}
