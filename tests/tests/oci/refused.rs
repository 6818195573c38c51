//! Bad input: every malformed configuration is refused with exit code 1 and one line that names the field, and leaves nothing.

use std::fs;

use bulkhead_tests::harness::oci::{Isolation, Oci, Peer};
use serde_json::{Value, json};

/// The JSON pointer of what is changed, the value (`None`: it is taken away), and words of which the error has one.
type Case = (&'static str, Option<Value>, &'static [&'static str]);

/// Changes that runc 1.1 refuses too.
fn cases() -> Vec<Case> {
    vec![
        ("/process", None, &["process"]),
        ("/process/args", None, &["args"]),
        ("/process/args", Some(json!([])), &["args"]),
        ("/process/args", Some(json!("true")), &["args"]),
        ("/process/args", Some(json!([5])), &["args"]),
        ("/process/cwd", None, &["cwd"]),
        ("/process/cwd", Some(json!("")), &["cwd"]),
        ("/process/cwd", Some(json!("relative")), &["cwd"]),
        ("/process/user", Some(json!("root")), &["user"]),
        ("/process/user/uid", Some(json!(-1)), &["uid"]),
        ("/process/user/uid", Some(json!("0")), &["uid"]),
        ("/process/user/uid", Some(json!(4_294_967_296u64)), &["uid"]),
        ("/process/user/additionalGids", Some(json!([1, "x"])), &["additionalGids"]),
        ("/process/terminal", Some(json!("no")), &["terminal"]),
        ("/process/noNewPrivileges", Some(json!(1)), &["noNewPrivileges"]),
        ("/process/oomScoreAdj", Some(json!("high")), &["oomScoreAdj"]),
        ("/process/env", Some(json!("PATH=/bin")), &["env"]),
        (
            "/process/rlimits",
            Some(json!([{"type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1}])),
            &["RLIMIT_NONSENSE"],
        ),
        (
            "/process/rlimits",
            Some(json!([{"type": "RLIMIT_NOFILE", "soft": -5, "hard": 1}])),
            &["rlimits", "soft"],
        ),
        ("/process/rlimits", Some(json!({})), &["rlimits"]),
        ("/process/capabilities", Some(json!([])), &["capabilities"]),
        ("/root", None, &["root"]),
        ("/root", Some(json!([])), &["root"]),
        ("/root/path", Some(json!("no-such-directory")), &["no-such-directory"]),
        ("/root/path", Some(json!(7)), &["path"]),
        ("/root/path", Some(json!("config.json")), &["root", "config.json"]),
        ("/hostname", Some(json!({})), &["hostname"]),
        ("/mounts", Some(json!("none")), &["mounts"]),
        (
            "/mounts",
            Some(json!([{"type": "tmpfs", "source": "x", "destination": 4}])),
            &["destination"],
        ),
        (
            "/mounts",
            Some(json!([{"type": "nonsense-fs", "source": "x", "destination": "/mnt"}])),
            &["nonsense-fs", "/mnt"],
        ),
        (
            "/mounts",
            Some(
                json!([{"type": "bind", "source": "/no/such/source", "destination": "/mnt", "options": ["bind"]}]),
            ),
            &["/no/such/source"],
        ),
        ("/linux", Some(json!([])), &["linux"]),
        ("/linux/namespaces", Some(json!([{"type": "nonsense"}])), &["nonsense"]),
        (
            "/linux/namespaces",
            Some(json!([{"type": "pid"}, {"type": "pid"}, {"type": "mount"}])),
            &["pid", "duplicate"],
        ),
        (
            "/linux/namespaces",
            Some(json!([{"type": "mount"}, {"type": "network", "path": "/no/such/ns"}])),
            &["/no/such/ns"],
        ),
        ("/linux/namespaces", Some(json!({})), &["namespaces"]),
        ("/linux/resources/memory", Some(json!({"limit": "much"})), &["limit"]),
        ("/linux/resources/cpu", Some(json!({"shares": -1})), &["shares"]),
        ("/linux/resources/pids", Some(json!({"limit": 1.5})), &["limit"]),
        ("/linux/resources/devices", Some(json!([{"allow": "yes"}])), &["allow"]),
        (
            "/linux/devices",
            Some(json!([{"path": "/dev/x", "type": "z", "major": 1, "minor": 3}])),
            &["type", "z", "device"],
        ),
        ("/linux/maskedPaths", Some(json!([7])), &["maskedPaths"]),
        (
            "/linux/sysctl",
            Some(json!({"kernel.no_such_setting_at_all": "1"})),
            &["kernel.no_such_setting_at_all"],
        ),
        ("/linux/sysctl", Some(json!({"vm.swappiness": "1"})), &["vm.swappiness"]),
        ("/linux/seccomp", Some(json!({"defaultAction": 5})), &["defaultAction"]),
        ("/linux/rootfsPropagation", Some(json!("sideways")), &["rootfsPropagation", "sideways"]),
        (
            "/linux/uidMappings",
            Some(json!([{"containerID": 0, "hostID": 1000, "size": "all"}])),
            &["size"],
        ),
        ("/hooks", Some(json!({"createRuntime": {}})), &["createRuntime"]),
        ("/hooks", Some(json!({"createRuntime": [{"path": "/no/such/hook"}]})), &["/no/such/hook"]),
        ("/annotations", Some(json!({"key": 5})), &["annotations", "key"]),
    ]
}

/// Changes that runc 1.1 lets pass or tells only when the container starts; the specification says MUST.
fn stricter_cases() -> Vec<Case> {
    let long = "x".repeat(1 << 20);
    vec![
        ("/ociVersion", None, &["ociVersion"]),
        ("/ociVersion", Some(json!("")), &["ociVersion"]),
        ("/ociVersion", Some(json!("2.0.0")), &["ociVersion"]),
        ("/ociVersion", Some(json!("nonsense")), &["ociVersion"]),
        ("/process/args", Some(json!([""])), &["args", "exec"]),
        ("/process/args", Some(json!(["tr\u{0}ue"])), &["args"]),
        ("/process/env", Some(json!(["A\u{0}B=c"])), &["env"]),
        ("/process/env", Some(json!([format!("BIG={long}"), "PATH=/bin"])), &["env"]),
        ("/process/oomScoreAdj", Some(json!(5000)), &["oomScoreAdj"]),
        (
            "/process/rlimits",
            Some(json!([{"type": "RLIMIT_NOFILE", "soft": 20, "hard": 10}])),
            &["rlimits", "RLIMIT_NOFILE"],
        ),
        (
            "/process/rlimits",
            Some(
                json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}, {"type": "RLIMIT_NOFILE", "soft": 2, "hard": 2}]),
            ),
            &["rlimits", "RLIMIT_NOFILE"],
        ),
        ("/process/scheduler", Some(json!({"policy": "SCHED_NONSENSE"})), &["SCHED_NONSENSE"]),
        (
            "/process/ioPriority",
            Some(json!({"class": "IOPRIO_CLASS_NONSENSE", "priority": 1})),
            &["IOPRIO_CLASS_NONSENSE"],
        ),
        (
            "/process/ioPriority",
            Some(json!({"class": "IOPRIO_CLASS_BE", "priority": 90})),
            &["priority"],
        ),
        ("/root/path", Some(json!("")), &["root.path"]),
        ("/root/path", None, &["path"]),
        ("/hostname", Some(json!("x".repeat(65))), &["hostname"]),
        ("/mounts/0/destination", None, &["destination"]),
        ("/mounts/0/destination", Some(json!("")), &["destination"]),
        ("/mounts/0/destination", Some(json!("/proc/../../x\u{0}")), &["destination"]),
        (
            "/linux/namespaces",
            Some(json!([{"type": "mount"}, {"type": "pid", "path": "relative/path"}])),
            &["relative/path", "namespaces"],
        ),
        (
            "/linux/uidMappings",
            Some(json!([{"containerID": 0, "hostID": 1000, "size": 1}])),
            &["idMappings", "user"],
        ),
        ("/linux/resources/cpu", Some(json!({"cpus": "nonsense"})), &["cpus", "nonsense"]),
        ("/linux/resources/pids", Some(json!({"limit": 0.5})), &["limit"]),
        (
            "/linux/devices",
            Some(json!([{"path": "relative", "type": "c", "major": 1, "minor": 3}])),
            &["relative"],
        ),
        ("/linux/seccomp", Some(json!({"defaultAction": "SCMP_ACT_NOTIFY"})), &["SCMP_ACT_NOTIFY"]),
        ("/hooks", Some(json!({"prestart": [{"args": ["x"]}]})), &["path"]),
        ("/hooks", Some(json!({"poststop": [{"path": "relative"}]})), &["poststop"]),
    ]
}

fn change(config: &mut Value, pointer: &str, value: Option<Value>) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = config.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"));
    match (parent, value) {
        (Value::Object(fields), Some(value)) => drop(fields.insert(key.to_owned(), value)),
        (Value::Object(fields), None) => drop(fields.remove(key)),
        (other, _) => panic!("{pointer}: {other}"),
    }
}

/// `create` of this text is refused: what is wrong with that, if anything.
fn problem(oci: &Oci, what: &str, config: &[u8], words: &[&str]) -> Option<String> {
    let path = oci.path("bundle");
    fs::write(path.join("config.json"), config).unwrap();
    let outcome = oci.run(&["create", "--bundle", path.to_str().unwrap(), "refused"]);
    if outcome.status.success() {
        oci.delete_force("refused");
        return Some(format!("{what}: is taken"));
    }
    let error = outcome.error_text();
    let mut wrong = Vec::new();
    if outcome.status.code() != Some(1) {
        wrong.push(format!("{}", outcome.status));
    }
    if oci.is_bulkhead() {
        if error.lines().count() != 1 {
            wrong.push(format!("{} lines", error.lines().count()));
        }
        if error.len() > 1000 {
            wrong.push(format!("{} bytes", error.len()));
        }
        if !words.iter().any(|word| error.contains(word)) {
            wrong.push(format!("none of {words:?} in it"));
        }
    }
    let left = oci.leftovers();
    if !left.is_empty() {
        wrong.push(format!("left: {left:?}"));
        oci.run(&["delete", "--force", "refused"]);
    }
    (!wrong.is_empty()).then(|| {
        format!("{what}: {}: {}", wrong.join(", "), error.chars().take(600).collect::<String>())
    })
}

fn problems(oci: &Oci, cases: Vec<Case>) -> Vec<String> {
    let bundle = oci.bundle("bundle");
    let each = cases.into_iter().filter_map(|(pointer, value, words)| {
        let shown: String = value
            .as_ref()
            .map_or("missing".to_owned(), Value::to_string)
            .chars()
            .take(100)
            .collect();
        let mut config = bundle.config.clone();
        change(&mut config, pointer, value);
        problem(oci, &format!("{pointer} = {shown}"), config.to_string().as_bytes(), words)
    });
    each.collect()
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{} of the cases:\n{}", problems.len(), problems.join("\n"));
}

/// The checks come before the isolation; still, a machine would be seen by what it leaves.
fn malformed(isolation: Isolation) {
    let Some(oci) = Oci::new(isolation) else { return };
    let mut all = cases();
    if oci.peer() == Peer::Runc {
        // runc 1.1 takes a configuration without a process.
        all.retain(|(pointer, value, _)| *pointer != "/process" || value.is_some());
    }
    if oci.is_bulkhead() {
        all.extend(stricter_cases());
    }
    if oci.is_vm() {
        // A sysctl that is not there is found out by the guest, and what the guest mounts is its own affair.
        all.retain(|(pointer, value, _)| {
            let text = value.as_ref().map(Value::to_string).unwrap_or_default();
            !(*pointer == "/linux/sysctl"
                || text.contains("nonsense-fs")
                || text.contains("relative/path"))
        });
    }
    let problems = problems(&oci, all);
    assert_none(&problems);
    oci.assert_nothing_left();
}

/// Configurations that are no configuration at all.
fn unreadable(isolation: Isolation) {
    let Some(oci) = Oci::new(isolation) else { return };
    let config = oci.bundle("bundle").config.to_string();
    let mut bytes = config.replace("\"true\"", "\"tr#ue\"").into_bytes();
    let at = bytes.iter().position(|byte| *byte == b'#').unwrap();
    bytes[at] = 0xff;
    let mut found = Vec::new();
    let mut texts: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("no JSON", b"nonsense".to_vec()),
        ("cut off", config.as_bytes()[..config.len() / 2].to_vec()),
        ("a list", b"[]".to_vec()),
        ("an empty object", b"{}".to_vec()),
        ("deep", [vec![b'['; 200_000], vec![b']'; 200_000]].concat()),
    ];
    if oci.is_bulkhead() {
        // runc 1.1 crashes on it; Go's JSON replaces what is no UTF-8, and takes the first of two.
        texts.push(("null", b"null".to_vec()));
        texts.push(("not UTF-8", bytes));
        texts.push(("two values", format!("{config}{config}").into_bytes()));
        texts.push((
            "huge",
            format!("{{\"annotations\": {{\"x\": \"{}\"}}}}", "y".repeat(40 << 20)).into_bytes(),
        ));
    }
    for (what, text) in texts {
        found.extend(problem(
            &oci,
            what,
            &text,
            &["config.json", "process", "args", "JSON", "ociVersion"],
        ));
    }
    assert_none(&found);
    oci.assert_nothing_left();
}

#[test]
fn malformed_on_the_host() {
    malformed(Isolation::Host);
}

#[test]
fn unreadable_on_the_host() {
    unreadable(Isolation::Host);
}
