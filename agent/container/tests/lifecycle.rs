//! Containers that outlive their maker: each step is another process's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

#[allow(dead_code)]
mod support;

use std::{env, fs, process::Command};

use bulkhead_container::{Kind, Platform, Record, Stdio};
use serde_json::json;
use support::{Bundle, Ended, can_run, process};

/// Another process that does one thing to a container: this program again, in its test [`step`].
fn in_another(what: &str, record: &Record, bundle: &Bundle) -> String {
    let done = Command::new(env::current_exe().unwrap())
        .args(["--exact", "step", "--nocapture", "--test-threads=1"])
        .env("STEP", what)
        .env("RECORD", serde_json::to_string(record).unwrap())
        .env("SOCKET", bundle.dir.path().join("start.sock"))
        .env("SCRATCH", bundle.dir.path().join("scratch"))
        .output()
        .unwrap();
    assert!(done.status.success(), "{what}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn step() {
    let Ok(what) = env::var("STEP") else { return };
    let record: Record = serde_json::from_str(&env::var("RECORD").unwrap()).unwrap();
    let socket = env::var("SOCKET").unwrap().into();
    let socket: std::path::PathBuf = socket;
    match what.as_str() {
        "start" => record.start(&socket).unwrap(),
        "exec" => {
            let platform = Platform::host(env::var("SCRATCH").unwrap().into()).unwrap();
            let line = process(&["sh", "-c", "echo from $(hostname) as $$; exit 4"]);
            let process = serde_json::from_value(line).unwrap();
            let joined = record.exec(&platform, Stdio::Inherited, &process).unwrap();
            assert_eq!(support::wait(&joined.process), 4);
        }
        "kill" => record.signal(9).unwrap(),
        "remove" => record.remove().unwrap(),
        "waits" => println!("waits: {}", record.is_waiting(&socket).unwrap()),
        other => panic!("{other}"),
    }
}

#[test]
fn each_step_in_another_process() {
    if !can_run() {
        return;
    }
    let bundle = Bundle::shell("sleep 1000");
    let waiting = bundle.create().unwrap();
    let record = &waiting.record;
    assert_eq!(record.pid(), waiting.process.pid().as_raw_nonzero().get());
    assert!(record.is_alive().unwrap());
    for _ in 0..3 {
        assert!(in_another("waits", record, &bundle).contains("waits: true"));
    }
    in_another("start", record, &bundle);
    assert!(in_another("waits", record, &bundle).contains("waits: false"));
    let again = record.start(&waiting.socket).unwrap_err();
    assert_eq!(again.kind(), Kind::State, "{again}");
    assert!(in_another("exec", record, &bundle).contains("from inside as "));
    in_another("kill", record, &bundle);
    assert_eq!(support::wait(&waiting.process), 128 + 9);
    assert!(!record.is_alive().unwrap());
    let late = record.signal(9).unwrap_err();
    assert_eq!(late.kind(), Kind::State, "{late}");
    in_another("remove", record, &bundle);
    in_another("remove", record, &bundle);
}

#[test]
fn one_that_nobody_committed_ends_with_its_maker() {
    if !can_run() {
        return;
    }
    let bundle = Bundle::shell("true");
    let socket = bundle.dir.path().join("start.sock");
    let builder = bulkhead_container::Builder::new(&bundle.platform, Stdio::Inherited);
    let root = bulkhead_container::Root::Directory(bundle.root());
    let detached =
        builder.detached(&bundle.id, &bundle.parsed(), root, support::listen(&socket)).unwrap();
    let record = support::copy(&detached.record);
    // Its maker's end of what they share goes with the maker; here, with this.
    drop(detached);
    while record.is_alive().unwrap() {
        std::thread::yield_now();
    }
    assert!(!record.is_waiting(&socket).unwrap());
    record.remove().unwrap();
}

#[test]
fn errors_of_the_program_come_from_create_or_start() {
    if !can_run() {
        return;
    }
    let missing = Bundle::new(&["no-such-program"]).create().err().unwrap();
    assert_eq!(missing.kind(), Kind::ProgramNotFound, "{missing}");
    let bundle = Bundle::new(&["/bin/broken"]);
    fs::write(bundle.root().join("bin/broken"), "#!/no/interpreter\n").unwrap();
    let chmod = Command::new("chmod").arg("755").arg(bundle.root().join("bin/broken")).status();
    assert!(chmod.unwrap().success());
    let mut waiting = bundle.create().unwrap();
    let error = waiting.record.start(&waiting.socket).unwrap_err();
    assert_eq!(error.kind(), Kind::ProgramNotFound, "{error}");
    assert_eq!(waiting.end().code, 1);
}

#[test]
fn hooks_of_all_kinds_at_their_moments() {
    if !can_run() {
        return;
    }
    let bundle = Bundle::shell("echo program >> /log");
    let log = bundle.root().join("log");
    // What each sees: the state, and the container's mounts below the root or as the root.
    let hook = |name: &str, log: &str, probe: &str| {
        let script = format!("{{ echo {name}; cat; echo; {probe}; }} >> {log} 2>&1");
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 60}])
    };
    let out = log.to_str().unwrap();
    let rootfs = bundle.root();
    let mounted = format!("[ -e {}/proc/1 ] && echo mounted || echo not mounted", rootfs.display());
    let bundle = bundle
        .set("/annotations", json!({"a": "b"}))
        .set("/hooks/prestart", hook("prestart", out, "true"))
        .set("/hooks/createRuntime", hook("createRuntime", out, &mounted))
        .set("/hooks/createContainer", hook("createContainer", out, &mounted))
        .set("/hooks/startContainer", hook("startContainer", "/log", "echo $HOME; hostname"));
    let mut waiting = bundle.create().unwrap();
    let pid = waiting.record.pid();
    let before = fs::read_to_string(&log).unwrap();
    waiting.record.start(&waiting.socket).unwrap();
    assert_eq!(waiting.end().code, 0);
    let all = fs::read_to_string(&log).unwrap();
    let state = |status: &str, pid: i32| {
        let (id, bundle) = (&bundle.id, bundle.dir.path().display());
        format!(
            r#"{{"ociVersion":"1.2.0","id":"{id}","status":"{status}","pid":{pid},"bundle":"{bundle}","annotations":{{"a":"b"}}}}"#
        )
    };
    let expected = format!(
        "prestart\n{0}\ncreateRuntime\n{0}\nnot mounted\ncreateContainer\n{1}\nmounted\n",
        state("creating", pid),
        state("creating", 1)
    );
    assert_eq!(before, expected);
    let rest = format!("startContainer\n{}\n/root\ninside\nprogram\n", state("created", 1));
    assert_eq!(all.strip_prefix(&expected).unwrap(), rest);
}

#[test]
fn a_hook_that_fails_ends_the_container() {
    if !can_run() {
        return;
    }
    let fails = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo why >&2; exit 7"]}]);
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let bundle = Bundle::shell("true").set(&format!("/hooks/{kind}"), fails.clone());
        let error = bundle.create().err().unwrap().to_string();
        let expected = format!("hooks.{kind}[0] \"/bin/sh\": exit status: 7: why");
        assert_eq!(error, expected);
    }
    let bundle = Bundle::shell("true").set("/hooks/startContainer", fails);
    let mut waiting = bundle.create().unwrap();
    let error = waiting.record.start(&waiting.socket).unwrap_err().to_string();
    assert!(error.contains("hooks.startContainer[0]") && error.contains("why"), "{error}");
    assert_eq!(waiting.end(), Ended { code: 1, out: String::new() });
}

#[test]
fn descriptors_are_preserved_or_closed() {
    if !can_run() {
        return;
    }
    // The test harness has others open, which must not be there either.
    let bundle = Bundle::shell("echo /proc/self/fd/*");
    let ended = bundle.run().unwrap();
    // The shell expands it with the directory open.
    assert_eq!(ended.out, "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3\n");
}

/// The program again, which says through what it can be written to, and whether it was given the same words.
#[test]
fn protected() {
    if env::var("PROTECT").is_err() {
        return;
    }
    bulkhead_container::run_from_read_only().unwrap();
    let stat = rustix::fs::statvfs("/proc/self/exe").unwrap();
    assert!(stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    let words: Vec<_> = env::args().collect();
    println!("words: {words:?}");
}

#[test]
fn the_engines_program_cannot_be_written_by_a_container() {
    if !can_run() {
        return;
    }
    let done = Command::new(env::current_exe().unwrap())
        .args(["--exact", "protected", "--nocapture", "--test-threads=1"])
        .env("PROTECT", "yes")
        .output()
        .unwrap();
    let out = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{out}");
    assert!(out.contains(r#""--exact", "protected", "--nocapture""#), "{out}");
}
