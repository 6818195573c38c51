//! Why a keeper could not make its container.

use std::io;

use crate::{
    cni::CniError,
    container::{ContainerError, root::RootError},
    lifecycle::LifecycleError,
    sandbox::SandboxError,
    settings::SettingsError,
};

/// The error of this module.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The container's files.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Its image.
    #[error(transparent)]
    Store(#[from] bulkhead_rootfs::StoreError),
    /// Its root.
    #[error(transparent)]
    Root(#[from] RootError),
    /// Its network.
    #[error(transparent)]
    Network(#[from] CniError),
    /// Its making.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// A pipe, socket or process of the keeper's own.
    #[error("the container's keeper cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl KeeperError {
    pub(super) fn io<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { action, source: source.into() }
    }

    /// The exit code of a `run` that ends with this.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Lifecycle(LifecycleError::Sandbox(SandboxError::ProgramNotFound(_))) => 127,
            Self::Lifecycle(LifecycleError::Sandbox(SandboxError::ProgramNotExecutable(_))) => 126,
            _ => 125,
        }
    }
}
