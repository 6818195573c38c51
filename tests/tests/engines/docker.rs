//! docker: a dockerd and a containerd of the test's own, with the runtime in its configuration.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use bulkhead_tests::harness::{Namespace, Outcome, Terminal, oci::Oci};
use serde_json::Value;

use super::{
    network::Network,
    shared::{IMAGE, archive, exec_on_a_terminal, isolation, runtime, streams_and_code},
};

isolations!(a_long_life, a_network, runs_in_the_foreground);

struct Docker<'a> {
    oci: &'a Oci,
    socket: String,
    daemons: Vec<Child>,
    /// Its bridges are in a network namespace of its own.
    namespace: Namespace,
}

impl<'a> Docker<'a> {
    fn new(oci: &'a Oci) -> Self {
        let program = runtime(oci);
        let arguments: Vec<String> = isolation(oci)
            .map(|isolation| vec!["--isolation".to_owned(), isolation.to_owned()])
            .unwrap_or_default();
        let config = serde_json::json!({"runtimes": {"tested": {"path": program, "runtimeArgs": arguments}}, "default-runtime": "tested"});
        fs::write(oci.path("daemon.json"), config.to_string()).unwrap();
        let path = |name: &str| oci.path(name).display().to_string();
        let containerd = path("containerd.sock");
        let mut docker = Self {
            oci,
            socket: format!("unix://{}", path("docker.sock")),
            daemons: Vec::new(),
            namespace: Namespace::new("true"),
        };
        let toml = format!(
            "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[plugins]\n[ttrpc]\naddress = \"{}\"\n",
            path("ttrpc.sock")
        );
        fs::write(oci.path("containerd.toml"), toml).unwrap();
        docker.daemon(
            Command::new("containerd"),
            "containerd",
            &[
                "--config",
                &path("containerd.toml"),
                "--root",
                &path("containerd"),
                "--state",
                &path("containerd-run"),
                "--address",
                &containerd,
            ],
        );
        oci.wait("containerd", || oci.path("containerd.sock").exists());
        let dockerd = docker.namespace.command("dockerd");
        docker.daemon(
            dockerd,
            "dockerd",
            &[
                "--config-file",
                &path("daemon.json"),
                "--data-root",
                &path("docker"),
                "--exec-root",
                &path("docker-run"),
                "--host",
                &docker.socket.clone(),
                "--containerd",
                &containerd,
                "--pidfile",
                &path("docker.pid"),
                "--iptables=false",
                "--ip6tables=false",
                "--ip-forward=false",
                "--ip-masq=false",
                "--storage-driver",
                "overlay2",
            ],
        );
        let begin = Instant::now();
        while !docker.run(&["version"]).status.success() {
            let log = || fs::read_to_string(oci.path("dockerd.log")).unwrap_or_default();
            assert!(
                begin.elapsed() < Duration::from_secs(90),
                "dockerd does not answer:\n{}",
                log()
            );
            thread::sleep(Duration::from_millis(100));
        }
        docker.text(&["load", "--input", archive(oci).to_str().unwrap()]);
        docker
    }

    fn daemon(&mut self, mut command: Command, name: &str, arguments: &[&str]) {
        let log = File::create(self.oci.path(&format!("{name}.log"))).unwrap();
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.env("TMPDIR", self.oci.path(""));
        self.oci.settings(&mut command);
        self.daemons.push(command.spawn().unwrap_or_else(|error| panic!("{name}: {error}")));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        // Another docker may stand first on PATH.
        let mut command = Command::new("/usr/bin/docker");
        command
            .args(["--host", &self.socket])
            .args(arguments)
            .env("DOCKER_CONFIG", self.oci.path("client"));
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
        assert!(
            outcome.status.success(),
            "{outcome}\n{}",
            fs::read_to_string(self.oci.path("dockerd.log")).unwrap_or_default()
        );
        outcome.text().trim().to_owned()
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        let ids = self.run(&["ps", "--all", "--quiet"]).text();
        for id in ids.lines() {
            self.run(&["rm", "--force", id]);
        }
        while let Some(mut daemon) = self.daemons.pop() {
            bulkhead_tests::harness::end_daemon(&mut daemon);
        }
        if self.oci.cleared() {
            for name in ["docker", "docker-run", "containerd", "containerd-run"] {
                fs::remove_dir_all(self.oci.path(name)).ok();
            }
        }
    }
}

/// run -d, exec, logs, inspect, events, pause, update, stats, top, cp, a volume, stop, restart, rm.
fn a_long_life(oci: &Oci) {
    let docker = Docker::new(oci);
    let mut events = oci.start_command(docker.command(&["events", "--format", "{{.Action}}"]));
    let volume: PathBuf = oci.path("volume");
    fs::create_dir(&volume).unwrap();
    let shared = format!("{}:/data", volume.display());
    docker.text(&[
        "run", "--detach", "--name", "life", "--memory", "64m", "--pids-limit", "50", "--volume", &shared, "--env", "GIVEN=value", IMAGE,
        "sh", "-c",
        "trap 'echo terminated; exit 0' TERM; echo started; echo to-error >&2; echo from inside > /data/file; while :; do sleep 0.2; done",
    ]);
    oci.wait("its first words", || docker.run(&["logs", "life"]).text().contains("started"));
    events.wait_for("create");
    events.wait_for("start");
    oci.wait("its words", || docker.run(&["logs", "life"]).error_text().contains("to-error"));
    oci.wait("its file", || {
        fs::read_to_string(volume.join("file")).is_ok_and(|text| text == "from inside\n")
    });
    let inspected: Value = serde_json::from_str(&docker.text(&["inspect", "life"])).unwrap();
    assert_eq!(inspected[0]["State"]["Status"], "running");
    assert_eq!(inspected[0]["HostConfig"]["Runtime"], "tested");
    let address = inspected[0]["NetworkSettings"]["IPAddress"].as_str().unwrap();
    let addresses = docker.text(&["exec", "life", "ip", "-oneline", "address"]);
    assert!(addresses.contains(&format!("inet {address}/")), "{addresses}");
    assert!(addresses.contains("inet 127.0.0.1/8"), "{addresses}");
    let hosts = docker.text(&["exec", "life", "cat", "/etc/hosts"]);
    assert!(hosts.contains(address), "{hosts}");
    assert_eq!(
        docker.text(&["exec", "--env", "MORE=too", "life", "sh", "-c", "echo $GIVEN $MORE; id -u"]),
        "value too\n0"
    );
    let failed = docker.run(&[
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
    let missing = docker.run(&["exec", "life", "no-such-program"]);
    assert!([126, 127].contains(&missing.code()), "{missing}");
    let mut run = oci.start_command(docker.command(&["exec", "-i", "life", "cat"]));
    run.feed(b"through exec\n".to_vec());
    assert_eq!(run.wait().assert_code(0).text(), "through exec\n");
    exec_on_a_terminal("life", |arguments| docker.command(arguments));
    docker.text(&["pause", "life"]);
    assert_eq!(docker.text(&["inspect", "--format", "{{.State.Status}}", "life"]), "paused");
    docker.text(&["unpause", "life"]);
    docker.text(&[
        "update",
        "--memory",
        "80m",
        "--memory-swap",
        "80m",
        "--pids-limit",
        "60",
        "life",
    ]);
    let limit = docker
        .run(&[
            "exec",
            "life",
            "sh",
            "-c",
            "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null",
        ])
        .text();
    assert_eq!(limit.trim(), "60");
    if !oci.is_vm() {
        let stats = docker.text(&[
            "stats",
            "--no-stream",
            "--format",
            "{{.Name}} {{.MemUsage}} {{.PIDs}}",
            "life",
        ]);
        assert!(stats.starts_with("life ") && stats.contains("80MiB"), "{stats}");
        let top = docker.text(&["top", "life"]);
        assert!(top.contains("sleep 0.2") || top.contains("sh -c"), "{top}");
    } else {
        docker.text(&["stats", "--no-stream", "life"]);
    }
    fs::write(oci.path("into"), "copied in\n").unwrap();
    docker.text(&["cp", oci.path("into").to_str().unwrap(), "life:/tmp/into"]);
    oci.wait("the copy", || {
        docker.run(&["exec", "life", "cat", "/tmp/into"]).text() == "copied in\n"
    });
    docker.text(&["exec", "life", "sh", "-c", "echo made inside > /tmp/out"]);
    docker.text(&["cp", "life:/tmp/out", oci.path("out").to_str().unwrap()]);
    assert_eq!(fs::read_to_string(oci.path("out")).unwrap(), "made inside\n");
    docker.text(&["stop", "--time", "60", "life"]);
    assert_eq!(
        docker.text(&["inspect", "--format", "{{.State.ExitCode}} {{.State.Status}}", "life"]),
        "0 exited"
    );
    assert!(docker.text(&["logs", "life"]).ends_with("terminated"));
    for action in ["pause", "unpause", "update", "stop"] {
        events.wait_for(action);
    }
    docker.text(&["start", "life"]);
    assert_eq!(docker.text(&["inspect", "--format", "{{.State.Status}}", "life"]), "running");
    assert_eq!(
        docker.text(&["exec", "life", "cat", "/tmp/into"]),
        "copied in",
        "the file system outlives the process"
    );
    docker.text(&["kill", "life"]);
    assert_eq!(docker.text(&["wait", "life"]), "137");
    docker.text(&["rm", "life"]);
    assert_eq!(docker.text(&["ps", "--all", "--quiet"]), "");
    drop(events);
}

/// A network of docker's, published ports, another container, a restart; and none.
fn a_network(oci: &Oci) {
    let docker = Docker::new(oci);
    docker.text(&[
        "network",
        "create",
        "--subnet",
        "10.91.7.0/24",
        "--opt",
        "com.docker.network.driver.mtu=1400",
        "own",
    ]);
    let network = Network {
        oci,
        namespace: &docker.namespace,
        run: &|arguments| docker.run(arguments),
        name: "own",
        gateway: [10, 91, 7, 1].into(),
        server: [10, 91, 7, 9].into(),
        server6: None,
        mtu: 1400,
        has_names: true,
    };
    network.is_whole();
    network.can_be_absent();
    docker.text(&["network", "rm", "own"]);
}

/// docker run in the foreground: streams, a terminal, exit codes, docker's default rights and seccomp profile.
fn runs_in_the_foreground(oci: &Oci) {
    let docker = Docker::new(oci);
    streams_and_code(oci, |arguments| docker.command(arguments));
    let mut terminal = Terminal::of(
        &docker.command(&[
            "run",
            "--rm",
            "-it",
            "--network",
            "none",
            IMAGE,
            "sh",
            "-c",
            "tty; read line; until stty size | grep '37 91'; do sleep 0.1; done 2>/dev/null; echo got $line; exit 9",
        ]),
        37,
        91,
    );
    terminal.wait_for("/dev/pts/0");
    terminal.type_keys("typed\n");
    terminal.wait_for("37 91");
    terminal.wait_for("got typed");
    assert_eq!(terminal.wait().code(), Some(9), "{}", terminal.screen());
    let outcome = docker.run(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--read-only",
        "--cap-drop",
        "all",
        "--cap-add",
        "CHOWN",
        "--user",
        "1000:1001",
        "--hostname",
        "a-name",
        IMAGE,
        "/probe",
        "look",
        "path=/",
    ]);
    outcome.assert_code(0);
    let seen: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert_eq!(seen["status"]["CapBnd"], "0000000000000001");
    assert_eq!(seen["status"]["Uid"], "1000 1000 1000 1000");
    assert_eq!(seen["status"]["Seccomp"], "2");
    assert_eq!(seen["names"]["host"], "a-name");
    assert_ne!(seen["wanted"]["path=/"]["write"], 0);
    if !oci.is_vm() {
        assert_eq!(
            docker.run(&["run", "--rm", "--network", "none", IMAGE, "/no/such/program"]).code(),
            127
        );
        assert_eq!(
            docker.run(&["run", "--rm", "--network", "none", IMAGE, "sh", "-c", "exit 200"]).code(),
            200
        );
    }
}
