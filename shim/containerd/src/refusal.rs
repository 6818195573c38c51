//! Why a request is refused, in the kinds that containerd tells apart.

use std::fmt::Display;

use bulkhead::{
    choice::ChoiceError,
    lifecycle::LifecycleError,
    sandbox::{ConfigError, SandboxError},
};
use containerd_shim_protos::ttrpc::{self, Code, get_status};
use serde::{Deserialize, Serialize};

/// The kinds, with containerd's names in `errdefs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// There is no such container or process.
    NotFound,
    /// There is one already.
    Exists,
    /// The request asks for what cannot be.
    Invalid,
    /// The container or process is not in the state that it needs.
    State,
    /// Nobody can do it here.
    Unsupported,
    /// It was not done to its end: what was made of it has to be removed.
    Half,
    /// Anything else.
    Failed,
}

/// A refused request: its text is one line for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub(crate) struct Refusal {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

impl Refusal {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        // Names of files may hold line breaks.
        Self { kind, message: message.into().replace(['\n', '\r'], " ") }
    }

    /// The same in other words.
    pub(crate) fn in_words(self, message: impl Into<String>) -> Self {
        Self::new(self.kind, message)
    }

    /// [`Kind::NotFound`].
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// [`Kind::Exists`].
    pub(crate) fn exists(message: impl Into<String>) -> Self {
        Self::new(Kind::Exists, message)
    }

    /// [`Kind::Invalid`].
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// [`Kind::State`].
    pub(crate) fn state(message: impl Into<String>) -> Self {
        Self::new(Kind::State, message)
    }

    /// [`Kind::Unsupported`].
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// [`Kind::Half`].
    pub(crate) fn half(message: impl Into<String>) -> Self {
        Self::new(Kind::Half, message)
    }

    /// [`Kind::Failed`].
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }
}

/// Adds what was tried to the kernel's reason.
pub(crate) fn cannot<E: Display>(what: impl Display) -> impl FnOnce(E) -> Refusal {
    move |error| Refusal::failed(format!("cannot {what}: {error}"))
}

/// Adds what was tried with a path to the kernel's reason.
pub(crate) fn at<E: Display>(
    what: &'static str,
    path: &std::path::Path,
) -> impl FnOnce(E) -> Refusal {
    move |error| Refusal::failed(format!("cannot {what} {}: {error}", path.display()))
}

impl From<SandboxError> for Refusal {
    fn from(error: SandboxError) -> Self {
        let kind = match &error {
            SandboxError::Invalid(_) => Kind::Invalid,
            SandboxError::State(_) => Kind::State,
            SandboxError::Unsupported(_) => Kind::Unsupported,
            SandboxError::Mounts(_)
            | SandboxError::ProgramNotFound(_)
            | SandboxError::ProgramNotExecutable(_)
            | SandboxError::Failed(_) => Kind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<LifecycleError> for Refusal {
    fn from(error: LifecycleError) -> Self {
        let kind = match error {
            LifecycleError::Sandbox(error) => return error.into(),
            LifecycleError::NotFound => Kind::NotFound,
            LifecycleError::Exists => Kind::Exists,
            LifecycleError::InvalidId | LifecycleError::Config(_) => Kind::Invalid,
            LifecycleError::NotCreated(_)
            | LifecycleError::NotRunning
            | LifecycleError::NotRunningNamed(_)
            | LifecycleError::NotPaused
            | LifecycleError::ExecStopped
            | LifecycleError::ExecPaused
            | LifecycleError::NotStopped { .. } => Kind::State,
            _ => Kind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<ChoiceError> for Refusal {
    fn from(error: ChoiceError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<Refusal> for ttrpc::Error {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.kind {
            Kind::NotFound => Code::NOT_FOUND,
            Kind::Exists => Code::ALREADY_EXISTS,
            Kind::Invalid => Code::INVALID_ARGUMENT,
            Kind::State => Code::FAILED_PRECONDITION,
            Kind::Unsupported => Code::UNIMPLEMENTED,
            Kind::Half | Kind::Failed => Code::UNKNOWN,
        };
        ttrpc::Error::RpcStatus(get_status(code, refusal.message))
    }
}
