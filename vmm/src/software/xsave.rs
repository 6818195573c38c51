//! XSAVE areas: moves state between KVM's image of a vCPU, which has the standard form, and an area in the guest's memory
//! (Intel SDM volume 1, chapter 13). Pure functions of bytes.

use kvm_bindings::kvm_cpuid_entry2;

use super::{operand::Operand, paging::Fault};

const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
/// XCOMP_BV's bit that says that an area is compacted.
const COMPACTED: u64 = 1 << 63;

const MXCSR: usize = 24;
const XMM: std::ops::Range<usize> = 160..416;
/// The x87 state around MXCSR: control words and pointers, then the registers.
const X87_HEAD: usize = 24;
const X87_REGISTERS: std::ops::Range<usize> = 32..160;
const XSTATE_BV: usize = 512;
const XCOMP_BV: usize = 520;
/// The legacy region and the header.
pub(super) const MINIMUM: usize = 576;
const HEADER: usize = 64;

const FCW_INITIAL: u16 = 0x37f;
const MXCSR_INITIAL: u32 = 0x1f80;
const MXCSR_MASK_DEFAULT: u32 = 0xffff;

const CPUID_XSAVE: u32 = 0xd;
const SUPERVISOR: u32 = 1 << 0;
const ALIGNED: u32 = 1 << 1;

/// The instructions that save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Save {
    /// XSAVE: every component asked for.
    Plain,
    /// XSAVEOPT: those that are not in their initial state.
    Optimized,
    /// XSAVEC: the same, in the compacted form.
    Compacted,
}

#[derive(Debug, Clone, Copy, Default)]
struct Component {
    offset: usize,
    size: usize,
    aligned: bool,
}

/// Where each state component lies (CPUID leaf 0xd).
#[derive(Debug, Clone)]
pub struct Layout {
    components: [Component; 63],
}

/// What an area's bytes are reached through.
pub(super) trait Area {
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), Fault>;
    fn write(&mut self, offset: usize, from: &[u8]) -> Result<(), Fault>;
}

impl Area for Operand<'_> {
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), Fault> {
        Operand::read(self, offset, into)
    }

    fn write(&mut self, offset: usize, from: &[u8]) -> Result<(), Fault> {
        Operand::write(self, offset, from)
    }
}

impl Layout {
    /// The host's, from the CPUID entries that KVM supports.
    #[must_use]
    pub fn new(cpuid: &[kvm_cpuid_entry2]) -> Self {
        let mut components = [Component::default(); 63];
        for entry in cpuid.iter().filter(|entry| entry.function == CPUID_XSAVE && entry.index >= 2)
        {
            if let Some(slot) = components.get_mut(entry.index as usize)
                && entry.ecx & SUPERVISOR == 0
            {
                *slot = Component {
                    offset: entry.ebx as usize,
                    size: entry.eax as usize,
                    aligned: entry.ecx & ALIGNED != 0,
                };
            }
        }
        Self { components }
    }

    /// The components of `mask` beyond x87 and SSE with their places in an area, standard or, for those of `compacted`, compacted.
    fn places(&self, mask: u64, compacted: Option<u64>) -> impl Iterator<Item = (usize, usize)> {
        let mut next = MINIMUM;
        (2..self.components.len()).filter_map(move |index| {
            let component = self.components[index];
            let offset = match compacted {
                None => component.offset,
                Some(held) if held & (1 << index) != 0 => {
                    let start = if component.aligned { next.next_multiple_of(64) } else { next };
                    next = start + component.size;
                    start
                }
                Some(_) => return None,
            };
            (mask & (1 << index) != 0 && component.size > 0).then_some((index, offset))
        })
    }

    /// How many bytes of an area `mask` reaches.
    pub(super) fn length(&self, mask: u64, compacted: Option<u64>) -> usize {
        self.places(mask, compacted)
            .map(|(index, offset)| offset + self.components[index].size)
            .fold(MINIMUM, usize::max)
    }

    /// Saves the components of `mask` (EDX:EAX and XCR0 both) from `image` to `area`. `wide`: with REX.W, x87 pointers have 64 bits.
    pub(super) fn save(
        &self,
        how: Save,
        mask: u64,
        wide: bool,
        image: &[u8],
        area: &mut impl Area,
    ) -> Result<(), Fault> {
        let mut in_use = quad(image, XSTATE_BV)?;
        if how == Save::Compacted && bytes(image, MXCSR, 4)? != MXCSR_INITIAL.to_le_bytes() {
            in_use |= SSE;
        }
        let written = if how == Save::Plain { mask } else { mask & in_use };
        if written & X87 != 0 {
            let mut head = [0; X87_HEAD];
            head.copy_from_slice(bytes(image, 0, X87_HEAD)?);
            narrow(&mut head, wide);
            area.write(0, &head)?;
            area.write(
                X87_REGISTERS.start,
                bytes(image, X87_REGISTERS.start, X87_REGISTERS.len())?,
            )?;
        }
        if written & SSE != 0 {
            area.write(XMM.start, bytes(image, XMM.start, XMM.len())?)?;
        }
        let with_mxcsr = if how == Save::Compacted { written & SSE } else { mask & (SSE | AVX) };
        if with_mxcsr != 0 {
            area.write(MXCSR, bytes(image, MXCSR, 8)?)?;
        }
        let compacted = (how == Save::Compacted).then_some(mask);
        for (index, offset) in self.places(written, compacted) {
            let component = self.components[index];
            area.write(offset, bytes(image, component.offset, component.size)?)?;
        }
        if how == Save::Compacted {
            area.write(XSTATE_BV, &(in_use & mask).to_le_bytes())?;
            return area.write(XCOMP_BV, &(mask | COMPACTED).to_le_bytes());
        }
        let mut old = [0; 8];
        area.read(XSTATE_BV, &mut old)?;
        let header = (u64::from_le_bytes(old) & !mask) | (in_use & mask);
        area.write(XSTATE_BV, &header.to_le_bytes())
    }

    /// What an area's header says about its form: the components it holds when it is compacted. The whole area that XRSTOR
    /// reads for `mask` is [`Layout::length`] of it. A header that the processor refuses is [`Fault::Protection`].
    pub(super) fn form(&self, xcr0: u64, area: &impl Area) -> Result<Option<u64>, Fault> {
        let mut header = [0; HEADER];
        area.read(XSTATE_BV, &mut header)?;
        let (held, form) = (quad(&header, 0)?, quad(&header, 8)?);
        let reserved = |bytes: &[u8]| bytes.iter().any(|&byte| byte != 0);
        if form & COMPACTED == 0 {
            let wrong = held & !xcr0 != 0 || reserved(&header[8..24]);
            return if wrong { Err(Fault::Protection) } else { Ok(None) };
        }
        let compacted = form & !COMPACTED;
        let wrong = compacted & !xcr0 != 0 || held & !compacted != 0 || reserved(&header[16..]);
        if wrong { Err(Fault::Protection) } else { Ok(Some(compacted)) }
    }

    /// Restores the components of `mask` from `area`, whose form is `compacted`, into `image`; those that the area does not
    /// hold become initial.
    pub(super) fn restore(
        &self,
        mask: u64,
        compacted: Option<u64>,
        wide: bool,
        area: &impl Area,
        image: &mut [u8],
    ) -> Result<(), Fault> {
        let mut held = [0; 8];
        area.read(XSTATE_BV, &mut held)?;
        let held = u64::from_le_bytes(held);
        let (loaded, cleared) = (mask & held, mask & !held);
        let in_use = quad(image, XSTATE_BV)?;
        let mut mxcsr = MXCSR_INITIAL.to_le_bytes();
        if compacted.map_or(mask & (SSE | AVX), |_| loaded & SSE) != 0 {
            area.read(MXCSR, &mut mxcsr)?;
            let allowed = match quad(image, MXCSR)? >> 32 {
                0 => u64::from(MXCSR_MASK_DEFAULT),
                allowed => allowed,
            };
            if u64::from(u32::from_le_bytes(mxcsr)) & !allowed != 0 {
                return Err(Fault::Protection);
            }
        }
        let with_mxcsr = compacted.map_or(mask & (SSE | AVX), |_| mask & SSE) != 0;
        if with_mxcsr {
            bytes_mut(image, MXCSR, 4)?.copy_from_slice(&mxcsr);
        }
        if loaded & X87 != 0 {
            let head = bytes_mut(image, 0, X87_HEAD)?;
            area.read(0, head)?;
            narrow(head, wide);
            area.read(
                X87_REGISTERS.start,
                bytes_mut(image, X87_REGISTERS.start, X87_REGISTERS.len())?,
            )?;
        } else if cleared & X87 != 0 {
            bytes_mut(image, 0, X87_HEAD)?.fill(0);
            bytes_mut(image, 0, 2)?.copy_from_slice(&FCW_INITIAL.to_le_bytes());
            bytes_mut(image, X87_REGISTERS.start, X87_REGISTERS.len())?.fill(0);
        }
        if loaded & SSE != 0 {
            area.read(XMM.start, bytes_mut(image, XMM.start, XMM.len())?)?;
        } else if cleared & SSE != 0 {
            bytes_mut(image, XMM.start, XMM.len())?.fill(0);
        }
        for (index, offset) in self.places(loaded, compacted) {
            let component = self.components[index];
            area.read(offset, bytes_mut(image, component.offset, component.size)?)?;
        }
        for (index, _) in self.places(cleared, None) {
            let component = self.components[index];
            bytes_mut(image, component.offset, component.size)?.fill(0);
        }
        let mut now = (in_use & !mask) | loaded;
        if with_mxcsr && mxcsr != MXCSR_INITIAL.to_le_bytes() {
            // MXCSR travels with SSE: a clear bit would have KVM set it to its initial value.
            now |= SSE;
        }
        bytes_mut(image, XSTATE_BV, 8)?.copy_from_slice(&now.to_le_bytes());
        bytes_mut(image, XCOMP_BV, 8)?.fill(0);
        Ok(())
    }
}

/// Without REX.W the x87 pointers have 32 bits, and their selectors are 0 on processors of this century.
fn narrow(head: &mut [u8], wide: bool) {
    if !wide {
        for range in [12..16, 20..24] {
            if let Some(bytes) = head.get_mut(range) {
                bytes.fill(0);
            }
        }
    }
}

/// A component that KVM's image has no room for cannot be moved.
const OUTSIDE: Fault = Fault::NoMemory { physical: u64::MAX };

fn bytes(image: &[u8], at: usize, length: usize) -> Result<&[u8], Fault> {
    image.get(at..at + length).ok_or(OUTSIDE)
}

fn bytes_mut(image: &mut [u8], at: usize, length: usize) -> Result<&mut [u8], Fault> {
    image.get_mut(at..at + length).ok_or(OUTSIDE)
}

fn quad(image: &[u8], at: usize) -> Result<u64, Fault> {
    let bytes = bytes(image, at, 8)?.try_into().map_err(|_| OUTSIDE)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
#[path = "xsave_tests.rs"]
mod tests;
