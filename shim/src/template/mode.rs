//! When containers are clones, and where templates are.

use std::{num::NonZeroU32, path::PathBuf};

use serde::{Deserialize, Serialize};

/// The annotation of a bundle that chooses its [`Mode`], and the one that names its tenant.
pub const MODE_ANNOTATION: &str = "dev.bulkhead.template";
/// See [`MODE_ANNOTATION`].
pub const TENANT_ANNOTATION: &str = "dev.bulkhead.tenant";

/// Whether a container's microVM is a clone of a template.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// A clone; a machine that boots where that cannot be
    #[default]
    Auto,
    /// A machine that boots
    Never,
    /// A clone or nothing
    Require,
}

impl Mode {
    /// The mode of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "never" => Some(Self::Never),
            "require" => Some(Self::Require),
            _ => None,
        }
    }

    /// Its name, as everybody writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Never => "never",
            Self::Require => "require",
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The section `[template]` of the settings' file.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Section {
    pub(crate) mode: Option<Mode>,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) max: Option<NonZeroU32>,
}

/// The settings of templates in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Templates {
    /// When containers are clones, unless somebody says otherwise.
    pub mode: Mode,
    /// Where they are.
    pub directory: PathBuf,
    /// So many are kept; of more, the one goes that was not used for the longest time.
    pub max: NonZeroU32,
}

/// [`Templates::max`] where nobody says otherwise.
pub(crate) const MAX: NonZeroU32 = NonZeroU32::new(16).unwrap();
