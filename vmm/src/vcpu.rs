//! A virtual CPU's thread: runs the guest until something is for the VMM to do, does it, goes on.

use std::{
    cell::Cell,
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::{
    api::{End, Mark},
    arch::current::state::{MsrNumbers, VcpuState},
    bus::{Bus, Effect},
    gate::Gate,
    kvm::{ExtendedState, Instructions, KvmError, Vm},
    notices::{Notices, monotonic_ns},
    software::{self, AssistError, Assistant},
};

// System events of KVM_EXIT_SYSTEM_EVENT.
use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};

thread_local! {
    /// This thread's vCPU, for the signal handler; null while there is none.
    static RUNNING: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

/// The signal that brings a thread out of KVM_RUN.
#[must_use]
pub fn kick_signal() -> libc::c_int {
    SIGRTMIN()
}

/// Installs the handler of [`kick_signal`] for the process.
///
/// # Errors
/// [`KvmError::Call`].
pub fn install_kick_handler() -> Result<(), KvmError> {
    register_signal_handler(kick_signal(), on_kick).map_err(KvmError::call("sigaction"))
}

/// Makes the current KVM_RUN, or the next one when the thread is just outside, return at once with EINTR: no kick is lost.
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    RUNNING.with(|running| {
        let run = running.get();
        if !run.is_null() {
            // SAFETY: the pointer is set only while this very thread keeps the vCPU whose mapping it is, and KVM reads the
            // byte whenever it likes.
            unsafe { (&raw mut (*run).immediate_exit).write_volatile(1) };
        }
    });
}

/// What all vCPUs of a machine share.
pub struct Shared {
    /// The machine in KVM, and its memory.
    pub vm: Vm,
    /// The devices.
    pub bus: Bus,
    /// The way to the event loop.
    pub notices: Arc<Notices>,
    /// What KVM interpreted.
    pub instructions: Instructions,
    /// Returns of KVM_RUN.
    pub exits: AtomicU64,
    /// Instructions that the VMM completed.
    pub assists: AtomicU64,
}

/// One vCPU. Its thread has it locked while the guest runs; while the thread waits at the gate others may look at it.
pub struct Vcpu {
    id: u8,
    fd: VcpuFd,
    assistant: Option<Assistant>,
}

/// Why a machine cannot go on.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("virtual CPU {0}: KVM_RUN failed: {1}")]
    Run(u8, vmm_sys_util::errno::Error),
    #[error("virtual CPU {0}: KVM stopped with an internal error, kind {1}")]
    Internal(u8, u32),
    #[error("virtual CPU {0}: KVM could not enter the guest, hardware reason {1:#x}")]
    FailEntry(u8, u64),
    #[error("virtual CPU {0}: KVM stopped for a reason that this VMM does not know: {1}")]
    Unknown(u8, String),
    #[error(transparent)]
    Assist(#[from] AssistError),
}

/// What is to be done after an exit that borrowed the vCPU.
enum Next {
    Continue,
    End(End),
    Mark(Mark),
    InternalError,
    Fail(RunError),
}

impl Vcpu {
    /// `assistant`: on a software KVM.
    #[must_use]
    pub fn new(id: u8, fd: VcpuFd, assistant: Option<Assistant>) -> Self {
        Self { id, fd, assistant }
    }

    /// Its state. It must have waited at the gate since it ran last, or never have run.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn save(
        &self,
        numbers: &MsrNumbers,
        extended: &mut ExtendedState,
    ) -> Result<VcpuState, KvmError> {
        VcpuState::save(&self.fd, numbers, extended)
    }

    /// Runs the guest until its thread is kicked, which is `None`, or the guest ends.
    fn run_guest(&mut self, shared: &Shared) -> Option<End> {
        loop {
            let next = match self.fd.run() {
                Ok(exit) => {
                    shared.exits.fetch_add(1, Ordering::Relaxed);
                    handle(self.id, exit, &shared.bus)
                }
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                    // Here KVM has completed the last exit's access: a vCPU pauses between two instructions. The flag is
                    // cleared before the gate is asked, so that a later kick sets it again.
                    self.fd.set_kvm_immediate_exit(0);
                    return None;
                }
                Err(error) => Next::Fail(RunError::Run(self.id, error)),
            };
            match next {
                Next::Continue => {}
                Next::End(end) => return Some(end),
                Next::Mark(mark) => {
                    shared.notices.mark(mark, monotonic_ns(), shared.instructions.total());
                }
                Next::InternalError => {
                    if let Err(error) = self.assist(shared) {
                        return Some(End::Failed(error.to_string()));
                    }
                }
                Next::Fail(error) => return Some(End::Failed(error.to_string())),
            }
        }
    }

    fn assist(&mut self, shared: &Shared) -> Result<(), RunError> {
        let kind = software::suberror(&mut self.fd).unwrap_or(0);
        match &mut self.assistant {
            Some(assistant) if software::emulation_failed(&mut self.fd) => {
                shared.assists.fetch_add(1, Ordering::Relaxed);
                Ok(assistant.complete(&self.fd, shared.vm.memory())?)
            }
            _ => Err(RunError::Internal(self.id, kind)),
        }
    }
}

/// Runs a vCPU until the machine ends; for a thread of its own. `gate` tells when to pause and to stop.
pub fn run(vcpu: &Mutex<Vcpu>, shared: &Shared, gate: &Gate) {
    RUNNING.set(lock(vcpu).fd.get_kvm_run());
    let mut began = false;
    while gate.pass() {
        let mut vcpu = lock(vcpu);
        if began {
            // So that the guest's watchdogs do not take a pause for a lockup; fails where it has no such clock.
            let _ = vcpu.fd.kvmclock_ctrl();
        } else if vcpu.id == 0 {
            shared.notices.mark(Mark::KernelEntry, monotonic_ns(), shared.instructions.total());
        }
        began = true;
        if let Some(end) = vcpu.run_guest(shared) {
            shared.notices.end(end);
            break;
        }
    }
    RUNNING.set(ptr::null_mut());
    gate.leave();
}

/// A thread that panicked while it held one has aborted the machine.
pub(crate) fn lock(vcpu: &Mutex<Vcpu>) -> MutexGuard<'_, Vcpu> {
    vcpu.lock().unwrap_or_else(PoisonError::into_inner)
}

fn handle(id: u8, exit: VcpuExit<'_>, bus: &Bus) -> Next {
    match exit {
        VcpuExit::IoOut(port, data) => match bus.port_write(port, data) {
            Effect::None => Next::Continue,
            Effect::End(end) => Next::End(end),
            Effect::Mark(mark) => Next::Mark(mark),
        },
        VcpuExit::IoIn(port, data) => {
            bus.port_read(port, data);
            Next::Continue
        }
        VcpuExit::MmioRead(address, data) => {
            bus.memory_read(address, data);
            Next::Continue
        }
        VcpuExit::MmioWrite(address, data) => {
            bus.memory_write(address, data);
            Next::Continue
        }
        VcpuExit::Intr | VcpuExit::IrqWindowOpen => Next::Continue,
        VcpuExit::Shutdown => Next::End(End::TripleFault),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN | KVM_SYSTEM_EVENT_RESET, _) => {
            Next::End(End::PowerOff)
        }
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _) => Next::End(End::Panic),
        VcpuExit::InternalError => Next::InternalError,
        VcpuExit::FailEntry(reason, _) => Next::Fail(RunError::FailEntry(id, reason)),
        other => Next::Fail(RunError::Unknown(id, format!("{other:?}"))),
    }
}
