//! Why there is no template, in one line.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::Key;
use crate::settings::SettingsError;

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A file or directory.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A part of the installation.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The directory is not the user's alone, so that what is in it may be anybody's.
    #[error(
        "{}: {why}; templates are kept in a directory that only its user may write (BULKHEAD_TEMPLATES)",
        path.display()
    )]
    Foreign {
        /// The directory or file.
        path: PathBuf,
        /// In which way.
        why: String,
    },
    /// A tenant's name is none.
    #[error("\"{0}\" is no tenant: 1 to 128 bytes without control characters are (--tenant)")]
    Tenant(String),
    /// The machine cannot be a clone.
    #[error("{0}")]
    Unfit(String),
    /// It was there, and could not be used.
    #[error("template {} is damaged: {why}; it was removed, and the next start makes another one", key.short())]
    Damaged {
        /// Which.
        key: Key,
        /// In which way.
        why: String,
    },
    /// It could not be made.
    #[error("cannot make a template: {0}")]
    Making(String),
    /// There is no memory for its machine, which may be otherwise in a moment.
    #[error("cannot make a template now: {0}")]
    NoMemory(String),
    /// It could not be made a short while ago.
    #[error(
        "a template could not be made {ago} s ago: {why} (`bulkhead template create` or `prune` has it tried again)"
    )]
    Failed {
        /// Seconds.
        ago: u64,
        /// Why.
        why: String,
    },
    /// Another process makes it for too long.
    #[error("another process has been making the template for {0} s")]
    Waited(u64),
    /// The words name none.
    #[error("there is no template {0}; see `bulkhead template ls`")]
    Unknown(String),
    /// The words name several.
    #[error("{0} is the beginning of more than one template's key")]
    Ambiguous(String),
}

impl TemplateError {
    /// What was tried with a file, as the beginning of an error.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}
