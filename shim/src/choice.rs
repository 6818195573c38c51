//! What isolates a new container and what its microVM begins as: its maker's words, the environment, the annotations of its bundle as far
//! as those may choose, and the settings' file.

use serde::{Deserialize, Serialize};

use crate::{
    sandbox::{Config, Isolation},
    settings::{self, ISOLATION_ANNOTATION, Settings, SettingsError},
    template::{MODE_ANNOTATION, Mode, TENANT_ANNOTATION},
};

/// The environment's word for the isolation.
const ISOLATION_VARIABLE: &str = "BULKHEAD_ISOLATION";

/// What a container's maker wants; absent: what the environment, the bundle or the settings say.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Choice {
    /// What isolates it.
    pub isolation: Option<Isolation>,
    /// Whether its microVM is a clone.
    pub template: Option<Mode>,
    /// Whose template it may be.
    pub tenant: Option<String>,
}

/// Why nothing can be chosen.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// There is no such isolation.
    #[error("{from} {name:?}: vm or host is wanted")]
    Isolation {
        /// Who said it.
        from: &'static str,
        /// What was said.
        name: String,
    },
    /// There is no such mode.
    #[error("{from} {name:?}: auto, never or require is wanted")]
    Template {
        /// Who said it.
        from: &'static str,
        /// What was said.
        name: String,
    },
    /// The bundle may not choose that.
    #[error(
        "annotations.{annotation} {name:?}: {why} needs the administrator's consent (allow_annotations in /etc/bulkhead/config.toml)"
    )]
    Forbidden {
        /// The annotation.
        annotation: &'static str,
        /// What it says.
        name: String,
        /// What it would do.
        why: &'static str,
    },
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

impl Choice {
    /// What isolates a container with this configuration.
    ///
    /// # Errors
    /// [`ChoiceError`].
    pub fn isolation(&self, config: &Config) -> Result<Isolation, ChoiceError> {
        if let Some(isolation) = self.isolation {
            return Ok(isolation);
        }
        if let Some(name) = std::env::var_os(ISOLATION_VARIABLE).filter(|name| !name.is_empty()) {
            return isolation(&name.to_string_lossy(), ISOLATION_VARIABLE);
        }
        let settings = Settings::load()?;
        let Some(name) = config.spec().annotations.get(ISOLATION_ANNOTATION) else {
            return Ok(settings.isolation);
        };
        let wanted = isolation(name, ISOLATION_ANNOTATION)?;
        let tightens = wanted == Isolation::Vm || wanted == settings.isolation;
        if tightens || settings.allows(ISOLATION_ANNOTATION) {
            return Ok(wanted);
        }
        let why = "less isolation than this host's default";
        Err(ChoiceError::Forbidden { annotation: ISOLATION_ANNOTATION, name: name.clone(), why })
    }

    /// Whether its microVM is a clone; none: as the settings' file says.
    ///
    /// # Errors
    /// [`ChoiceError`].
    pub fn template(&self, config: &Config) -> Result<Option<Mode>, ChoiceError> {
        if self.template.is_some() {
            return Ok(self.template);
        }
        if let Some(mode) = settings::template_variable()? {
            return Ok(Some(mode));
        }
        let Some(name) = config.spec().annotations.get(MODE_ANNOTATION) else { return Ok(None) };
        let settings = Settings::load()?;
        let wanted = mode(name, MODE_ANNOTATION)?;
        // A machine that boots has nothing in common with others.
        let tightens = wanted == Mode::Never || wanted == settings.template.mode;
        if tightens || settings.allows(MODE_ANNOTATION) {
            return Ok(Some(wanted));
        }
        let why = "another mode than this host's default";
        Err(ChoiceError::Forbidden { annotation: MODE_ANNOTATION, name: name.clone(), why })
    }

    /// Whose template it may be; none: the calling user's.
    ///
    /// # Errors
    /// [`ChoiceError`].
    pub fn tenant(&self, config: &Config) -> Result<Option<String>, ChoiceError> {
        let named = config.spec().annotations.get(TENANT_ANNOTATION);
        match (&self.tenant, named) {
            (Some(tenant), _) => Ok(Some(tenant.clone())),
            (None, None) => Ok(None),
            (None, Some(tenant)) if Settings::load()?.allows(TENANT_ANNOTATION) => {
                Ok(Some(tenant.clone()))
            }
            (None, Some(tenant)) => {
                let why = "to choose whose memory a microVM begins with";
                let annotation = TENANT_ANNOTATION;
                Err(ChoiceError::Forbidden { annotation, name: tenant.clone(), why })
            }
        }
    }
}

/// The isolation of this name, which `from` said.
///
/// # Errors
/// [`ChoiceError::Isolation`].
pub fn isolation(name: &str, from: &'static str) -> Result<Isolation, ChoiceError> {
    Isolation::from_name(name).ok_or_else(|| ChoiceError::Isolation { from, name: name.to_owned() })
}

/// The mode of this name, which `from` said.
///
/// # Errors
/// [`ChoiceError::Template`].
pub fn mode(name: &str, from: &'static str) -> Result<Mode, ChoiceError> {
    Mode::from_name(name).ok_or_else(|| ChoiceError::Template { from, name: name.to_owned() })
}
