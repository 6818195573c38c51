//! Answers to requests: the engine's words in the protocol's.

use bulkhead_container::{Error, Kind, Lower, Root, Upper};
use bulkhead_protocol::{self as protocol, Failure, FailureKind, Reply};
use rustix::process::Pid;

pub(crate) type Answer = Result<Reply, Failure>;

pub(crate) fn root_of(root: protocol::Root) -> Root {
    match root {
        protocol::Root::Directory { path } => Root::Directory(path),
        protocol::Root::Disk { device } => Root::Disk(device),
        protocol::Root::Layers { lower, upper } => Root::Layers {
            lower: match lower {
                protocol::Lower::Erofs { device } => Lower::Erofs(device),
                protocol::Lower::Ext4 { device } => Lower::Ext4(device),
            },
            upper: match upper {
                protocol::Upper::None => Upper::None,
                protocol::Upper::Ext4 { device } => Upper::Ext4(device),
                protocol::Upper::Tmpfs => Upper::Tmpfs,
                protocol::Upper::Directory { upper, work } => Upper::Directory { upper, work },
            },
        },
    }
}

/// `ahead`: how many of its mounts were made with it before it was asked for.
pub(crate) fn process(pid: Pid, warnings: Vec<String>, ahead: Option<usize>) -> Reply {
    Reply::Process { pid: pid.as_raw_nonzero().get().unsigned_abs(), warnings, ahead }
}

pub(crate) fn check_id(id: &str) -> Result<(), Failure> {
    let valid = (1..=128).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte));
    if valid {
        Ok(())
    } else {
        Err(invalid(format!("{id:?} is no id; 1 to 128 characters of [A-Za-z0-9_.+-] are")))
    }
}

pub(crate) fn failure(error: Error) -> Failure {
    let kind = match error.kind() {
        Kind::ProgramNotFound => FailureKind::ProgramNotFound,
        Kind::ProgramNotExecutable => FailureKind::ProgramNotExecutable,
        Kind::State => FailureKind::State,
        Kind::Invalid => FailureKind::Invalid,
        Kind::System => FailureKind::System,
    };
    Failure { kind, message: error.to_string() }
}

pub(crate) fn invalid(message: String) -> Failure {
    Failure { kind: FailureKind::Invalid, message }
}

pub(crate) fn state(message: String) -> Failure {
    Failure { kind: FailureKind::State, message }
}

pub(crate) fn system(message: String) -> Failure {
    Failure { kind: FailureKind::System, message }
}
