//! Why a command failed, and with which exit code.

use crate::{
    choice::ChoiceError,
    lifecycle::LifecycleError,
    sandbox::{ConfigError, SandboxError},
};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum OciError {
    /// The command line is wrong; the verb's help explains it.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// Whose help.
        verb: &'static super::verb::Verb,
    },
    /// There is no such verb.
    #[error("No help topic for '{0}'")]
    NoVerb(String),
    /// What the caller wants cannot be.
    #[error("{0}")]
    Refused(String),
    /// The container could not be made.
    #[error("bulkhead-oci {verb} failed: {message}")]
    Create {
        /// `create` or `run`.
        verb: &'static str,
        /// Why.
        message: String,
    },
    /// The process could not be run.
    #[error("exec failed: {0}")]
    Exec(String),
    /// A verb failed.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// A file cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The isolation cannot be had.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// It is not clear what isolates a container.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
}

impl OciError {
    /// runc's codes.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::NoVerb(_) => 3,
            Self::Exec(_) => 255,
            _ => 1,
        }
    }
}
