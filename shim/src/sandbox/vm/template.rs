//! Whether a container's machine is a clone, and of what.

use bulkhead_vmm::api::VmConfig;

use super::SandboxError;
use crate::{
    monitor::plan,
    settings::Settings,
    template::{self, Held, Machine, Mode, Shape, Store, TemplateError, Tenant, Wish, slots},
};

/// A template that stays until the clone has opened it.
#[derive(Debug)]
pub(super) struct Source {
    store: Store,
    held: Held,
}

impl Source {
    /// The template is of no use: the next start makes another one.
    pub(super) fn discard(self) {
        let Self { store, held } = self;
        let key = held.key.clone();
        drop(held);
        store.discard(&key);
    }
}

/// What is found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) source: Option<Source>,
    pub(super) plan: Option<plan::Template>,
    /// Why it boots, if the user should know.
    pub(super) warning: Option<String>,
}

/// Finds or makes the template of which `machine` can be a clone. Nothing, if it is to boot.
///
/// # Errors
/// Only for [`Mode::Require`], and names that are none.
pub(super) fn find(
    settings: &Settings,
    wish: &Wish<'_>,
    machine: &VmConfig,
    vmm: &std::path::Path,
) -> Result<Found, SandboxError> {
    let mode = wish.mode.unwrap_or(settings.template.mode);
    let tenant =
        Tenant::new(wish.tenant).map_err(|error| SandboxError::Invalid(error.to_string()))?;
    if mode == Mode::Never {
        return Ok(Found::default());
    }
    match seek(settings, wish, machine, vmm, tenant, mode == Mode::Require) {
        Ok((source, plan)) => Ok(Found { source: Some(source), plan: Some(plan), warning: None }),
        Err(error) if mode == Mode::Require => {
            let line = format!("--template require: {error}");
            Err(match error {
                TemplateError::Unfit(_) => {
                    SandboxError::Unsupported(format!("{line}; --template auto boots instead"))
                }
                _ => SandboxError::Failed(format!("{line}; --template auto boots instead")),
            })
        }
        // Nothing failed, or it was said when it did.
        Err(TemplateError::Unfit(_) | TemplateError::Failed { .. }) => Ok(Found::default()),
        Err(error) => {
            let warning = Some(format!("the microVM boots and is no clone: {error}"));
            Ok(Found { warning, ..Found::default() })
        }
    }
}

fn seek(
    settings: &Settings,
    wish: &Wish<'_>,
    machine: &VmConfig,
    vmm: &std::path::Path,
    tenant: Tenant,
    required: bool,
) -> Result<(Source, plan::Template), TemplateError> {
    slots::fits(machine)?;
    let Some(initrd) = &machine.initrd else {
        return Err(TemplateError::Unfit("a machine without a RAM disk has no agent".into()));
    };
    let shape = Shape::of(&Machine {
        kernel: machine.kernel.clone(),
        initrd: initrd.clone(),
        vmm: vmm.to_owned(),
        vcpus: machine.vcpus,
        memory_mib: machine.memory_mib,
        backend: machine.backend,
        pod: machine.exchange,
        tenant,
    })?;
    let store = Store::open(&settings.template)?;
    let held = template::obtain(settings, &store, &shape, wish.tell)?;
    let plan = plan::Template {
        key: held.key.clone(),
        nonce: held.metadata.nonce.clone(),
        machine: slots::clone_of(machine, &held.state(), &held.memory())?,
        required,
    };
    Ok((Source { store, held }, plan))
}
