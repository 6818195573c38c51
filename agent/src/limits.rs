//! Requests about a container as a whole: its limits, what it uses, whether it runs.

use bulkhead_container::{Cgroup, spec::Resources};
use bulkhead_protocol::{Failure, Reply};

use crate::{
    answer::{Answer, failure, state},
    boot,
    processes::Entry,
    server::Server,
};

impl Server {
    pub(crate) fn pause(&mut self, container: &str) -> Answer {
        let entry = self.living(container)?;
        if entry.paused {
            return Err(state(format!("container {container} is paused already")));
        }
        cgroup(entry)?.freeze().map_err(failure)?;
        entry.paused = true;
        Ok(Reply::Done)
    }

    pub(crate) fn resume(&mut self, container: &str) -> Answer {
        let entry = self.living(container)?;
        if !entry.paused {
            return Err(state(format!("container {container} is not paused")));
        }
        entry.thaw().map_err(failure)?;
        Ok(Reply::Done)
    }

    pub(crate) fn update(&mut self, container: &str, resources: &Resources) -> Answer {
        self.living(container)?;
        if let Some(cgroups) = &self.platform().cgroups {
            cgroups.enable_for(resources).map_err(failure)?;
        }
        let warnings = cgroup(self.living(container)?)?.update(resources).map_err(failure)?;
        Ok(Reply::Updated { warnings })
    }

    pub(crate) fn stats(&mut self, container: &str) -> Answer {
        let stats = cgroup(self.living(container)?)?.stats();
        Ok(Reply::Stats(Box::new(stats)))
    }

    pub(crate) fn list(&mut self, container: &str) -> Answer {
        let on_host = boot::needs_proc()?;
        let list = cgroup(self.living(container)?)?.process_table(on_host).map_err(failure)?;
        Ok(Reply::Processes(list))
    }

    /// A container that has not stopped.
    fn living(&mut self, container: &str) -> Result<&mut Entry, Failure> {
        let entry = self.processes.entry(container).map_err(failure)?;
        if entry.container.is_stopped() {
            return Err(state(format!("container {container} has stopped")));
        }
        Ok(entry)
    }
}

fn cgroup(entry: &Entry) -> Result<&Cgroup, Failure> {
    entry.container.cgroup().ok_or_else(|| {
        let id = entry.container.id();
        state(format!(
            "container {id} has no cgroup: no cgroup hierarchy is mounted on this system"
        ))
    })
}
