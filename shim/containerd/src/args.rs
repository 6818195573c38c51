//! The command line, in the form that containerd writes it: flags of one hyphen, then what is to be done.

use std::{ffi::OsString, path::PathBuf};

use crate::refusal::Refusal;

/// What the program is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Leave a shim behind and print its address.
    Start,
    /// Remove what a shim left that was killed.
    Delete,
    /// Be the shim: its socket is standard input.
    Serve,
    /// Print what it can do.
    Info,
    /// Print its version.
    Version,
    /// Make or change one container for a shim.
    Helper,
}

/// The words of the command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// The container.
    pub(crate) id: String,
    /// containerd's own socket.
    pub(crate) address: String,
    /// The bundle; empty: the working directory.
    pub(crate) bundle: PathBuf,
    /// Where a shim listens.
    pub(crate) socket: PathBuf,
    /// Descriptors of a helper: its request, and the socket for its answer.
    pub(crate) helper: [Option<i32>; 2],
    /// Log more.
    pub(crate) debug: bool,
    /// What is to be done.
    pub(crate) action: Action,
}

impl Args {
    /// Reads the words behind the program's name.
    ///
    /// # Errors
    /// A word that means nothing.
    pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Self, Refusal> {
        let mut words = words.map(|word| {
            word.into_string()
                .map_err(|word| Refusal::invalid(format!("argument {word:?} is not UTF-8 text")))
        });
        let mut args = Self {
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            bundle: PathBuf::new(),
            socket: PathBuf::new(),
            helper: [None; 2],
            debug: false,
            action: Action::Serve,
        };
        while let Some(word) = words.next() {
            let word = word?;
            let Some(flag) = word.strip_prefix('-') else {
                args.action = action(&word)?;
                continue;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "debug" => args.debug = value.is_none_or(|value| value == "true"),
                "v" | "version" => args.action = Action::Version,
                "info" => args.action = Action::Info,
                _ => {
                    let value = match value {
                        Some(value) => value,
                        None => words.next().transpose()?.ok_or_else(|| {
                            Refusal::invalid(format!("-{name} needs a value behind it"))
                        })?,
                    };
                    args.put(name, value)?;
                }
            }
        }
        Ok(args)
    }

    fn put(&mut self, name: &str, value: String) -> Result<(), Refusal> {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "bundle" => self.bundle = value.into(),
            "request" => self.helper[0] = Some(number(name, &value)?),
            "answer" => self.helper[1] = Some(number(name, &value)?),
            "socket" => self.socket = value.into(),
            // The shim tells its events over a socket.
            "publish-binary" => {}
            _ => return Err(Refusal::invalid(format!("flag provided but not defined: -{name}"))),
        }
        Ok(())
    }

    /// The container and its namespace, which containerd always names.
    ///
    /// # Errors
    /// One is missing, or could lead out of a directory of that name.
    pub(crate) fn check_names(&self) -> Result<(), Refusal> {
        for (flag, name) in [("namespace", &self.namespace), ("id", &self.id)] {
            if name.is_empty() || name.contains('/') || name.starts_with('.') {
                return Err(Refusal::invalid(format!("-{flag} {name:?}: a name is wanted")));
            }
        }
        Ok(())
    }
}

fn action(word: &str) -> Result<Action, Refusal> {
    match word {
        "start" => Ok(Action::Start),
        "delete" => Ok(Action::Delete),
        "helper" => Ok(Action::Helper),
        _ => Err(Refusal::invalid(format!("{word}: start or delete is wanted"))),
    }
}

fn number(name: &str, value: &str) -> Result<i32, Refusal> {
    value.parse().map_err(|_| Refusal::invalid(format!("-{name} {value}: a descriptor is wanted")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Args, Refusal> {
        Args::parse(text.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_words_of_containerd() {
        let text = "-namespace n -address /a/containerd.sock -publish-binary /bin/containerd -id i -debug start";
        let args = parse(text).unwrap();
        assert_eq!((args.namespace.as_str(), args.id.as_str()), ("n", "i"));
        assert_eq!((args.address.as_str(), args.debug), ("/a/containerd.sock", true));
        assert_eq!(args.action, Action::Start);
        args.check_names().unwrap();
        let args = parse("--id=i -bundle /b -debug=false delete").unwrap();
        assert_eq!((args.bundle.to_str().unwrap(), args.debug), ("/b", false));
        assert_eq!(args.action, Action::Delete);
        assert_eq!(parse("-info").unwrap().action, Action::Info);
        assert_eq!(parse("-v").unwrap().action, Action::Version);
    }

    #[test]
    fn other_words_are_refused_by_name() {
        for (text, named) in [
            ("-id", "-id"),
            ("-moon x start", "-moon"),
            ("stop", "stop"),
            ("start again", "again"),
            ("-request x helper", "-request"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
        for bad in ["start", "-namespace n -id ../x start", "-namespace a/b -id x start"] {
            assert!(parse(bad).unwrap().check_names().is_err(), "{bad}");
        }
    }
}
