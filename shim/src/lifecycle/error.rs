//! Why a verb failed. The texts about states and names are runc's: tools look for them.

use std::{io, path::PathBuf};

use crate::sandbox::{ConfigError, SandboxError, Status};

/// Why a verb failed. Its text is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// There is no container of this name.
    #[error("container does not exist")]
    NotFound,
    /// There is one already.
    #[error("container with given ID already exists")]
    Exists,
    /// The name has other characters than letters, digits, `_`, `+`, `,`, `-` and `.`, or is too long.
    #[error("invalid container ID format")]
    InvalidId,
    /// Only a container that was created can be started.
    #[error("{}", cannot_start(*.0))]
    NotCreated(Status),
    /// The call needs a running container.
    #[error("container not running")]
    NotRunning,
    /// The call needs a running container.
    #[error("container with id {0} is not running")]
    NotRunningNamed(String),
    /// The call needs a paused container.
    #[error("container not paused")]
    NotPaused,
    /// Nothing can join a container that has ended.
    #[error("cannot exec in a stopped container")]
    ExecStopped,
    /// Nothing that joins a paused container could run.
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    ExecPaused,
    /// A container has to end before it is deleted.
    #[error("cannot delete container {id} that is not stopped: {}", status.name())]
    NotStopped {
        /// The container.
        id: String,
        /// What it does.
        status: Status,
    },
    /// Another verb works on it for too long.
    #[error("container {id} is busy: another command has worked on it for {seconds} s")]
    Busy {
        /// The container.
        id: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The state file cannot be understood.
    #[error(
        "the state of container {id} is damaged: {path}: {message}; `delete --force {id}` removes it"
    )]
    Damaged {
        /// The container.
        id: String,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file of the container's state cannot be used.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The terminal could not be handed over.
    #[error("cannot send the terminal to console socket {path}: {source}")]
    Console {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The sandbox refused.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

fn cannot_start(status: Status) -> String {
    match status {
        Status::Stopped => "cannot start a container that has stopped".into(),
        Status::Running => "cannot start an already running container".into(),
        other => format!("cannot start a container in the {} state", other.name()),
    }
}

/// Adds what was tried to the kernel's reason.
pub(super) fn at<E: Into<io::Error>>(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> LifecycleError {
    move |source| LifecycleError::File { action, path: path.into(), source: source.into() }
}
