//! Requests that containerd would not make: unknown names, wrong states, and what cannot be understood.

use bulkhead_tests::harness::{
    containerd::{Containerd, patient},
    oci::Oci,
};
use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, CreateTaskRequest, DeleteRequest,
        ExecProcessRequest, KillRequest, PauseRequest, ResizePtyRequest, ResumeRequest,
        ShutdownRequest, StartRequest, StateRequest, StatsRequest, UpdateTaskRequest, WaitRequest,
    },
    protobuf::{MessageField, well_known_types::any::Any},
    ttrpc::{self, Code},
};

isolations!(each_request_has_its_answer);

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
    macro_rules! ask {
        ($verb:ident, $request:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {
            shim.$verb(patient(), &$request { $($field $(: $value)?,)* ..$request::default() })
        };
    }
    refused(ask!(state, StateRequest { id: none() }), Code::NOT_FOUND);
    refused(ask!(state, StateRequest { id: id(), exec_id: none() }), Code::NOT_FOUND);
    refused(ask!(start, StartRequest { id: none() }), Code::NOT_FOUND);
    refused(ask!(wait, WaitRequest { id: none() }), Code::NOT_FOUND);
    refused(ask!(stats, StatsRequest { id: none() }), Code::NOT_FOUND);
    refused(ask!(delete, DeleteRequest { id: id(), exec_id: none() }), Code::NOT_FOUND);
    refused(ask!(start, StartRequest { id: id() }), Code::FAILED_PRECONDITION);
    refused(ask!(delete, DeleteRequest { id: id() }), Code::FAILED_PRECONDITION);
    refused(ask!(resume, ResumeRequest { id: id() }), Code::FAILED_PRECONDITION);
    refused(ask!(create, CreateTaskRequest { id: id() }), Code::ALREADY_EXISTS);
    refused(ask!(checkpoint, CheckpointTaskRequest { id: id() }), Code::UNIMPLEMENTED);
    let checkpoint = "/somewhere".to_owned();
    refused(ask!(create, CreateTaskRequest { id: none(), checkpoint }), Code::UNIMPLEMENTED);
    let options = any("x");
    refused(
        ask!(create, CreateTaskRequest { id: none(), bundle: "/does/not/exist".into(), options }),
        Code::INVALID_ARGUMENT,
    );
    for signal in [0, 65, u32::MAX] {
        refused(ask!(kill, KillRequest { id: id(), signal }), Code::INVALID_ARGUMENT);
    }
    refused(ask!(resize_pty, ResizePtyRequest { id: id(), width: 70_000 }), Code::INVALID_ARGUMENT);
    for text in ["", "{", "[]", "7"] {
        let (exec_id, spec) = (none(), any(text));
        refused(ask!(exec, ExecProcessRequest { id: id(), exec_id, spec }), Code::INVALID_ARGUMENT);
    }
    for text in ["", "{", "{\"pids\":{\"limit\":\"x\"}}"] {
        let resources = any(text);
        refused(ask!(update, UpdateTaskRequest { id: id(), resources }), Code::INVALID_ARGUMENT);
    }
    // A process whose program is wrong is refused when it starts, and can be removed.
    let exec_id = || "bad".to_owned();
    let spec = || any("{\"args\":[\"no-such-program\"],\"cwd\":\"/\"}");
    ask!(exec, ExecProcessRequest { id: id(), exec_id: exec_id(), spec: spec() }).unwrap();
    refused(
        ask!(exec, ExecProcessRequest { id: id(), exec_id: exec_id(), spec: spec() }),
        Code::ALREADY_EXISTS,
    );
    refused(
        ask!(kill, KillRequest { id: id(), exec_id: exec_id(), signal: 9 }),
        Code::FAILED_PRECONDITION,
    );
    refused(ask!(start, StartRequest { id: id(), exec_id: exec_id() }), Code::UNKNOWN);
    ask!(delete, DeleteRequest { id: id(), exec_id: exec_id() }).unwrap();
    // Limits are changed.
    let resources = any("{\"pids\":{\"limit\":60},\"memory\":{\"limit\":0}}");
    ask!(update, UpdateTaskRequest { id: id(), resources }).unwrap();
    let metrics = containerd.text(&["task", "metrics", "c"]);
    let limit = metrics.lines().find(|line| line.starts_with("pids.limit"));
    assert!(limit.is_some_and(|line| line.trim().ends_with(" 60")), "{metrics}");
    // Nothing of all that has done something to the container, and a shim with one does not end.
    ask!(close_io, CloseIORequest { id: id(), stdin: true }).unwrap();
    ask!(shutdown, ShutdownRequest { id: id(), now: true }).unwrap();
    ask!(pause, PauseRequest { id: id() }).unwrap();
    refused(ask!(pause, PauseRequest { id: id() }), Code::FAILED_PRECONDITION);
    ask!(resume, ResumeRequest { id: id() }).unwrap();
    containerd.exec("last", "c", "exit 4").assert_code(4);
    containerd.run(&["task", "kill", "--signal", "SIGKILL", "c"]);
    containerd.wait_for_state("c", "STOPPED");
    refused(ask!(kill, KillRequest { id: id(), signal: 9 }), Code::NOT_FOUND);
    refused(ask!(start, StartRequest { id: id() }), Code::FAILED_PRECONDITION);
    refused(ask!(pause, PauseRequest { id: id() }), Code::FAILED_PRECONDITION);
    let (exec_id, spec) = (none(), spec());
    refused(ask!(exec, ExecProcessRequest { id: id(), exec_id, spec }), Code::FAILED_PRECONDITION);
    containerd.remove("c");
}
