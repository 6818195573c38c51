//! Templates: booted machines at rest, of which containers' machines are clones, copy-on-write. One is made the first time
//! that a machine of its [`Shape`] is asked for, and found again after that.
//!
//! ```text
//! shape --SHA-256--> key --> Store: found, or made once --> Held --> a clone's machine (slots)
//!                                      make: boot, prepare the agent, wait until it is idle, save
//! ```

mod checksum;
mod error;
mod files;
mod lock;
mod make;
mod mode;
mod shape;
pub(crate) mod slots;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod usual;

use std::time::Duration;

pub use error::TemplateError;
pub use files::Metadata;
pub use make::Step;
pub(crate) use mode::{MAX, Section};
pub use mode::{MODE_ANNOTATION, Mode, TENANT_ANNOTATION, Templates};
pub use shape::{Key, Machine, Shape, Tenant};
pub use store::{Entry, Held, Store};

use crate::settings::Settings;

/// What somebody wants of templates for a container.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    /// Absent: the settings'.
    pub mode: Option<Mode>,
    /// Whose template it may be; absent: the calling user's.
    pub tenant: Option<&'a str>,
    /// Hears how the making of a template goes.
    pub tell: &'a dyn Fn(Step),
}

impl Default for Wish<'_> {
    fn default() -> Self {
        Self { mode: None, tenant: None, tell: &|_| () }
    }
}

impl std::fmt::Debug for Wish<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { mode, tenant, .. } = self;
        f.debug_struct("Wish").field("mode", mode).field("tenant", tenant).finish_non_exhaustive()
    }
}

/// The template of a shape: found, or made now. `tell` hears how its making goes, and that another process makes it.
///
/// # Errors
/// [`TemplateError`]: there is none.
pub fn obtain(
    settings: &Settings,
    store: &Store,
    shape: &Shape,
    tell: &dyn Fn(Step),
) -> Result<Held, TemplateError> {
    // Its maker has so long for the boot, and again for all that comes after it.
    let patience = settings.boot_timeout.saturating_mul(2).saturating_add(Duration::from_secs(10));
    store.obtain(shape, patience, &mut || tell(Step::Wait), &mut |draft| {
        make::make(settings, shape, draft, tell)
    })
}
