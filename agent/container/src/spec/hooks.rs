//! Programs that are run at certain moments of a container's life (config.md, "POSIX-platform Hooks").

use serde::Deserialize;

use super::or_default;

/// A container's hooks, each list in the order in which it is run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// In the runtime's namespaces, before `createRuntime` ones.
    #[serde(deserialize_with = "or_default")]
    pub prestart: Vec<Hook>,
    /// In the runtime's namespaces, when the container's namespaces and mounts are made, before its root is entered.
    #[serde(deserialize_with = "or_default")]
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, at the same moment.
    #[serde(deserialize_with = "or_default")]
    pub create_container: Vec<Hook>,
    /// In the container, just before its program.
    #[serde(deserialize_with = "or_default")]
    pub start_container: Vec<Hook>,
    /// In the runtime's namespaces, after the program was executed.
    #[serde(deserialize_with = "or_default")]
    pub poststart: Vec<Hook>,
    /// In the runtime's namespaces, after the container was deleted.
    #[serde(deserialize_with = "or_default")]
    pub poststop: Vec<Hook>,
}

/// A program to run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// Its absolute path.
    pub path: String,
    /// Its arguments, the program's name first.
    #[serde(deserialize_with = "or_default")]
    pub args: Vec<String>,
    /// Its environment, `NAME=value`; absent: what the process that runs it has.
    pub env: Option<Vec<String>>,
    /// Seconds after which it is killed.
    pub timeout: Option<i64>,
}
