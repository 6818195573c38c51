//! Why a container cannot have the network that was asked for.

use std::{io, path::PathBuf};

/// The error of this module.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// No network of that name.
    #[error(
        "there is no network {name:?} in {directory}; known are {known}{broken} (`--network none` needs none)"
    )]
    Unknown {
        /// The name.
        name: String,
        /// Where it was looked for.
        directory: PathBuf,
        /// Those that there are.
        known: String,
        /// Files that could not be read, and why; empty, or begins with `; `.
        broken: String,
    },
    /// A network's file.
    #[error("the network's file {path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A program that is not there.
    #[error(
        "the network {network:?} needs the CNI plugin {plugin:?}, which is not in {directories}; install it (Debian: containernetworking-plugins) or set BULKHEAD_CNI_PATH"
    )]
    Missing {
        /// The network.
        network: String,
        /// The plugin.
        plugin: String,
        /// Where it was looked for.
        directories: String,
    },
    /// A plugin that failed.
    #[error("the network {network:?}: plugin {plugin} ({command}): {reason}")]
    Plugin {
        /// The network.
        network: String,
        /// The plugin.
        plugin: String,
        /// `ADD` or `DEL`.
        command: &'static str,
        /// What it said, or did.
        reason: String,
    },
    /// No plugin publishes ports.
    #[error(
        "the network {0:?} publishes no ports: none of its plugins has the capability portMappings; leave -p out or add the plugin portmap to it"
    )]
    NoPorts(String),
    /// No network, and ports of it.
    #[error("--network none has no ports to publish; leave it or -p out")]
    NoneWithPorts,
    /// No address, and one was to be.
    #[error(
        "the network {0:?} gave the container no address; look at the ipam of its file, or leave -p out if it is to have none"
    )]
    NoAddress(String),
    /// Somebody on this host has the port.
    #[error("port {port} is in use on this host; publish another one")]
    PortUsed {
        /// The port.
        port: String,
    },
    /// Another container has it.
    #[error(
        "port {port} is published by container {container} already; publish another one, or stop that container"
    )]
    PortTaken {
        /// The port.
        port: String,
        /// The container.
        container: String,
    },
    /// Twice in one container.
    #[error("-p {first} and -p {second} publish one port twice")]
    PortTwice {
        /// The one.
        first: String,
        /// The other.
        second: String,
    },
    /// An address of another host.
    #[error("cannot publish {port}: it is no address of this host")]
    NoSuchAddress {
        /// The port.
        port: String,
    },
    /// The namespace went away under way.
    #[error("the network namespace {0} is gone: something removed it while the container was made")]
    Gone(PathBuf),
    /// Every subnet of the default network is another's.
    #[error(
        "this host uses each of 10.89.0.0/24 to 10.89.255.0/24; give a network of your own with --network"
    )]
    NoSubnet,
    /// What is remembered of a container's network.
    #[error("{path} is damaged ({reason}); remove the container with `bulkhead rm -f`")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel refused something.
    #[error("cannot {what}: {source}")]
    System {
        /// What.
        what: String,
        /// Why.
        source: io::Error,
    },
}

/// What was tried, as the beginning of an error.
pub(super) fn failed<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> CniError {
    move |source| CniError::System { what: what.into(), source: source.into() }
}
