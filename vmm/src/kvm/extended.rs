//! A vCPU's extended state (x87, vector registers and what came after), as an XSAVE area in its standard form.

use kvm_bindings::Xsave;
use kvm_ioctls::VcpuFd;

use super::KvmError;

/// What `KVM_GET_XSAVE` always has, in bytes.
const BASE: usize = 4096;

/// A buffer for it.
#[derive(Debug)]
pub struct ExtendedState {
    state: Xsave,
    image: Vec<u8>,
}

impl ExtendedState {
    /// For vCPUs whose extended state has `size` bytes ([`super::Vm::xsave_size`]).
    ///
    /// # Errors
    /// [`KvmError::Call`] when there is no memory for that.
    pub fn new(size: usize) -> Result<Self, KvmError> {
        let words = size.saturating_sub(BASE).div_ceil(4);
        let state = Xsave::new(words).map_err(|_| KvmError::Call {
            call: "KVM_GET_XSAVE2",
            source: vmm_sys_util::errno::Error::new(libc::ENOMEM),
        })?;
        Ok(Self { state, image: vec![0; BASE + 4 * words] })
    }

    /// The area's bytes, as [`load`](Self::load) read them.
    #[must_use]
    pub fn image(&self) -> &[u8] {
        &self.image
    }

    /// The area's bytes, for [`store`](Self::store).
    pub fn image_mut(&mut self) -> &mut [u8] {
        &mut self.image
    }

    /// Reads the vCPU's extended state.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn load(&mut self, vcpu: &VcpuFd) -> Result<(), KvmError> {
        // SAFETY: the buffer has the size that KVM_CAP_XSAVE2 told for this machine, and nothing here enables features later.
        unsafe { vcpu.get_xsave2(&mut self.state) }.map_err(KvmError::call("KVM_GET_XSAVE2"))?;
        let words = self.state.as_fam_struct_ref().xsave.region.iter().chain(self.state.as_slice());
        for (bytes, word) in self.image.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    }

    /// Writes the vCPU's extended state.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn store(&mut self, vcpu: &VcpuFd) -> Result<(), KvmError> {
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
        let (region, extra) = self.image.split_at(BASE);
        // SAFETY: only the words of `region` are written, the length of the flexible member stays.
        let state = unsafe { self.state.as_mut_fam_struct() };
        for (slot, bytes) in state.xsave.region.iter_mut().zip(region.chunks_exact(4)) {
            *slot = word(bytes);
        }
        for (slot, bytes) in self.state.as_mut_slice().iter_mut().zip(extra.chunks_exact(4)) {
            *slot = word(bytes);
        }
        // SAFETY: the buffer has the size that KVM_CAP_XSAVE2 told for this machine, and nothing here enables features later.
        unsafe { vcpu.set_xsave2(&self.state) }.map_err(KvmError::call("KVM_SET_XSAVE"))
    }
}
