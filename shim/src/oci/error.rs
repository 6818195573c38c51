//! Why a command failed, and with which exit code.

use crate::{
    lifecycle::LifecycleError,
    sandbox::{ConfigError, SandboxError},
    settings::SettingsError,
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
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
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

/// An error of a process's start in the words that docker and podman look for, to tell "not found" (their exit code 127)
/// and "cannot be executed" (126) from other errors.
pub(super) fn of_process(error: &LifecycleError, program: &str) -> String {
    let why = match error {
        LifecycleError::Sandbox(SandboxError::ProgramNotFound(text)) => {
            if text.contains("interpreter") {
                "no such file or directory: the interpreter that it names is missing".to_owned()
            } else if program.contains('/') {
                format!("stat {program}: no such file or directory")
            } else {
                "executable file not found in $PATH".to_owned()
            }
        }
        LifecycleError::Sandbox(SandboxError::ProgramNotExecutable(text)) => {
            match text.strip_prefix(program).and_then(|rest| rest.strip_prefix(": ")) {
                Some(why @ "it is a directory") => format!("permission denied: {why}"),
                Some(why) if why.contains("neither a program") => {
                    format!("exec format error: {why}")
                }
                Some(why) => why.to_owned(),
                None => text.clone(),
            }
        }
        other => return other.to_string(),
    };
    format!("unable to start container process: exec: {program:?}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_that_engines_look_for() {
        use SandboxError::{ProgramNotExecutable, ProgramNotFound};
        for (error, program, expected) in [
            (
                ProgramNotFound("x: y".into()),
                "x",
                "exec: \"x\": executable file not found in $PATH",
            ),
            (
                ProgramNotFound("/x: y".into()),
                "/x",
                "exec: \"/x\": stat /x: no such file or directory",
            ),
            (
                ProgramNotExecutable("/x: permission denied".into()),
                "/x",
                "exec: \"/x\": permission denied",
            ),
            (
                ProgramNotExecutable("/x: it is a directory".into()),
                "/x",
                "exec: \"/x\": permission denied: it is a directory",
            ),
        ] {
            let text = of_process(&error.into(), program);
            assert_eq!(text, format!("unable to start container process: {expected}"));
        }
        let other = LifecycleError::Exists;
        assert_eq!(of_process(&other, "x"), other.to_string());
    }
}
