//! What every verb begins with: the settings, the containers, and what was left behind put right.

use std::io::{self, Write};

use bulkhead_rootfs::Store;

use super::{CommandError, chain};
use crate::{
    container::{ContainerError, Place, Registry, State, id::short},
    lifecycle::{self, LifecycleError},
    sandbox::Status as Live,
    settings::Settings,
};

/// The settings and the containers.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) settings: Settings,
    pub(super) registry: Registry,
}

impl Context {
    /// Reads and opens them, and puts right what killed processes left.
    pub(super) fn open() -> Result<Self, CommandError> {
        let settings = Settings::load()?;
        let registry = Registry::open(&settings)?;
        let guard = registry.guard()?;
        for trouble in registry.sweep(&guard)? {
            warn(&trouble);
        }
        Ok(Self { settings, registry })
    }

    pub(super) fn store(&self) -> Result<Store, CommandError> {
        Ok(Store::open(&self.settings.data)?)
    }

    pub(super) fn find(&self, reference: &str) -> Result<Place, CommandError> {
        Ok(self.registry.find(reference)?)
    }

    /// The container's live part, which it has while its keeper makes it or it runs.
    pub(super) fn live(
        &self,
        place: &Place,
        reference: &str,
    ) -> Result<lifecycle::Container, CommandError> {
        if !self.reached(place)?.is_active() {
            return Err(not_running(place));
        }
        match self.registry.lifecycle().get(&place.id) {
            Ok(container) => Ok(container),
            Err(LifecycleError::NotFound) => Err(not_running(place)),
            Err(error) => Err(CommandError::of(reference)(error)),
        }
    }

    /// The container's state, which is true: a keeper that was killed just now is noticed.
    pub(super) fn settled(&self, place: &Place) -> Result<State, CommandError> {
        let state = place.state()?;
        if !state.is_active() || state.is_kept() {
            return Ok(state);
        }
        let guard = self.registry.guard()?;
        match self.registry.settle(&guard, place) {
            // It went with its end.
            Err(ContainerError::NotFound(_)) => Ok(State { keeper: None, ..state }),
            settled => Ok(settled?),
        }
    }

    /// The same for who has to do with what runs of it.
    pub(super) fn reached(&self, place: &Place) -> Result<State, CommandError> {
        let state = self.settled(place)?;
        self.registry.check_reach(place, &state)?;
        Ok(state)
    }

    /// Whether all processes of a running container are frozen.
    pub(super) fn is_paused(&self, place: &Place) -> bool {
        let live = self.registry.lifecycle().get(&place.id);
        matches!(live.and_then(|container| container.status()), Ok(Live::Paused))
    }
}

/// The answer of a verb that needs a running container.
pub(super) fn not_running(place: &Place) -> CommandError {
    CommandError::State(format!("Container {} is not running", short(&place.id)))
}

/// Says something that is no reason to fail.
pub(super) fn warn(text: &str) {
    // With standard error closed there is nobody to warn.
    let _ = writeln!(io::stderr(), "bulkhead: {text}");
}

/// Does something for each of several containers; what fails is said and does not hold up the others. The exit code is 1 if anything failed.
pub(super) fn for_each(
    references: &[String],
    mut act: impl FnMut(&str) -> Result<(), CommandError>,
) -> u8 {
    let mut code = 0;
    for reference in references {
        if let Err(error) = act(reference) {
            warn(&chain(&error));
            code = 1;
        }
    }
    code
}

/// Writes a line to standard output.
pub(super) fn say(text: &str) -> Result<(), CommandError> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}
