//! What a processor is and can do, as far as a machine that ran on it depends on it.

use std::arch::x86_64::{__cpuid_count, CpuidResult};

use serde::{Deserialize, Serialize};

/// CPUID leaves and subleaves that say what a processor can do, and the registers of them (EAX, EBX, ECX, EDX) that are the same on
/// all of a host's processors (Intel SDM, volume 2, CPUID; AMD APM, volume 3, appendix E).
const LEAVES: [(u32, u32, [bool; 4]); 10] = [
    (0x1, 0, [true, false, true, true]),
    (0x7, 0, [true, true, true, true]),
    (0x7, 1, [true, true, false, true]),
    (0xd, 0, [true, false, true, true]),
    (0xd, 1, [true, false, true, true]),
    (0x14, 0, [true, true, true, false]),
    (0x19, 0, [true, true, true, false]),
    (0x8000_0001, 0, [false, false, true, true]),
    (0x8000_0007, 0, [false, false, false, true]),
    (0x8000_0008, 0, [true, true, false, false]),
];
const EXTENDED: u32 = 0x8000_0000;

/// A processor's model and features.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processor {
    vendor: String,
    /// Family, model and stepping, as CPUID has them.
    signature: u32,
    /// The registers of [`LEAVES`], with zeros for those that do not count.
    features: Vec<[u32; 4]>,
}

/// What CPUID says; every x86-64 processor has it.
#[allow(unused_unsafe, reason = "it is safe to call since Rust 1.94")]
fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    // SAFETY: the instruction exists on every x86-64 processor and only fills registers.
    unsafe { __cpuid_count(leaf, subleaf) }
}

impl Processor {
    /// The one that executes this.
    #[must_use]
    pub fn here() -> Self {
        let first = cpuid(0, 0);
        let extended = cpuid(EXTENDED, 0);
        let vendor = [first.ebx, first.edx, first.ecx].map(u32::to_le_bytes).concat();
        let features = LEAVES
            .map(|(leaf, subleaf, counts)| {
                let last = if leaf >= EXTENDED { extended.eax } else { first.eax };
                if leaf > last {
                    return [0; 4];
                }
                let found = cpuid(leaf, subleaf);
                let mut registers = [found.eax, found.ebx, found.ecx, found.edx];
                for (register, counts) in registers.iter_mut().zip(counts) {
                    *register = if counts { *register } else { 0 };
                }
                registers
            })
            .to_vec();
        let signature = features.first().map_or(0, |[eax, ..]| *eax);
        Self { vendor: String::from_utf8_lossy(&vendor).into_owned(), signature, features }
    }

    /// Family, model and stepping, each with its extension.
    fn model(&self) -> String {
        let field = |shift: u32, mask: u32| (self.signature >> shift) & mask;
        let mut family = field(8, 0xf);
        let mut model = field(4, 0xf);
        if family == 0xf {
            family += field(20, 0xff);
        }
        if family >= 6 {
            model |= field(16, 0xf) << 4;
        }
        format!("{} family {family} model {model} stepping {}", self.vendor, field(0, 0xf))
    }

    /// What differs between this one and `here`: a thing, and how it is on each side.
    #[must_use]
    pub fn difference(&self, here: &Self) -> Option<(&'static str, String, String)> {
        if (&self.vendor, self.signature) != (&here.vendor, here.signature) {
            return Some(("the host's processor", self.model(), here.model()));
        }
        let registers = |of: &Self, at: usize| of.features.get(at).copied().unwrap_or_default();
        let at = (0..LEAVES.len()).find(|&at| registers(self, at) != registers(here, at))?;
        let (leaf, subleaf, _) = LEAVES.get(at)?;
        let words = |of| format!("of CPUID {leaf:#x}.{subleaf} = {:x?}", registers(of, at));
        Some(("processor features", words(self), words(here)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_itself_and_differs_by_model_or_features() {
        let here = Processor::here();
        assert_eq!(here.difference(&Processor::here()), None);
        let mut other = here.clone();
        other.signature ^= 0x10;
        let (what, saved, now) = here.difference(&other).unwrap();
        assert!(what.contains("processor") && saved != now, "{what} {saved} {now}");
        assert!(saved.contains("family") && saved.contains("stepping"), "{saved}");
        let mut other = here.clone();
        other.features[1][1] ^= 1 << 5;
        let (what, saved, now) = here.difference(&other).unwrap();
        assert!(what.contains("features") && saved != now, "{what} {saved} {now}");
        assert!(saved.contains("CPUID 0x7.0"), "{saved}");
        other.features.clear();
        assert!(here.difference(&other).is_some());
    }
}
