//! containerd's task service as a client of its own asks it: by the name that it has in containerd 2, or by the one before, which is all that the
//! shim of an older containerd knows.

use containerd_shim_protos::{
    Client,
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
        CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
        PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
        StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
        UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    protobuf::Message,
    ttrpc::{self, Request},
};

/// For requests that a guest has a part in.
const PATIENCE: i64 = 300_000_000_000;

/// A client of one shim.
pub struct Shim {
    client: Client,
    service: &'static str,
}

macro_rules! verbs {
    ($($verb:ident $method:literal $asked:ty => $answer:ty;)*) => {
        impl Shim {
            $(
                /// The request of this name.
                ///
                /// # Errors
                /// The shim's answer, or what became of the connection.
                pub fn $verb(&self, asked: &$asked) -> ttrpc::Result<$answer> {
                    self.ask($method, asked)
                }
            )*
        }
    };
}

verbs! {
    checkpoint "Checkpoint" CheckpointTaskRequest => Empty;
    close_io "CloseIO" CloseIORequest => Empty;
    connect "Connect" ConnectRequest => ConnectResponse;
    create "Create" CreateTaskRequest => CreateTaskResponse;
    delete "Delete" DeleteRequest => DeleteResponse;
    exec "Exec" ExecProcessRequest => Empty;
    kill "Kill" KillRequest => Empty;
    pause "Pause" PauseRequest => Empty;
    pids "Pids" PidsRequest => PidsResponse;
    resize_pty "ResizePty" ResizePtyRequest => Empty;
    resume "Resume" ResumeRequest => Empty;
    shutdown "Shutdown" ShutdownRequest => Empty;
    start "Start" StartRequest => StartResponse;
    state "State" StateRequest => StateResponse;
    stats "Stats" StatsRequest => StatsResponse;
    update "Update" UpdateTaskRequest => Empty;
    wait "Wait" WaitRequest => WaitResponse;
}

impl Shim {
    /// Of the shim at an address of containerd's form. `new`: by containerd 2's name of the service.
    #[must_use]
    pub fn new(address: &str, new: bool) -> Self {
        let service = if new { "containerd.task.v3.Task" } else { "containerd.task.v2.Task" };
        Self { client: Client::connect(address).expect("the shim listens"), service }
    }

    /// The shim's process.
    #[must_use]
    pub fn pid(&self, container: &str) -> u32 {
        let asked = ConnectRequest { id: container.into(), ..ConnectRequest::default() };
        self.connect(&asked).expect("the shim answers").shim_pid
    }

    fn ask<A: Message>(&self, method: &str, asked: &impl Message) -> ttrpc::Result<A> {
        let request = Request {
            service: self.service.into(),
            method: method.into(),
            payload: asked.write_to_bytes().expect("it can be written"),
            timeout_nano: PATIENCE,
            ..Request::default()
        };
        let answer = self.client.request(request)?;
        Ok(A::parse_from_bytes(&answer.payload).expect("it is an answer"))
    }
}
