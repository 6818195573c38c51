//! Why a bench failed.

use std::{io, path::PathBuf};

use super::json::FileError;
use crate::{
    commands::CommandError,
    container::{ContainerError, RootError},
    settings::SettingsError,
};

/// Why a bench failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The image.
    #[error(transparent)]
    Image(#[from] Box<CommandError>),
    /// The image's root on this host.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The bundle's files.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A report's file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A flag's value, or a host that cannot.
    #[error("{0}")]
    Usage(String),
    /// The host refuses something.
    #[error("cannot {what}: {source}")]
    Host {
        /// What.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A program of the bench's, or a runtime's, is not there.
    #[error("{what} cannot be run: {path}: {source}")]
    Program {
        /// Whose.
        what: String,
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A runtime's verb failed.
    #[error("{runtime}: {verb} failed: {said}")]
    Verb {
        /// The runtime.
        runtime: String,
        /// What it was to do.
        verb: &'static str,
        /// Its last line, or how it ended.
        said: String,
    },
    /// Something took too long.
    #[error("{runtime}: {what} took more than {seconds} s (--timeout sets the limit)")]
    Timeout {
        /// The runtime.
        runtime: String,
        /// What.
        what: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// A start that is not what it was said to be: no figure of it counts.
    #[error("{runtime}: the run is not valid: {why}")]
    Invalid {
        /// The runtime.
        runtime: String,
        /// Why.
        why: String,
    },
    /// The user wants no more.
    #[error("interrupted; everything that was started is removed")]
    Interrupted(i32),
    /// Standard output.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

impl BenchError {
    /// Adds what was tried.
    pub(crate) fn host<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Host { what, source: source.into() }
    }

    /// The exit code: 1, or 128 and the signal's number.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted(signal) => u8::try_from(*signal).unwrap_or(0).saturating_add(128),
            _ => 1,
        }
    }
}
