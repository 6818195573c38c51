//! Why a sandbox could not do what it was asked. The kinds are those that callers tell apart.

use super::ConfigError;

/// Why a sandbox's call failed. Its text is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The configuration asks for what cannot be.
    #[error("{0}")]
    Invalid(String),
    /// The program is not in the container.
    #[error("{0}")]
    ProgramNotFound(String),
    /// The program cannot be executed.
    #[error("{0}")]
    ProgramNotExecutable(String),
    /// The container is not in the state that the call needs.
    #[error("{0}")]
    State(String),
    /// What is asked for is not there in this isolation.
    #[error("{0}")]
    Unsupported(String),
    /// A microVM cannot have the root's mounts as they are. Made on the host, they are a directory that it can have.
    #[error("{0}")]
    Mounts(String),
    /// Anything else: the kernel, the VMM or the agent refused.
    #[error("{0}")]
    Failed(String),
}

impl From<ConfigError> for SandboxError {
    fn from(error: ConfigError) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<bulkhead_container::Error> for SandboxError {
    fn from(error: bulkhead_container::Error) -> Self {
        use bulkhead_container::Kind;

        let text = error.to_string();
        match error.kind() {
            Kind::Invalid => Self::Invalid(text),
            Kind::ProgramNotFound => Self::ProgramNotFound(text),
            Kind::ProgramNotExecutable => Self::ProgramNotExecutable(text),
            Kind::State => Self::State(text),
            Kind::System => Self::Failed(text),
        }
    }
}
