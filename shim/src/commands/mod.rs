//! What each verb does.

mod image;
mod run;

pub use image::image;
pub use run::run;

use bulkhead_protocol::FailureKind;

use crate::{
    container::{directory::DirectoryError, spec::SpecError, user::UserError},
    sandbox::StartError,
    session::SessionError,
    settings::SettingsError,
};

/// Why a verb failed. Its exit code is docker's.
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
    /// A container's directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The user.
    #[error(transparent)]
    User(#[from] UserError),
    /// The specification.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The machine's start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A flag's value.
    #[error("{0}")]
    Usage(String),
    /// Standard output.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl CommandError {
    /// The exit code of `bulkhead`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            CommandError::Session(SessionError::Refused {
                kind: FailureKind::ProgramNotFound,
                ..
            }) => 127,
            CommandError::Session(SessionError::Refused {
                kind: FailureKind::ProgramNotExecutable,
                ..
            }) => 126,
            CommandError::Session(SessionError::Signal(signal)) => {
                u8::try_from(*signal).unwrap_or(0).saturating_add(128)
            }
            _ => 125,
        }
    }
}
