//! Networks of plugins that are scripts: what they are asked, in which order, and what is left when they fail.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use super::*;

/// Answers as a plugin that has made an interface.
const ADDS: &str = r#"echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:02","sandbox":"/n"}],"ips":[{"address":"10.1.2.3/24","gateway":"10.1.2.1","interface":0}],"dns":{"nameservers":["10.1.2.53"]}}'"#;

/// Writes a script. Another process does: a child of another test would have the file open for writing when it is run.
pub(super) fn script(path: &Path, text: &str) {
    let mut writer = Command::new("sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    write!(writer.stdin.take().unwrap(), "#!/bin/sh\n{text}\n").unwrap();
    assert!(writer.wait().unwrap().success());
}

/// Networks and a container's directory.
struct Stage {
    directory: TempDir,
    setup: Setup,
}

impl Stage {
    /// With a network `net` of these plugins, each of which does what its script says, after it has written down what it was asked.
    fn new(plugins: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["networks", "plugins", "container"] {
            fs::create_dir(at(name)).unwrap();
        }
        let setup =
            Setup { config_dir: at("networks"), plugin_dirs: vec![at("plugins")], timeout: 600 };
        let stage = Self { directory, setup };
        let list: Vec<Value> = plugins
            .iter()
            .map(|(name, text)| {
                stage.plugin(name, text);
                json!({ "type": name, "capabilities": { "portMappings": *name == "ports" }, "ipam": { "type": if *name == "flat" { "" } else { "own" } } })
            })
            .collect();
        let list = json!({ "name": "net", "cniVersion": "1.0.0", "plugins": list });
        fs::write(stage.path("networks/net.conflist"), list.to_string()).unwrap();
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn plugin(&self, name: &str, text: &str) {
        let log = self.path("log");
        let asked = format!("echo \"$CNI_COMMAND {name} $(cat)\" >> {}", log.display());
        script(&self.path("plugins").join(name), &format!("{asked}\n{text}"));
    }

    /// What plugins were asked, in order: command, name, and what they read.
    fn asked(&self) -> Vec<(String, Value)> {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        let asked = |line: &str| {
            let (command, input) = line.split_once(" {").unwrap();
            (command.to_owned(), serde_json::from_str(&format!("{{{input}")).unwrap())
        };
        text.lines().map(asked).collect()
    }

    fn attach(&self, ports: &[Port]) -> Result<Attached, CniError> {
        let wish = Wish::of(Some("net"), ports, None)?.unwrap();
        let (directory, namespace) = (self.path("container"), self.namespace());
        let container =
            Container { id: "c1", directory: &directory, namespace: &namespace, hostname: "web" };
        let (record, mut attached) = begin(&self.setup, &wish, container, |_| None)?;
        attach(record, container, &mut attached)?;
        Ok(attached)
    }

    fn namespace(&self) -> PathBuf {
        path(&self.path("run"), "c1")
    }

    #[track_caller]
    fn detach(&self) {
        detach(&self.path("container")).unwrap();
        self.assert_nothing_left();
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        assert!(!self.namespace().exists());
        assert_eq!(Record::read(&self.path("container")).unwrap(), None);
    }

    #[track_caller]
    fn refused(&self, ports: &[Port]) -> String {
        let error = self.attach(ports).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    }
}

fn port(text: &str) -> Port {
    text.parse().unwrap()
}

/// A port that nobody has.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn plugins_are_asked_in_order_and_undone_in_reverse() {
    let stage = Stage::new(&[
        ("first", ADDS),
        (
            "ports",
            "cat > /dev/null; echo '{\"ips\":[{\"address\":\"10.1.2.3/24\"}],\"changed\":1}'",
        ),
    ]);
    let free = free_port();
    let attached = stage.attach(&[port(&format!("127.0.0.1:{free}:80"))]).unwrap();
    assert_eq!((attached.ports.len(), attached.warnings.len()), (1, 0));
    assert!(TcpListener::bind(("127.0.0.1", free)).is_err());
    let asked = stage.asked();
    assert_eq!(
        asked.iter().map(|one| one.0.as_str()).collect::<Vec<_>>(),
        ["ADD first", "ADD ports"]
    );
    assert!(asked[0].1.get("prevResult").is_none() && asked[0].1.get("runtimeConfig").is_none());
    assert_eq!(asked[1].1["prevResult"]["ips"][0]["address"], "10.1.2.3/24");
    let mapping = json!([{ "hostPort": free, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1" }]);
    assert_eq!(asked[1].1["runtimeConfig"]["portMappings"], mapping);
    assert_eq!((&asked[1].1["name"], &asked[1].1["cniVersion"]), (&json!("net"), &json!("1.0.0")));
    assert!(namespace::is_there(&stage.namespace()));
    let record = Record::read(&stage.path("container")).unwrap().unwrap();
    assert_eq!(record.view().addresses(), ["10.1.2.3"]);
    assert!(record.has(&port(&format!("{free}:1"))) && !record.has(&port("1:80")));
    let hosts = fs::read_to_string(stage.path("container/hosts")).unwrap();
    assert!(hosts.contains("10.1.2.3\tweb"), "{hosts}");
    stage.detach();
    let asked = stage.asked();
    assert_eq!(
        asked[2..].iter().map(|one| one.0.as_str()).collect::<Vec<_>>(),
        ["DEL ports", "DEL first"]
    );
    for (command, input) in &asked[2..] {
        assert_eq!(input["prevResult"]["changed"], 1, "{command}");
    }
    assert_eq!(asked[2].1["runtimeConfig"]["portMappings"], mapping);
    // It is done, and nobody is asked again.
    stage.detach();
    assert_eq!(stage.asked().len(), 4);
}

#[test]
fn a_plugin_that_fails_is_told_of_and_all_are_undone() {
    for (script, wanted) in [
        (
            "[ $CNI_COMMAND = DEL ] || { echo '{\"code\":11,\"msg\":\"no room\"}'; exit 1; }",
            "the network \"net\": plugin second (ADD): no room",
        ),
        ("echo rubbish", "plugin second (ADD): it wrote no result: rubbish"),
        ("true", "plugin second (ADD): it wrote no result"),
        ("echo '[]'", "it wrote no result: []"),
        ("echo '{\"ips\":7}'", "plugin second (ADD): "),
        ("[ $CNI_COMMAND = DEL ] || head -c 2000000 /dev/zero", "it wrote more than 1048576 bytes"),
        ("echo '{}'", "the network \"net\" gave the container no address"),
        (
            "umount $CNI_NETNS; echo '{\"ips\":[{\"address\":\"10.1.2.3/24\"}]}'",
            "is gone: something removed it",
        ),
    ] {
        let stage = Stage::new(&[("first", ADDS), ("second", script)]);
        let error = stage.refused(&[]);
        assert!(error.contains(wanted), "{error}");
        stage.detach();
        let asked: Vec<String> = stage.asked().into_iter().map(|one| one.0).collect();
        assert_eq!(asked, ["ADD first", "ADD second", "DEL second", "DEL first"]);
    }
}

#[test]
fn a_plugin_that_hangs_is_ended() {
    let mut stage = Stage::new(&[("first", "[ $CNI_COMMAND = DEL ] || sleep 1000")]);
    stage.setup.timeout = 1;
    let error = stage.refused(&[]);
    assert!(error.contains("it has not ended in 1 s and was killed"), "{error}");
    // What undoes it may take its time.
    let directory = stage.path("container");
    let mut record = Record::read(&directory).unwrap().unwrap();
    record.setup.timeout = 600;
    record.write(&directory).unwrap();
    stage.detach();
}

#[test]
fn a_network_without_addresses_has_no_ports() {
    let stage = Stage::new(&[("flat", "echo '{}'")]);
    let attached = stage.attach(&[]).unwrap();
    assert!(attached.warnings[0].contains("no addresses"), "{:?}", attached.warnings);
    stage.detach();
    let error = stage.refused(&[port("1:1")]);
    assert!(error.contains("publishes no ports"), "{error}");
    stage.assert_nothing_left();
}

#[test]
fn what_cannot_be_undone_is_kept_for_the_next_try() {
    let stage = Stage::new(&[("first", ADDS), ("second", ADDS)]);
    stage.attach(&[]).unwrap();
    stage.plugin("second", "echo no >&2; exit 1");
    let error = detach(&stage.path("container")).unwrap_err().to_string();
    assert_eq!(error, "the network \"net\": plugin second (DEL): no");
    let asked: Vec<String> = stage.asked().into_iter().map(|one| one.0).collect();
    assert_eq!(asked[2..], ["DEL second", "DEL first"]);
    assert!(namespace::is_there(&stage.namespace()));
    fs::remove_file(stage.path("plugins/second")).unwrap();
    let error = detach(&stage.path("container")).unwrap_err().to_string();
    assert!(error.contains("needs the CNI plugin \"second\""), "{error}");
    stage.plugin("second", "true");
    stage.detach();
    // Or nobody can do it.
    stage.plugin("second", ADDS);
    stage.attach(&[]).unwrap();
    fs::remove_dir_all(stage.path("plugins")).unwrap();
    assert!(detach(&stage.path("container")).is_err());
    abandon(&stage.path("container"), &stage.namespace()).unwrap();
    stage.assert_nothing_left();
    fs::write(stage.path("container/network.json"), "{").unwrap();
    assert!(matches!(detach(&stage.path("container")), Err(CniError::Damaged { .. })));
}

#[test]
fn ports_that_others_have_are_refused() {
    let stage = Stage::new(&[("ports", ADDS)]);
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().port();
    let error = stage.refused(&[port(&format!("{taken}:80"))]);
    assert_eq!(error, format!("port {taken}/tcp is in use on this host; publish another one"));
    stage.assert_nothing_left();
    let twice = Wish::of(None, &[port("80:1"), port("127.0.0.1:80:2")], None).unwrap_err();
    assert!(twice.to_string().contains("twice"), "{twice}");
    assert!(Wish::of(Some("none"), &[port("80:1")], None).is_err());
    assert_eq!(Wish::of(Some("none"), &[], None).unwrap(), None);
    assert_eq!(Wish::of(None, &[], None).unwrap(), None);
    assert_eq!(Wish::of(None, &[port("80:1")], None).unwrap().unwrap().name, DEFAULT);
    let wish = Wish::of(Some("net"), &[port("80:1")], None).unwrap().unwrap();
    let (directory, namespace) = (stage.path("container"), stage.namespace());
    let container =
        Container { id: "c1", directory: &directory, namespace: &namespace, hostname: "web" };
    let error = begin(&stage.setup, &wish, container, |_| Some("web".into())).unwrap_err();
    assert!(error.to_string().starts_with("port 80/tcp is published by container web"), "{error}");
    stage.assert_nothing_left();
    assert!(stage.asked().is_empty());
    fs::remove_file(stage.path("plugins/ports")).unwrap();
    let error = wish.check(&stage.setup).unwrap_err().to_string();
    assert!(
        error.contains("needs the CNI plugin \"ports\"") && error.contains("BULKHEAD_CNI_PATH"),
        "{error}"
    );
}
