//! Saves a device and its transport, lets the same device go on, or a new one in its place.

use std::mem::discriminant;

use super::{
    ActivateError, MmioTransport, RestoreError, SaveError, TransportState, feature,
    queue::QueueConfig,
    state::{QueueState, Version},
    status,
};

impl MmioTransport {
    /// Ends what is under way and says how the device can go on. From then on nothing touches guest memory until
    /// [`MmioTransport::resume`]. The virtual CPUs must be paused.
    ///
    /// # Errors
    /// [`SaveError`]: the device goes on as though it had not been asked.
    pub fn save(&mut self) -> Result<TransportState, SaveError> {
        self.resume();
        let stopped = self.running.as_mut().map(|running| running.stop());
        self.frozen = self.running.is_some();
        // It may have been broken before, or by its last request.
        if self.interrupt.is_broken() {
            self.running = None;
        }
        let stopped = stopped.filter(|_| self.running.is_some()).transpose();
        let stopped = stopped.inspect_err(|_| self.resume())?;
        let mut positions = stopped.iter().flat_map(|stopped| &stopped.positions);
        let mut queue = |queue: &QueueConfig| QueueState {
            size: queue.size,
            ready: queue.ready,
            descriptors: queue.descriptors,
            driver: queue.driver,
            device: queue.device,
            next: positions.next().copied().unwrap_or(0),
        };
        let queues = self.queues.iter().map(&mut queue).collect();
        let device = stopped.and_then(|stopped| stopped.device);
        Ok(TransportState {
            version: Version,
            status: self.status,
            broken: self.interrupt.is_broken(),
            offered: self.offered,
            accepted: self.accepted,
            offered_half: self.offered_half,
            accepted_half: self.accepted_half,
            selected_queue: self.selected_queue,
            generation: self.interrupt.generation(),
            interrupt: self.interrupt.pending(),
            queues,
            device: device.unwrap_or_else(|| self.device.state()),
        })
    }

    /// Lets the device go on after [`MmioTransport::save`]; nothing to do when it was not saved.
    pub fn resume(&mut self) {
        if !std::mem::take(&mut self.frozen) {
            return;
        }
        if let Some(running) = &mut self.running
            && running.resume().is_err()
        {
            self.running = None;
            self.interrupt.needs_reset();
        }
        // What rang meanwhile was not heard.
        self.ring();
    }

    /// Goes on from `state`, which another device of the same shape was saved in, over the same guest memory. The device runs when this
    /// returns and may raise its interrupt at once.
    ///
    /// # Errors
    /// [`RestoreError`]: the device is as after a reset.
    pub fn restore(&mut self, state: &TransportState) -> Result<(), RestoreError> {
        self.reset();
        let changed = self.check(state)?;
        self.status = state.status;
        self.accepted = state.accepted;
        self.offered_half = state.offered_half;
        self.accepted_half = state.accepted_half;
        self.selected_queue = state.selected_queue;
        for (queue, state) in self.queues.iter_mut().zip(&state.queues) {
            *queue = config(queue.max_size, state);
        }
        self.interrupt.restore(state.interrupt, state.broken, state.generation);
        if runs(state) {
            self.go_on(state).inspect_err(|_| self.reset())?;
            self.ring();
        }
        if changed {
            self.config_changed();
        }
        Ok(())
    }

    fn go_on(&mut self, state: &TransportState) -> Result<(), ActivateError> {
        let positions: Vec<_> = state.queues.iter().map(|queue| queue.next).collect();
        let resources = self.resources(&positions)?;
        self.running = Some(self.device.go_on(resources, &state.device)?);
        Ok(())
    }

    /// Rings the doorbells of a running device, so that it looks at its queues.
    fn ring(&self) {
        if self.running.is_some() {
            for doorbell in &self.doorbells {
                // A full counter rings too.
                let _ = doorbell.write(1);
            }
        }
    }

    /// Whether this device and a driver could be in this state; returns whether the driver must look at the configuration space anew.
    fn check(&self, state: &TransportState) -> Result<bool, RestoreError> {
        let here = self.device.state();
        let device = self.device.kind().name();
        if discriminant(&here) != discriminant(&state.device) {
            return Err(RestoreError::Kind { device, found: state.device.name() });
        }
        let changed = self.device.check(&state.device)?;
        if state.offered != self.offered {
            let bits = |features: u64| format!("{features:#x}");
            let (saved, here) = (bits(state.offered), bits(self.offered));
            return Err(RestoreError::Differs { device, what: "set of features", saved, here });
        }
        if state.queues.len() != self.queues.len() {
            let (saved, here) = (state.queues.len().to_string(), self.queues.len().to_string());
            return Err(RestoreError::Differs { device, what: "number of queues", saved, here });
        }
        let possible = |holds: bool, what, value: u64| {
            if holds { Ok(()) } else { Err(RestoreError::Impossible { device, what, value }) }
        };
        possible(status::is_reachable(state.status), "status", state.status.into())?;
        possible(state.interrupt & !3 == 0, "interrupt status", state.interrupt.into())?;
        let has = |bit| state.status & bit != 0;
        possible(!state.broken || has(status::DRIVER_OK), "failure", state.broken.into())?;
        let agreed =
            state.accepted & !self.offered == 0 && state.accepted & feature::VERSION_1 != 0;
        let acceptable =
            agreed || !has(status::FEATURES_OK) && (has(status::DRIVER) || state.accepted == 0);
        possible(acceptable, "set of accepted features", state.accepted)?;
        for (index, (queue, here)) in state.queues.iter().zip(&self.queues).enumerate() {
            let usable = config(here.max_size, queue).is_valid(&self.memory);
            let sound = if runs(state) {
                queue.ready && usable
            } else {
                queue.next == 0 && (!queue.ready || usable)
            };
            if !sound {
                return Err(RestoreError::Queue { device, index });
            }
        }
        Ok(changed)
    }
}

/// Whether a driver runs the device.
fn runs(state: &TransportState) -> bool {
    state.status & (status::DRIVER_OK | status::FAILED) == status::DRIVER_OK && !state.broken
}

fn config(max_size: u16, state: &QueueState) -> QueueConfig {
    QueueConfig {
        max_size,
        size: state.size,
        ready: state.ready,
        descriptors: state.descriptors,
        driver: state.driver,
        device: state.device,
    }
}
