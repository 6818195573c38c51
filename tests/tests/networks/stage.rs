//! A host with networks.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use bulkhead_tests::{
    harness::{Host, Namespace, Outcome, layout_with_probe},
    image::Name,
};
use serde_json::{Value, json};

/// What separates the containers from this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    Vm,
    Host,
}

/// What a container serves from its directory `/www` on port 80.
pub(super) const SERVE: &str =
    "mkdir -p /www; hostname > /www/name; echo serving; exec httpd -f -p 80 -h /www";
/// The published port.
pub(super) const PORT: u16 = 18080;
/// The host on the network's bridge, and the first container.
pub(super) const GATEWAY: &str = "10.91.0.1";
pub(super) const SERVER: &str = "10.91.0.2";
pub(super) const SERVER6: &str = "fd00:91::2";
/// Something in a guest may take this long on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A host whose network is a namespace, and its files of networks.
pub(super) struct Stage {
    pub(super) host: Host,
    pub(super) namespace: Namespace,
    isolation: Isolation,
}

impl Stage {
    /// With a network `web` of two families; `None`, after saying so, where this machine cannot run it.
    pub(super) fn new(isolation: Isolation) -> Option<Self> {
        let host = match isolation {
            Isolation::Host => Host::new(),
            Isolation::Vm => Host::with_kvm()?,
        };
        host.import("busybox", &layout_with_probe(Name::Busybox));
        let stage = Self { host, namespace: Namespace::new("true"), isolation };
        fs::create_dir(stage.networks()).unwrap();
        let four = json!([{ "subnet": "10.91.0.0/24" }]);
        let six = json!([{ "subnet": "fd00:91::/64" }]);
        stage.write("web", &[stage.bridge(&json!([four, six])), portmap()]);
        Some(stage)
    }

    pub(super) fn networks(&self) -> PathBuf {
        self.host.path("networks")
    }

    /// Writes the file of a network.
    pub(super) fn write(&self, name: &str, plugins: &[Value]) {
        let list = json!({ "name": name, "cniVersion": "1.0.0", "plugins": plugins });
        fs::write(self.networks().join(format!("{name}.conflist")), list.to_string()).unwrap();
    }

    /// The plugin of a bridge that gives addresses of these ranges.
    pub(super) fn bridge(&self, ranges: &Value) -> Value {
        json!({
            "type": "bridge", "bridge": "test0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
            "dns": { "nameservers": ["10.91.0.53"], "search": ["example"] },
            "ipam": {
                "type": "host-local", "ranges": ranges, "dataDir": self.host.path("leases"),
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        })
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut inner = self.host.command(arguments);
        inner.env("BULKHEAD_CNI_CONF_DIR", self.networks());
        self.namespace.wrap(&inner)
    }

    /// `bulkhead` with these words.
    #[track_caller]
    pub(super) fn bulkhead(&self, arguments: &[&str]) -> Outcome {
        self.host.boot_command(self.command(arguments)).wait()
    }

    /// The same, which is to end well: what it wrote.
    #[track_caller]
    pub(super) fn text(&self, arguments: &[&str]) -> String {
        let outcome = self.bulkhead(arguments);
        outcome.assert_code(0);
        outcome.text().trim().to_owned()
    }

    /// `bulkhead run` with these words.
    #[track_caller]
    pub(super) fn run(&self, arguments: &[&str]) -> Outcome {
        self.bulkhead(&[&["run", "--isolation", self.kind()], arguments].concat())
    }

    /// The word for the isolation.
    pub(super) fn kind(&self) -> &'static str {
        match self.isolation {
            Isolation::Vm => "vm",
            Isolation::Host => "host",
        }
    }

    /// Starts the server on this network with these flags, and waits for it.
    #[track_caller]
    pub(super) fn serve(&self, flags: &[&str]) {
        let arguments = [&["-d", "--name", "server", "--hostname", "the-server"], flags].concat();
        let outcome = self.run(&[&arguments[..], &["busybox", "sh", "-c", SERVE]].concat());
        outcome.assert_code(0);
        assert_eq!(outcome.error_text(), "");
    }

    /// `inspect` of a container.
    #[track_caller]
    pub(super) fn inspect(&self, name: &str) -> Value {
        let all: Value = serde_json::from_str(&self.text(&["inspect", name])).unwrap();
        all[0].clone()
    }

    /// What the server says its name is, at this address.
    pub(super) fn name_at(&self, ip: &str, port: u16) -> Option<String> {
        let ip: IpAddr = ip.parse().unwrap();
        self.namespace.fetch(SocketAddr::new(ip, port), "name")
    }

    /// Waits until the server answers there.
    #[track_caller]
    pub(super) fn wait_for(&self, ip: &str, port: u16) {
        self.wait(&format!("{ip} port {port}"), || {
            self.name_at(ip, port).as_deref() == Some("the-server")
        });
    }

    #[track_caller]
    pub(super) fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Addresses that the networks have given.
    pub(super) fn leases(&self) -> Vec<String> {
        let networks = fs::read_dir(self.host.path("leases")).into_iter().flatten().flatten();
        let leases = networks.flat_map(|network| fs::read_dir(network.path()).unwrap().flatten());
        let names = leases.map(|lease| lease.file_name().into_string().unwrap());
        let mut all: Vec<String> = names.filter(|name| name.parse::<IpAddr>().is_ok()).collect();
        all.sort();
        all
    }

    /// What a command prints in the namespace.
    #[track_caller]
    pub(super) fn output(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.namespace.command(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Nothing of a container is left, nor of its network.
    #[track_caller]
    pub(super) fn assert_nothing_left(&self) {
        self.host.assert_nothing_left();
        assert_eq!(self.leases(), [""; 0]);
        let rules = self.output("iptables-save", &[]);
        assert!(!rules.contains(&PORT.to_string()) && !rules.contains(SERVER), "{rules}");
        let links = self.output("ip", &["-o", "link"]);
        assert!(!links.contains("veth"), "{links}");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let own = self.host.state();
        assert!(!mounts.contains(own.to_str().unwrap()), "{mounts}");
    }
}

/// The plugin that publishes ports.
pub(super) fn portmap() -> Value {
    json!({ "type": "portmap", "capabilities": { "portMappings": true } })
}
