//! Networks of podman and docker: addresses, published ports, containers that talk to each other. All of it is in a network namespace of the
//! test's own, which is the host to the engine.

use std::net::{IpAddr, SocketAddr};

use bulkhead_tests::harness::{Namespace, Outcome, oci::Oci};

use super::shared::IMAGE;

/// What a container serves from its directory `/www` on port 80.
const SERVE: &str = "mkdir /www; hostname > /www/name; echo serving; exec httpd -f -p 80 -h /www";
const PORT: u16 = 18080;

/// What an engine's test gives: its command line, and where its containers are.
pub(super) struct Network<'a> {
    pub(super) oci: &'a Oci,
    pub(super) namespace: &'a Namespace,
    pub(super) run: &'a dyn Fn(&[&str]) -> Outcome,
    /// The engine's name for the network.
    pub(super) name: &'a str,
    /// The host's address on the bridge, and one that the server gets.
    pub(super) gateway: IpAddr,
    pub(super) server: IpAddr,
    /// An address of IPv6 that the server gets.
    pub(super) server6: Option<IpAddr>,
    pub(super) mtu: u32,
    /// Containers know each other by name.
    pub(super) has_names: bool,
}

impl Network<'_> {
    #[track_caller]
    fn text(&self, arguments: &[&str]) -> String {
        let outcome = (self.run)(arguments);
        outcome.assert_code(0);
        outcome.text().trim().to_owned()
    }

    /// A server with a published port: seen by the host at both, and by another container; and it sees the host.
    pub(super) fn is_whole(&self) {
        let server = self.server.to_string();
        let publish = format!("{PORT}:80");
        let mut arguments = vec!["run", "--detach", "--name", "server", "--hostname", "the-server"];
        arguments.extend(["--network", self.name, "--ip", &server, "--publish", &publish]);
        let address6 = self.server6.map(|ip| ip.to_string()).unwrap_or_default();
        if self.server6.is_some() {
            arguments.extend(["--ip6", &address6]);
        }
        self.text(&[&arguments[..], &[IMAGE, "sh", "-c", SERVE]].concat());
        self.oci.wait("the server", || (self.run)(&["logs", "server"]).text().contains("serving"));
        let at = |ip: IpAddr, port| SocketAddr::new(ip, port);
        let name = Some("the-server".to_owned());
        self.oci.wait("its port", || self.namespace.fetch(at(self.server, 80), "name") == name);
        // The published one, at an address of the host's.
        self.oci.wait("the published port", || {
            self.namespace.fetch(at(self.gateway, PORT), "name") == name
        });
        let seen = self.text(&[
            "exec",
            "server",
            "sh",
            "-c",
            "ip -o address; ip route; ip link show eth0",
        ]);
        assert!(seen.contains(&format!("inet {server}/")), "{seen}");
        assert!(seen.contains(&format!("default via {}", self.gateway)), "{seen}");
        assert!(seen.contains(&format!("mtu {}", self.mtu)), "{seen}");
        if self.server6.is_some() {
            assert!(seen.contains(&format!("inet6 {address6}/")), "{seen}");
        }
        self.is_reached_by_others();
        let heard = self.namespace.serve_once(at(self.gateway, 18081), "words of the host\n");
        let script = format!("echo words of the guest | nc {} 18081", self.gateway);
        assert_eq!(self.text(&["exec", "server", "sh", "-c", &script]), "words of the host");
        let heard = heard.join().expect("no panic");
        assert_eq!(heard, format!("words of the guest from {server}"));
        // It is the same after a restart.
        self.text(&["stop", "--time", "1", "server"]);
        self.text(&["start", "server"]);
        self.oci
            .wait("the server", || self.namespace.fetch(at(self.gateway, PORT), "name") == name);
        self.text(&["rm", "--force", "server"]);
        assert_eq!(self.namespace.fetch(at(self.gateway, PORT), "name"), None);
    }

    /// Two containers talk.
    fn is_reached_by_others(&self) {
        let mut script = format!("wget -q -O - http://{}/name", self.server);
        let mut wanted = vec!["the-server"];
        if let Some(ip) = self.server6 {
            script += &format!("; wget -q -O - http://[{ip}]/name");
            wanted.push("the-server");
        }
        if self.has_names {
            script += "; wget -q -O - http://server/name";
            wanted.push("the-server");
        }
        let run = ["run", "--rm", "--network", self.name, IMAGE, "sh", "-c", &script];
        assert_eq!(self.text(&run).lines().collect::<Vec<_>>(), wanted);
    }

    /// `--network none` is a loopback device and nothing else.
    pub(super) fn can_be_absent(&self) {
        let script = "ip -o link; ip route; ping -c 1 127.0.0.1 > /dev/null && echo loop";
        let run = ["run", "--rm", "--network", "none", IMAGE, "sh", "-c", script];
        let seen = self.text(&run);
        let names: Vec<_> =
            seen.lines().map(|line| line.split(' ').nth(1).unwrap_or(line)).collect();
        assert!(seen.ends_with("loop") && seen.contains("lo:"), "{seen}");
        assert!(!names.contains(&"eth0:") && !seen.contains("default"), "{seen}");
    }
}
