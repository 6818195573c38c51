//! Why a verb failed, in one line, and the exit code that says so.

use std::error::Error;

use crate::{
    bench::BenchError,
    cni::CniError,
    container::{ContainerError, spec::SpecError, user::UserError},
    keeper::{KeeperError, frames::Failed},
    lifecycle::LifecycleError,
    sandbox::SandboxError,
    session::SessionError,
    settings::SettingsError,
    template::TemplateError,
};

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The image store.
    #[error(transparent)]
    Store(#[from] bulkhead_rootfs::StoreError),
    /// An image's source.
    #[error(transparent)]
    Source(#[from] bulkhead_rootfs::SourceError),
    /// An import.
    #[error(transparent)]
    Import(#[from] bulkhead_rootfs::ImportError),
    /// A file of the image.
    #[error(transparent)]
    Read(#[from] bulkhead_rootfs::ReadError),
    /// The writable layer.
    #[error(transparent)]
    Writable(#[from] bulkhead_rootfs::writable::WritableError),
    /// A container's files.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The user.
    #[error(transparent)]
    User(#[from] UserError),
    /// The specification.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A container's keeper.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// What the keeper says of a start.
    #[error("{}", .0.message)]
    Failed(Failed),
    /// A container's life.
    #[error("container {name}: {source}")]
    Lifecycle {
        /// What the user called it.
        name: String,
        /// Why.
        source: LifecycleError,
    },
    /// A program that could not be run in a container.
    #[error(transparent)]
    Exec(LifecycleError),
    /// A template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A network.
    #[error(transparent)]
    Network(#[from] CniError),
    /// The session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A container is not in the state that the verb needs.
    #[error("{0}")]
    State(String),
    /// Something of a container is used with a verb that cannot.
    #[error("{0}")]
    Unsupported(String),
    /// A flag's value.
    #[error("{0}")]
    Usage(String),
    /// A file of this host, or a container's.
    #[error("{what}: {source}")]
    File {
        /// The file, and what was tried.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A bench.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// Standard output.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl CommandError {
    /// Adds which container it is about.
    pub(super) fn of(name: &str) -> impl FnOnce(LifecycleError) -> Self {
        let name = name.to_owned();
        move |source| Self::Lifecycle { name, source }
    }

    /// The exit code of a verb that runs a program in the foreground: docker's.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(failed) | Self::Session(SessionError::Failed(failed)) => failed.code,
            Self::Exec(LifecycleError::Sandbox(SandboxError::ProgramNotFound(_))) => 127,
            Self::Exec(LifecycleError::Sandbox(SandboxError::ProgramNotExecutable(_))) => 126,
            Self::Session(SessionError::Signal(signal)) => {
                u8::try_from(*signal).unwrap_or(0).saturating_add(128)
            }
            Self::Bench(error) => error.exit_code(),
            _ => 125,
        }
    }
}

/// An error and what caused it, in one line, without saying anything twice.
#[must_use]
pub fn chain(error: &CommandError) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !line.contains(&cause_text) {
            line = format!("{line}: {cause_text}");
        }
        source = cause.source();
    }
    line.replace('\n', " ")
}
