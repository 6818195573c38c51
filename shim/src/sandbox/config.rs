//! A container's configuration, `config.json`: its text and what the engine reads of it.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use bulkhead_container::spec::Spec;
use serde_json::Value;

/// The largest configuration. A megabyte of environment and the largest seccomp profiles fit many times.
const MAX_SIZE: u64 = 16 << 20;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file.
    #[error("JSON specification file {0} not found")]
    Missing(PathBuf),
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too large.
    #[error("{path} is larger than {} MiB, the most that a configuration may have", MAX_SIZE >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not text.
    #[error("{what} is not UTF-8 text: byte {at} is not part of a character")]
    NotText {
        /// The file.
        what: String,
        /// The offset of the first bad byte.
        at: usize,
    },
    /// It does not say what a configuration must.
    #[error("{what}: {field}{message}")]
    Malformed {
        /// The file.
        what: String,
        /// The field's path and a colon, when the error is in one.
        field: String,
        /// What is wrong, and where in the text.
        message: String,
    },
}

/// A configuration that was read.
#[derive(Debug, Clone)]
pub struct Config {
    text: String,
    spec: Spec,
}

impl Config {
    /// Reads a bundle's `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = path.file_name().unwrap_or_default();
        Self::parse(read(path)?, &name.to_string_lossy())
    }

    /// Reads a configuration that is called `what` in errors.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: Vec<u8>, what: &str) -> Result<Self, ConfigError> {
        let text = self::text(text, what)?;
        let spec = typed(&text, what)?;
        Ok(Self { text, spec })
    }

    /// Reads a JSON file that is a part of a configuration.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read_json(path: &Path) -> Result<Value, ConfigError> {
        let what = path.display().to_string();
        typed(&text(read(path)?, &what)?, &what)
    }

    /// With these entries behind those of `process.env`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn with_environment(self, entries: &[String]) -> Result<Self, ConfigError> {
        if entries.is_empty() {
            return Ok(self);
        }
        let mut value = self.value()?;
        if let Some(env) = value["process"]["env"].as_array_mut() {
            env.extend(entries.iter().cloned().map(Value::from));
        } else {
            value["process"]["env"] = entries.into();
        }
        Self::parse(value.to_string().into_bytes(), "config.json")
    }

    /// Its JSON.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What the engine reads of it.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// All of it.
    ///
    /// # Errors
    /// [`ConfigError::Malformed`] for what only a complete parser finds, as nesting that is too deep.
    pub fn value(&self) -> Result<Value, ConfigError> {
        typed(&self.text, "config.json")
    }
}

fn text(bytes: Vec<u8>, what: &str) -> Result<String, ConfigError> {
    String::from_utf8(bytes).map_err(|error| ConfigError::NotText {
        what: what.to_owned(),
        at: error.utf8_error().valid_up_to(),
    })
}

/// Reads a file of bounded size.
///
/// # Errors
/// [`ConfigError`].
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ConfigError::Missing(path.into()),
        _ => ConfigError::Read { path: path.into(), source },
    };
    let file = File::open(path).map_err(failed)?;
    let mut text = Vec::with_capacity(32 << 10);
    file.take(MAX_SIZE + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(ConfigError::TooLarge { path: path.into() });
    }
    Ok(text)
}

/// Parses JSON; an error names the field, as `process.cwd`.
///
/// # Errors
/// [`ConfigError::Malformed`].
pub(crate) fn typed<'a, T: serde::Deserialize<'a>>(
    text: &'a str,
    what: &str,
) -> Result<T, ConfigError> {
    // Without the path first: following it costs half as much again.
    if let Ok(read) = serde_json::from_str(text) {
        return Ok(read);
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = match error.path().to_string() {
            field if field == "." || field == "?" => String::new(),
            field => format!("{field}: "),
        };
        malformed(what, field, error.inner())
    })?;
    json.end().map_err(|error| malformed(what, String::new(), &error))?;
    Ok(read)
}

/// Reads a part of JSON that was parsed; an error names the field below `what`.
///
/// # Errors
/// [`ConfigError::Malformed`].
pub(crate) fn from_value<'a, T: serde::Deserialize<'a>>(
    value: &'a Value,
    what: &str,
) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(value).map_err(|error| ConfigError::Malformed {
        what: format!("{what}.{}", error.path()),
        field: String::new(),
        message: error.inner().to_string(),
    })
}

fn malformed(what: &str, field: String, error: &serde_json::Error) -> ConfigError {
    ConfigError::Malformed { what: what.to_owned(), field, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &[u8]) -> String {
        Config::parse(text.to_vec(), "config.json").unwrap_err().to_string()
    }

    #[test]
    fn an_error_names_the_field() {
        let text = message(br#"{"process":{"cwd":7}}"#);
        assert!(text.starts_with("config.json: process.cwd: invalid type"), "{text}");
        let text = message(br#"{"mounts":[{"destination":"/a"},{"destination":[]}]}"#);
        assert!(text.contains("mounts[1].destination: "), "{text}");
        let text = message(br#"{"linux":{"namespaces":[{"type":"moon"}]}}"#);
        assert!(text.contains("linux.namespaces[0].type: ") && text.contains("moon"), "{text}");
    }

    #[test]
    fn what_is_not_json_or_text_says_where() {
        assert!(message(b"{\"process\"").contains("line 1"));
        assert!(message(b"{} x").contains("trailing"));
        assert!(message(b"{\"hostname\":\"\xff\"}").contains("byte 13"));
    }

    #[test]
    fn unknown_properties_are_ignored() {
        let config = Config::parse(br#"{"new":{"a":1},"hostname":"h"}"#.to_vec(), "x").unwrap();
        assert_eq!(config.spec().hostname.as_deref(), Some("h"));
        assert_eq!(config.value().unwrap()["new"]["a"], 1);
    }

    #[test]
    fn size_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        File::create(&path).unwrap().set_len(MAX_SIZE + 1).unwrap();
        assert!(matches!(Config::read(&path), Err(ConfigError::TooLarge { .. })));
        assert!(matches!(Config::read(&dir.path().join("no")), Err(ConfigError::Missing(_))));
    }
}
