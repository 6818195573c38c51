//! A containerd with its CRI plugin, and pods of it.

use std::{fs, path::PathBuf};

use bulkhead_tests::{
    harness::{
        containerd::{Containerd, HOST_PROGRAM, IMAGE, PROGRAM, runtime_name},
        image_with_probe,
        oci::{Isolation, Oci, Peer},
    },
    image::{Image, Name},
};
use serde_json::json;
use tonic::Status;

use super::{
    channels::Channels,
    client::Client,
    messages::{
        ContainerConfig, ContainerMetadata, ContainerStatus, ContainerStatusAnswer,
        CreateContainer, Empty, ExecSync, Executed, Id, ImageSpec, Images, LinuxContainer,
        LinuxPod, Metadata, Mount, Namespaces, PodConfig, PodSecurity, PodStatusAnswer,
        PortForward, Resources, RunPod, Security, Stop, UpdateResources, Url, Users,
    },
};

/// A container's state.
pub(super) const EXITED: i32 = 2;
/// The sandbox's image.
const PAUSE: &str = "localhost/pause:test";
/// The end of the name of a handler that says to be runc's and has the path of another program: its pods may have user namespaces in containerd 2, which
/// neither asks other types of runtimes for their features nor can give such pods options that are not runc's.
const BY_PATH: &str = "-by-path";
/// Every pod's network: a pair of interfaces and a route.
const NETWORK: &str = "10.211.87.0/24";

/// A containerd with its CRI plugin.
pub(super) struct Cri<'a> {
    pub(super) containerd: Containerd<'a>,
    pub(super) client: Client,
    /// The sandbox's image, to make others of.
    pub(super) pause: Image,
}

/// A pod whose sandbox runs.
pub(super) struct Pod<'a> {
    cri: &'a Cri<'a>,
    config: PodConfig,
    id: String,
}

impl<'a> Cri<'a> {
    pub(super) fn new(oci: &'a Oci) -> Self {
        let networks = oci.path("networks");
        fs::create_dir(&networks).unwrap();
        let network = json!({
            "cniVersion": "0.4.0", "name": oci.mark(), "plugins": [{
                "type": "ptp",
                "ipam": {
                    "type": "host-local", "ranges": [[{ "subnet": NETWORK }]],
                    "routes": [{ "dst": "0.0.0.0/0" }], "dataDir": oci.path("addresses"),
                },
            }],
        });
        fs::write(networks.join("pods.conflist"), network.to_string()).unwrap();
        let containerd = Containerd::configured(oci, "k8s.io", &configuration(oci));
        containerd.import(IMAGE);
        let mut pause = image_with_probe(Name::Busybox);
        pause.layers.truncate(1);
        let waits = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";
        pause.config.entrypoint = ["sh", "-c", waits].map(String::from).into();
        pause.config.cmd = Vec::new();
        let archive = oci.path("pause.tar");
        pause.write_docker_archive(PAUSE, &archive).unwrap();
        containerd.text(&["image", "import", archive.to_str().unwrap()]);
        let client = Client::new(&oci.path("c.sock"));
        oci.wait("the CRI plugin to know the images", || {
            let listed: Result<Images, _> = client.call("ImageService/ListImages", Empty {});
            let names: Vec<_> = listed
                .into_iter()
                .flat_map(|listed| listed.images)
                .flat_map(|image| image.names)
                .collect();
            [IMAGE, PAUSE].iter().all(|name| names.iter().any(|known| known == name))
        });
        Self { containerd, client, pause }
    }

    fn oci(&self) -> &Oci {
        self.containerd.oci
    }

    pub(super) fn try_pod(
        &'a self,
        name: &str,
        handler: &str,
        users: Option<Users>,
    ) -> Result<Pod<'a>, Status> {
        let config = PodConfig {
            metadata: Some(Metadata {
                name: name.into(),
                uid: format!("{}-{name}", self.oci().mark()),
                namespace: "default".into(),
            }),
            hostname: name.into(),
            log_directory: self.oci().path("logs").display().to_string(),
            linux: Some(LinuxPod {
                cgroup_parent: format!("/{}-pod", self.oci().mark()),
                security: Some(PodSecurity { namespaces: Some(Namespaces { pid: 1, users }) }),
                resources: Some(Resources { memory_limit_in_bytes: 128 << 20 }),
            }),
        };
        let request = RunPod { config: Some(config.clone()), runtime_handler: handler.into() };
        let Id { id } = self.client.ask("RunPodSandbox", request)?;
        Ok(Pod { cri: self, config, id })
    }

    #[track_caller]
    pub(super) fn run_pod(&'a self, name: &str) -> Pod<'a> {
        self.run_pod_of(name, None)
    }

    /// One with a user namespace.
    #[track_caller]
    pub(super) fn run_pod_of(&'a self, name: &str, users: Option<Users>) -> Pod<'a> {
        let isolation = if self.oci().is_vm() { "vm" } else { "host" };
        let end = users.as_ref().map_or("", |_| BY_PATH);
        self.try_pod(name, &format!("{isolation}{end}"), users)
            .unwrap_or_else(|status| panic!("{status}"))
    }

    /// Kills the process that stands for a pod's sandbox.
    #[track_caller]
    pub(super) fn kill_sandbox(&self, pod: &Pod<'_>) {
        self.containerd.text(&["task", "kill", "--signal", "SIGKILL", &pod.id]);
    }
}

/// The CRI plugin's part of containerd's configuration, with two handlers.
fn configuration(oci: &Oci) -> String {
    let (networks, options) = (oci.path("networks"), oci.path("options.toml"));
    let runtime = |isolation| match oci.peer() {
        Peer::Bulkhead(_) => runtime_name(Peer::Bulkhead(isolation)),
        other => runtime_name(other),
    };
    let mut text = format!(
        r#"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  stream_server_address = "127.0.0.1"
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "vm"
"#,
        networks.display()
    );
    for (name, isolation) in [("vm", Isolation::Vm), ("host", Isolation::Host)] {
        let section =
            format!("  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{name}");
        let program = match (oci.peer(), isolation) {
            (Peer::Runc | Peer::Crun, _) => "/usr/bin/containerd-shim-runc-v2".into(),
            (_, Isolation::Vm) => oci.path("bin").join(PROGRAM),
            (_, Isolation::Host) => oci.path("bin").join(HOST_PROGRAM),
        };
        text += &format!(
            "{section}{BY_PATH}]\n    runtime_type = \"{}\"\n    runtime_path = \"{}\"\n",
            runtime_name(Peer::Runc),
            program.display()
        );
        text += &format!("{section}]\n    runtime_type = \"{}\"\n", runtime(isolation));
        if oci.is_bulkhead() {
            text += &format!(
                "    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{name}.options]\n      TypeUrl = \"runtimeoptions.v1.Options\"\n      ConfigPath = \"{}\"\n",
                options.display()
            );
        }
    }
    text
}

impl Pod<'_> {
    pub(super) fn ip(&self) -> String {
        let id = Id { id: self.id.clone() };
        let answer: PodStatusAnswer = self.cri.client.ask("PodSandboxStatus", id).unwrap();
        let status = answer.status.unwrap();
        assert_eq!(status.state, 0, "{status:?}");
        status.network.unwrap().ip
    }

    fn container(&self, name: &str, attempt: u32, words: &[&str]) -> ContainerConfig {
        let security = self.config.linux.as_ref().and_then(|linux| linux.security.clone());
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.into(), attempt }),
            image: Some(ImageSpec { image: IMAGE.into() }),
            command: words.iter().map(ToString::to_string).collect(),
            log_path: format!("{name}.{attempt}.log"),
            linux: Some(LinuxContainer {
                resources: Some(Resources { memory_limit_in_bytes: 32 << 20 }),
                security: security.map(|PodSecurity { namespaces }| Security { namespaces }),
            }),
            ..ContainerConfig::default()
        }
    }

    /// Makes and starts a container.
    pub(super) fn try_start(
        &self,
        name: &str,
        attempt: u32,
        words: &[&str],
    ) -> Result<String, Status> {
        self.run_container(self.container(name, attempt, words))
    }

    /// One with standard input, and perhaps a terminal.
    #[track_caller]
    pub(super) fn start_attachable(&self, name: &str, script: &str, tty: bool) -> String {
        let container = self.container(name, 0, &["sh", "-c", script]);
        let started = self.run_container(ContainerConfig { stdin: true, tty, ..container });
        started.unwrap_or_else(|status| panic!("{name}: {status}"))
    }

    /// One with a directory of the host.
    #[track_caller]
    pub(super) fn start_with(&self, name: &str, script: &str, mount: Mount) -> String {
        let container = self.container(name, 0, &["sh", "-c", script]);
        let started = self.run_container(ContainerConfig { mounts: vec![mount], ..container });
        started.unwrap_or_else(|status| panic!("{name}: {status}"))
    }

    /// One of another image.
    #[track_caller]
    pub(super) fn start_image(&self, image: &str, name: &str, script: &str) -> String {
        let container = self.container(name, 0, &["sh", "-c", script]);
        let image = Some(ImageSpec { image: image.into() });
        let started = self.run_container(ContainerConfig { image, ..container });
        started.unwrap_or_else(|status| panic!("{name}: {status}"))
    }

    fn run_container(&self, config: ContainerConfig) -> Result<String, Status> {
        let request = CreateContainer {
            pod: self.id.clone(),
            config: Some(config),
            pod_config: Some(self.config.clone()),
        };
        let made: Id = self.cri.client.ask("CreateContainer", request)?;
        let _: Empty = self.cri.client.ask("StartContainer", made.clone())?;
        Ok(made.id)
    }

    #[track_caller]
    pub(super) fn start(&self, name: &str, attempt: u32, script: &str) -> String {
        let started = self.try_start(name, attempt, &["sh", "-c", script]);
        started.unwrap_or_else(|status| panic!("{name} {attempt}: {status}"))
    }

    /// Runs a script in a container: its code and what it writes.
    #[track_caller]
    pub(super) fn run(&self, container: &str, script: &str) -> (i32, String, String) {
        let request = ExecSync {
            container: container.into(),
            command: ["sh", "-c", script].map(String::from).into(),
            timeout: 300,
        };
        let done: Executed = self.cri.client.ask("ExecSync", request).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (done.exit_code, text(done.stdout), text(done.stderr))
    }

    /// What a script says that must succeed.
    #[track_caller]
    pub(super) fn exec(&self, container: &str, script: &str) -> String {
        let (code, out, error) = self.run(container, script);
        assert_eq!((code, error.as_str()), (0, ""), "{script}: {out}");
        out
    }

    /// Streams of this kind, of a container of the pod.
    #[track_caller]
    pub(super) fn streams<Q: prost::Message + 'static>(
        &self,
        method: &str,
        request: Q,
    ) -> Channels {
        let Url { url } = self.cri.client.ask(method, request).unwrap();
        Channels::open(&url)
    }

    /// A connection to a port of the pod.
    #[track_caller]
    pub(super) fn forward(&self, port: u16) -> Channels {
        let request = PortForward { pod: self.id.clone(), ports: vec![port.into()] };
        let Url { url } = self.cri.client.ask("PortForward", request).unwrap();
        Channels::open(&format!("{url}?port={port}"))
    }

    /// The host's process that stands for the pod's sandbox.
    #[track_caller]
    pub(super) fn pid(&self) -> u32 {
        self.cri.containerd.task(&self.id).unwrap().0
    }

    #[track_caller]
    pub(super) fn limit(&self, container: &str, memory: i64) {
        let linux = Some(Resources { memory_limit_in_bytes: memory });
        let request = UpdateResources { container: container.into(), linux };
        let _: Empty = self.cri.client.ask("UpdateContainerResources", request).unwrap();
    }

    #[track_caller]
    fn status(&self, container: &str) -> ContainerStatus {
        let id = Id { id: container.into() };
        let answer: ContainerStatusAnswer = self.cri.client.ask("ContainerStatus", id).unwrap();
        answer.status.unwrap()
    }

    /// Waits until something is so.
    #[track_caller]
    pub(super) fn until(&self, what: &str, done: impl Fn() -> bool) {
        self.cri.oci().wait(what, done);
    }

    /// Waits for a container's end.
    #[track_caller]
    pub(super) fn wait(&self, container: &str) -> ContainerStatus {
        self.until("a container's end", || self.status(container).state == EXITED);
        self.status(container)
    }

    pub(super) fn log(&self, name: &str, attempt: u32) -> String {
        let file = PathBuf::from(&self.config.log_directory).join(format!("{name}.{attempt}.log"));
        fs::read_to_string(file).unwrap_or_default()
    }

    #[track_caller]
    pub(super) fn stop(&self, container: &str, seconds: i64) {
        let request = Stop { container: container.into(), timeout: seconds };
        let _: Empty = self.cri.client.ask("StopContainer", request).unwrap();
    }

    #[track_caller]
    pub(super) fn remove(&self, container: &str) {
        let id = Id { id: container.into() };
        let _: Empty = self.cri.client.ask("RemoveContainer", id).unwrap();
    }

    /// Stops and removes the pod; its parent in the hierarchies of cgroups is the kubelet's to remove.
    #[track_caller]
    pub(super) fn end(self) {
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            let id = Id { id: self.id.clone() };
            let _: Empty = self.cri.client.ask(method, id).unwrap();
        }
        for cgroup in self.cri.oci().cgroups().iter().rev() {
            let _ = fs::remove_dir(cgroup);
        }
    }
}
