//! Requests that containerd would not make: unknown names, wrong states, and what cannot be understood.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use bulkhead_tests::harness::{Shim, containerd::Containerd, oci::Oci, own_memory};
use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, CreateTaskRequest, DeleteRequest,
        ExecProcessRequest, KillRequest, Mount, PauseRequest, PidsRequest, ResizePtyRequest,
        ResumeRequest, ShutdownRequest, StartRequest, StateRequest, StatsRequest, Status,
        UpdateTaskRequest, WaitRequest,
    },
    protobuf::{MessageField, well_known_types::any::Any},
    ttrpc::{self, Code},
};

isolations!(each_request_has_its_answer, every_verb_in_every_state);

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: ttrpc::Result<T>, code: Code) {
    match answer {
        Err(ttrpc::Error::RpcStatus(status)) => {
            assert_eq!(status.code(), code, "{}", status.message);
            assert!(!status.message.contains('\n'), "{}", status.message);
        }
        other => panic!("{code:?} is wanted, not {other:?}"),
    }
}

/// `$shim.$verb` with these fields of its request.
macro_rules! ask {
    ($shim:ident.$verb:ident, $request:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {
        $shim.$verb(&$request { $($field $(: $value)?,)* ..$request::default() })
    };
}

fn any(text: &str) -> MessageField<Any> {
    MessageField::some(Any { value: text.as_bytes().to_vec(), ..Any::default() })
}

fn each_request_has_its_answer(oci: &Oci) {
    if !oci.is_bulkhead() {
        eprintln!("SKIPPED: other shims have other codes");
        return;
    }
    let containerd = Containerd::new(oci);
    containerd.detached(&[], "c", "while :; do sleep 0.2; done");
    let shim = containerd.shim("c");
    let id = || "c".to_owned();
    let none = || "none".to_owned();
    refused(ask!(shim.state, StateRequest { id: none() }), Code::NOT_FOUND);
    refused(ask!(shim.state, StateRequest { id: id(), exec_id: none() }), Code::NOT_FOUND);
    refused(ask!(shim.start, StartRequest { id: none() }), Code::NOT_FOUND);
    refused(ask!(shim.wait, WaitRequest { id: none() }), Code::NOT_FOUND);
    refused(ask!(shim.stats, StatsRequest { id: none() }), Code::NOT_FOUND);
    refused(ask!(shim.delete, DeleteRequest { id: id(), exec_id: none() }), Code::NOT_FOUND);
    refused(ask!(shim.start, StartRequest { id: id() }), Code::FAILED_PRECONDITION);
    refused(ask!(shim.delete, DeleteRequest { id: id() }), Code::FAILED_PRECONDITION);
    refused(ask!(shim.resume, ResumeRequest { id: id() }), Code::FAILED_PRECONDITION);
    refused(ask!(shim.create, CreateTaskRequest { id: id() }), Code::ALREADY_EXISTS);
    refused(ask!(shim.checkpoint, CheckpointTaskRequest { id: id() }), Code::UNIMPLEMENTED);
    let checkpoint = "/somewhere".to_owned();
    refused(ask!(shim.create, CreateTaskRequest { id: none(), checkpoint }), Code::UNIMPLEMENTED);
    let options = any("x");
    refused(
        ask!(
            shim.create,
            CreateTaskRequest { id: none(), bundle: "/does/not/exist".into(), options }
        ),
        Code::INVALID_ARGUMENT,
    );
    for signal in [0, 65, u32::MAX] {
        refused(ask!(shim.kill, KillRequest { id: id(), signal }), Code::INVALID_ARGUMENT);
    }
    refused(
        ask!(shim.resize_pty, ResizePtyRequest { id: id(), width: 70_000 }),
        Code::INVALID_ARGUMENT,
    );
    for text in ["", "{", "[]", "7"] {
        let (exec_id, spec) = (none(), any(text));
        refused(
            ask!(shim.exec, ExecProcessRequest { id: id(), exec_id, spec }),
            Code::INVALID_ARGUMENT,
        );
    }
    for text in ["", "{", "{\"pids\":{\"limit\":\"x\"}}"] {
        let resources = any(text);
        refused(
            ask!(shim.update, UpdateTaskRequest { id: id(), resources }),
            Code::INVALID_ARGUMENT,
        );
    }
    // A process whose program is wrong is refused when it starts, and can be removed.
    let exec_id = || "bad".to_owned();
    let spec = || any("{\"args\":[\"no-such-program\"],\"cwd\":\"/\"}");
    ask!(shim.exec, ExecProcessRequest { id: id(), exec_id: exec_id(), spec: spec() }).unwrap();
    refused(
        ask!(shim.exec, ExecProcessRequest { id: id(), exec_id: exec_id(), spec: spec() }),
        Code::ALREADY_EXISTS,
    );
    refused(
        ask!(shim.kill, KillRequest { id: id(), exec_id: exec_id(), signal: 9 }),
        Code::FAILED_PRECONDITION,
    );
    refused(ask!(shim.start, StartRequest { id: id(), exec_id: exec_id() }), Code::UNKNOWN);
    ask!(shim.delete, DeleteRequest { id: id(), exec_id: exec_id() }).unwrap();
    // Limits are changed.
    let resources = any("{\"pids\":{\"limit\":60},\"memory\":{\"limit\":0}}");
    ask!(shim.update, UpdateTaskRequest { id: id(), resources }).unwrap();
    let metrics = containerd.text(&["task", "metrics", "c"]);
    let limit = metrics.lines().find(|line| line.starts_with("pids.limit"));
    assert!(limit.is_some_and(|line| line.trim().ends_with(" 60")), "{metrics}");
    // Nothing of all that has done something to the container, and a shim with one does not end.
    ask!(shim.close_io, CloseIORequest { id: id(), stdin: true }).unwrap();
    ask!(shim.shutdown, ShutdownRequest { id: id(), now: true }).unwrap();
    ask!(shim.pause, PauseRequest { id: id() }).unwrap();
    refused(ask!(shim.pause, PauseRequest { id: id() }), Code::FAILED_PRECONDITION);
    ask!(shim.resume, ResumeRequest { id: id() }).unwrap();
    containerd.exec("last", "c", "exit 4").assert_code(4);
    containerd.run(&["task", "kill", "--signal", "SIGKILL", "c"]);
    containerd.wait_for_state("c", "STOPPED");
    refused(ask!(shim.kill, KillRequest { id: id(), signal: 9 }), Code::NOT_FOUND);
    refused(ask!(shim.start, StartRequest { id: id() }), Code::FAILED_PRECONDITION);
    refused(ask!(shim.pause, PauseRequest { id: id() }), Code::FAILED_PRECONDITION);
    let (exec_id, spec) = (none(), spec());
    refused(
        ask!(shim.exec, ExecProcessRequest { id: id(), exec_id, spec }),
        Code::FAILED_PRECONDITION,
    );
    malformed(&containerd, &shim);
    containerd.remove("c");
}

/// What no client would send, to a shim whose container has stopped.
fn malformed(containerd: &Containerd<'_>, shim: &Shim) {
    let oci = containerd.oci;
    let bundle = oci.bundle("malformed");
    bundle.write();
    let place = bundle.path.display().to_string();
    for id in ["", "..", "a/b", "a b"] {
        let (id, bundle) = (id.to_owned(), place.clone());
        refused(ask!(shim.create, CreateTaskRequest { id, bundle }), Code::INVALID_ARGUMENT);
    }
    let new = || "new".to_owned();
    for stdout in ["moon://x", "binary://relative", "binary:///%"] {
        let (id, bundle, stdout) = (new(), place.clone(), stdout.to_owned());
        refused(
            ask!(shim.create, CreateTaskRequest { id, bundle, stdout }),
            Code::INVALID_ARGUMENT,
        );
    }
    let (id, bundle, stdin) = (new(), place.clone(), "/dev/null".to_owned());
    refused(ask!(shim.create, CreateTaskRequest { id, bundle, stdin }), Code::INVALID_ARGUMENT);
    let mount = |kind: &str, source: &str, target: &str| Mount {
        type_: kind.into(),
        source: source.into(),
        target: target.into(),
        ..Mount::default()
    };
    for (mount, code) in [
        (mount("bind", &place, "../../etc"), Code::INVALID_ARGUMENT),
        (mount("no-such-kind", "x", ""), Code::UNKNOWN),
        (mount("bind", "/does/not/exist", ""), Code::UNKNOWN),
    ] {
        let (id, bundle, rootfs) = (new(), place.clone(), vec![mount]);
        refused(ask!(shim.create, CreateTaskRequest { id, bundle, rootfs }), code);
    }
    for text in ["", "[]", "{\"root\":7}", "{\"ociVersion\":\"1.0.2\",\"process\":{}}"] {
        std::fs::write(oci.path("malformed/config.json"), text).unwrap();
        let (id, bundle) = (new(), place.clone());
        refused(ask!(shim.create, CreateTaskRequest { id, bundle }), Code::INVALID_ARGUMENT);
    }
    refused(ask!(shim.state, StateRequest { id: new() }), Code::NOT_FOUND);
    // Bytes that are no requests: a length beyond all bounds, a kind that nobody knows, and half a message.
    let frames: [&[u8]; 4] = [
        &[0xff; 4096],
        &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0],
        &[0, 0, 0, 4, 0, 0, 0, 1, 9, 9, 1, 2, 3, 4],
        &[0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 1, 2, 3],
    ];
    let pid = containerd.shim_pid("c");
    let before = own_memory(pid);
    for bytes in frames.iter().cycle().take(40) {
        let mut stream = UnixStream::connect(containerd.socket("c")).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
        // It may close the connection at any byte, and need not answer.
        let _ = stream.write_all(bytes).and_then(|()| stream.read(&mut [0; 64]));
    }
    assert_eq!(containerd.shim_pid("c"), pid);
    let grown = own_memory(pid).saturating_sub(before);
    assert!(grown < 4 << 10, "{grown} KiB");
}

/// What each verb says where it makes no sense, for a container that is made by the client itself, and for a process in it.
fn every_verb_in_every_state(oci: &Oci) {
    let containerd = Containerd::new(oci);
    containerd.detached(&["--null-io"], "c", "exec sleep 100000");
    let shim = containerd.shim("c");
    let mut bundle = oci.bundle("second");
    bundle.sh("trap 'exit 7' TERM; >/ready; while :; do sleep 0.1; done");
    bundle.write();
    let id = || "second".to_owned();
    let place = bundle.path.display().to_string();
    let options = options(oci);
    ask!(shim.create, CreateTaskRequest { id: id(), bundle: place.clone(), options }).unwrap();
    let one = || "one".to_owned();
    let spec = || any("{\"args\":[\"sleep\",\"100000\"],\"cwd\":\"/\",\"env\":[\"PATH=/bin\"]}");
    let state = |exec_id: String| {
        let state = ask!(shim.state, StateRequest { id: id(), exec_id }).unwrap();
        state.status.enum_value().unwrap()
    };
    // Ours tells a wrong state from a failure; runc's shim does not.
    let wrong = if oci.is_bulkhead() { Code::FAILED_PRECONDITION } else { Code::UNKNOWN };
    let never_started = |exec_id: &dyn Fn() -> String| {
        refused(ask!(shim.resume, ResumeRequest { id: id() }), wrong);
        refused(ask!(shim.pause, PauseRequest { id: id() }), wrong);
        let (id, exec_id) = (id(), exec_id());
        refused(
            ask!(shim.exec, ExecProcessRequest { id, exec_id, spec: spec() }),
            Code::ALREADY_EXISTS,
        );
    };
    assert_eq!(state(String::new()), Status::CREATED);
    ask!(shim.exec, ExecProcessRequest { id: id(), exec_id: one(), spec: spec() }).unwrap();
    assert_eq!(state(one()), Status::CREATED);
    never_started(&one);
    if oci.is_bulkhead() {
        refused(ask!(shim.kill, KillRequest { id: id(), exec_id: one(), signal: 9 }), wrong);
    }
    ask!(shim.pids, PidsRequest { id: id() }).unwrap();
    ask!(shim.stats, StatsRequest { id: id() }).unwrap();
    ask!(shim.close_io, CloseIORequest { id: id(), stdin: true }).unwrap();
    ask!(shim.resize_pty, ResizePtyRequest { id: id(), width: 80, height: 25 }).unwrap();
    ask!(shim.start, StartRequest { id: id() }).unwrap();
    // Without a handler, a first process does not get the signal (pid_namespaces(7)).
    let ready = bundle.rootfs().join("ready");
    oci.wait("its handler of SIGTERM", || ready.exists());
    // It runs, and a process in it.
    assert_eq!(state(String::new()), Status::RUNNING);
    refused(ask!(shim.start, StartRequest { id: id() }), wrong);
    refused(ask!(shim.delete, DeleteRequest { id: id() }), wrong);
    refused(ask!(shim.resume, ResumeRequest { id: id() }), wrong);
    ask!(shim.start, StartRequest { id: id(), exec_id: one() }).unwrap();
    assert_eq!(state(one()), Status::RUNNING);
    refused(ask!(shim.start, StartRequest { id: id(), exec_id: one() }), wrong);
    refused(ask!(shim.delete, DeleteRequest { id: id(), exec_id: one() }), wrong);
    // It is paused.
    ask!(shim.pause, PauseRequest { id: id() }).unwrap();
    assert_eq!(state(String::new()), Status::PAUSED);
    refused(ask!(shim.start, StartRequest { id: id() }), wrong);
    refused(ask!(shim.delete, DeleteRequest { id: id() }), wrong);
    refused(ask!(shim.pause, PauseRequest { id: id() }), wrong);
    let exec_id = || "two".to_owned();
    refused(
        ask!(shim.exec, ExecProcessRequest { id: id(), exec_id: exec_id(), spec: spec() }),
        wrong,
    );
    refused(ask!(shim.state, StateRequest { id: id(), exec_id: exec_id() }), Code::NOT_FOUND);
    ask!(shim.stats, StatsRequest { id: id() }).unwrap();
    ask!(shim.resume, ResumeRequest { id: id() }).unwrap();
    // The process has ended.
    ask!(shim.kill, KillRequest { id: id(), exec_id: one(), signal: 9 }).unwrap();
    let ended = ask!(shim.wait, WaitRequest { id: id(), exec_id: one() }).unwrap();
    assert_eq!((ended.exit_status, state(one())), (137, Status::STOPPED));
    refused(ask!(shim.start, StartRequest { id: id(), exec_id: one() }), wrong);
    refused(ask!(shim.kill, KillRequest { id: id(), exec_id: one(), signal: 9 }), Code::NOT_FOUND);
    let deleted = ask!(shim.delete, DeleteRequest { id: id(), exec_id: one() }).unwrap();
    assert_eq!(deleted.exit_status, 137);
    refused(ask!(shim.delete, DeleteRequest { id: id(), exec_id: one() }), Code::NOT_FOUND);
    refused(ask!(shim.wait, WaitRequest { id: id(), exec_id: one() }), Code::NOT_FOUND);
    // The container has.
    ask!(shim.kill, KillRequest { id: id(), signal: 15 }).unwrap();
    let ended = ask!(shim.wait, WaitRequest { id: id() }).unwrap();
    assert_eq!((ended.exit_status, state(String::new())), (7, Status::STOPPED));
    refused(ask!(shim.start, StartRequest { id: id() }), wrong);
    refused(ask!(shim.pause, PauseRequest { id: id() }), wrong);
    refused(ask!(shim.resume, ResumeRequest { id: id() }), wrong);
    let resources = || any("{\"pids\":{\"limit\":60}}");
    refused(ask!(shim.update, UpdateTaskRequest { id: id(), resources: resources() }), wrong);
    refused(ask!(shim.exec, ExecProcessRequest { id: id(), exec_id: one(), spec: spec() }), wrong);
    refused(ask!(shim.kill, KillRequest { id: id(), signal: 9 }), Code::NOT_FOUND);
    ask!(shim.pids, PidsRequest { id: id() }).map(drop).unwrap_or_default();
    // The answer of a second `Delete` is that there is nothing.
    assert_eq!(ask!(shim.delete, DeleteRequest { id: id() }).unwrap().exit_status, 7);
    for _ in 0..2 {
        refused(ask!(shim.delete, DeleteRequest { id: id() }), Code::NOT_FOUND);
        refused(ask!(shim.state, StateRequest { id: id() }), Code::NOT_FOUND);
    }
    // One that was never started.
    let options = self::options(oci);
    ask!(shim.create, CreateTaskRequest { id: id(), bundle: place, options }).unwrap();
    ask!(shim.kill, KillRequest { id: id(), signal: 9 }).unwrap();
    assert_eq!(ask!(shim.wait, WaitRequest { id: id() }).unwrap().exit_status, 137);
    refused(ask!(shim.start, StartRequest { id: id() }), wrong);
    assert_eq!(ask!(shim.delete, DeleteRequest { id: id() }).unwrap().exit_status, 137);
    containerd.exec("after", "c", "exit 4").assert_code(4);
    containerd.remove("c");
}

/// The options that `ctr` sends to the runtime under test.
fn options(oci: &Oci) -> MessageField<Any> {
    let field = |number: u8, text: &str| {
        [&[number << 3 | 2, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    };
    let (name, value) = if oci.is_bulkhead() {
        ("runtimeoptions.v1.Options", field(2, oci.path("options.toml").to_str().unwrap()))
    } else {
        // `Options.root`.
        ("containerd.runc.v1.Options", field(7, oci.root().to_str().unwrap()))
    };
    MessageField::some(Any { type_url: name.into(), value, ..Any::default() })
}
