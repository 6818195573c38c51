//! What a process is when its program begins: user, capabilities, limits, filter. The last steps before execve, the
//! same for a container's first process and for those that join it.

use rustix::{
    fs::Mode,
    io::Errno,
    process::umask,
    thread::{
        CapabilitySet, Gid, Uid, set_keep_capabilities, set_no_new_privs, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};

use crate::{
    capability::Sets,
    error::{Error, at},
    personality,
    rlimit::Limits,
    scheduling::Scheduling,
    seccomp::Filter,
    spec::Process,
};

/// The umask of a process whose specification has none, as with runc.
const UMASK: u32 = 0o022;

/// A process's identity.
#[derive(Debug)]
pub(crate) struct Identity {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    umask: Mode,
    capabilities: Sets,
    no_new_privileges: bool,
    limits: Limits,
    scheduling: Scheduling,
    filter: Option<Filter>,
    personality: Option<u32>,
    /// The process has the user and the groups already.
    same_user: bool,
    /// What is not in this one's bounding set of capabilities, the process has dropped already.
    bounded: Option<Sets>,
}

impl Identity {
    /// `own`: the agent's permitted capabilities.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub(crate) fn new(
        process: &Process,
        filter: Option<Filter>,
        own: CapabilitySet,
    ) -> Result<Self, Error> {
        let user = &process.user;
        if user.uid == u32::MAX || user.gid == u32::MAX || user.additional_gids.contains(&u32::MAX)
        {
            return Err(Error::invalid("process.user", u32::MAX, "it stands for no user or group"));
        }
        Ok(Self {
            uid: Uid::from_raw(user.uid),
            gid: Gid::from_raw(user.gid),
            groups: user.additional_gids.iter().map(|gid| Gid::from_raw(*gid)).collect(),
            umask: Mode::from_raw_mode(user.umask.unwrap_or(UMASK) & 0o777),
            capabilities: Sets::new(process.capabilities.as_ref(), own),
            no_new_privileges: process.no_new_privileges,
            limits: Limits::new(&process.rlimits)?,
            scheduling: Scheduling::new(process)?,
            filter,
            personality: None,
            same_user: false,
            bounded: None,
        })
    }

    /// The same with an execution domain.
    pub(crate) fn with_personality(self, personality: Option<u32>) -> Self {
        Self { personality, ..self }
    }

    /// For a maker that is root without supplementary groups, and a process in the same user namespace.
    pub(crate) fn made_by_plain_root(self) -> Self {
        let same_user = self.uid == Uid::ROOT && self.gid == Gid::ROOT && self.groups.is_empty();
        Self { same_user, ..self }
    }

    /// For a process that was made ahead, with this bounding set.
    pub(crate) fn made_ahead(self, bounding: Sets) -> Self {
        Self { bounded: Some(bounding), ..self }
    }

    /// The limits, which are then somebody else's to set.
    pub(crate) fn take_limits(&mut self) -> Limits {
        std::mem::take(&mut self.limits)
    }

    pub(crate) fn uid(&self) -> Uid {
        self.uid
    }

    pub(crate) fn can_trace(&self) -> bool {
        self.capabilities.can_trace()
    }

    /// Takes the identity on; `last` runs with it. The filter comes with [`Identity::seal`], unless only a process that is
    /// still privileged may install it.
    pub(crate) fn assume(&self, last: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        self.limits.apply()?;
        self.scheduling.apply()?;
        if let Some(domain) = self.personality {
            personality::apply(domain)?;
        }
        if !self.filters_late() {
            self.filter
                .as_ref()
                .map_or(Ok(()), Filter::install)
                .map_err(at("install", "linux.seccomp"))?;
        }
        self.capabilities.drop_bounding(self.bounded.as_ref())?;
        self.switch_user()?;
        self.capabilities.apply(false)?;
        umask(self.umask);
        if self.no_new_privileges {
            set_no_new_privs(true).map_err(at("set", "process.noNewPrivileges"))?;
        }
        last()
    }

    /// Puts the process under its filter, just before the program: a filter need only allow what that does, and execve.
    /// Touches no memory but its own, so that a process that shares its parent's may call it.
    pub(crate) fn seal(&self) -> Result<(), Errno> {
        match &self.filter {
            Some(filter) if self.filters_late() => filter.install(),
            _ => Ok(()),
        }
    }

    fn filters_late(&self) -> bool {
        self.no_new_privileges || self.capabilities.can_filter()
    }

    fn switch_user(&self) -> Result<(), Error> {
        if self.same_user {
            return Ok(());
        }
        let (uid, gid) = (self.uid, self.gid);
        if uid != Uid::ROOT {
            // The capabilities are cut afterwards, by what the specification says.
            set_keep_capabilities(true).map_err(at("keep", "capabilities"))?;
        }
        set_thread_groups(&self.groups)
            .map_err(at("set", format_args!("process.user.additionalGids {:?}", self.groups)))?;
        set_thread_res_gid(gid, gid, gid)
            .map_err(at("set", format_args!("process.user.gid {}", gid.as_raw())))?;
        set_thread_res_uid(uid, uid, uid)
            .map_err(at("set", format_args!("process.user.uid {}", uid.as_raw())))
    }
}
