//! Tests of the XSAVE areas' two forms.

use super::*;

impl Area for Vec<u8> {
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), Fault> {
        into.copy_from_slice(bytes(self, offset, into.len())?);
        Ok(())
    }

    fn write(&mut self, offset: usize, from: &[u8]) -> Result<(), Fault> {
        bytes_mut(self, offset, from.len())?.copy_from_slice(from);
        Ok(())
    }
}

const OPMASK: u64 = 1 << 5;
const ALL: u64 = X87 | SSE | AVX | OPMASK;

/// AVX at 576 with 256 bytes, opmask at 832 with 64, to be aligned.
fn layout() -> Layout {
    let entry = |index, offset, size, flags| kvm_cpuid_entry2 {
        function: CPUID_XSAVE,
        index,
        eax: size,
        ebx: offset,
        ecx: flags,
        ..kvm_cpuid_entry2::default()
    };
    Layout::new(&[entry(0, 0, 7, 0), entry(2, 576, 256, 0), entry(5, 832, 64, ALIGNED)])
}

/// An image whose every component's bytes are its own.
fn image(in_use: u64) -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[..24].fill(0x10);
    image[X87_REGISTERS].fill(0x11);
    image[MXCSR..MXCSR + 4].copy_from_slice(&MXCSR_INITIAL.to_le_bytes());
    image[28..32].copy_from_slice(&MXCSR_MASK_DEFAULT.to_le_bytes());
    image[XMM].fill(0x22);
    image[576..832].fill(0x33);
    image[832..896].fill(0x55);
    image[512..520].copy_from_slice(&in_use.to_le_bytes());
    image
}

fn round_trip(how: Save, mask: u64, in_use: u64) -> (Vec<u8>, Vec<u8>) {
    let layout = layout();
    let mut area = vec![0; 4096];
    layout.save(how, mask, true, &image(in_use), &mut area).unwrap();
    let mut other = image(0);
    for byte in other.iter_mut().filter(|byte| **byte != 0) {
        *byte ^= 0x80;
    }
    other[MXCSR..MXCSR + 8].copy_from_slice(&image(0)[MXCSR..MXCSR + 8]);
    let form = layout.form(ALL, &area).unwrap();
    layout.restore(mask, form, true, &area, &mut other).unwrap();
    (area, other)
}

proptest::proptest! {
    /// Whatever is asked for and in use: what was saved comes back, what was not in use becomes initial, the rest stays.
    #[test]
    fn a_saved_state_comes_back(how in 0..3u8, mask in 0..=ALL, in_use in 0..=ALL) {
        let (mask, in_use) = (mask & ALL, in_use & ALL);
        let how = [Save::Plain, Save::Optimized, Save::Compacted][usize::from(how)];
        let layout = layout();
        let mut area = vec![0; 4096];
        layout.save(how, mask, true, &image(in_use), &mut area).unwrap();
        let form = layout.form(ALL, &area).unwrap();
        proptest::prop_assert!(layout.length(mask, form) <= area.len());
        let mut other = image(ALL);
        for range in [X87_REGISTERS, XMM, 576..832, 832..896] {
            other[range].fill(0xcc);
        }
        layout.restore(mask, form, true, &area, &mut other).unwrap();
        for (bit, range) in
            [(X87, X87_REGISTERS), (SSE, XMM), (AVX, 576..832), (OPMASK, 832..896)]
        {
            let expected = match (mask & bit != 0, in_use & bit != 0) {
                (true, true) => image(0)[range.clone()].to_vec(),
                (true, false) => vec![0; range.len()],
                (false, _) => vec![0xcc; range.len()],
            };
            proptest::prop_assert_eq!(&other[range], &expected);
        }
        let header = (ALL & !mask) | (in_use & mask);
        proptest::prop_assert_eq!(&other[512..520], &header.to_le_bytes());
    }
}

#[test]
fn what_every_form_saves_it_restores() {
    for how in [Save::Plain, Save::Optimized, Save::Compacted] {
        let (_, back) = round_trip(how, ALL, ALL);
        assert_eq!(back, image(ALL), "{how:?}");
    }
}

#[test]
fn a_component_in_its_initial_state_becomes_initial() {
    for how in [Save::Plain, Save::Optimized, Save::Compacted] {
        let (area, back) = round_trip(how, ALL, SSE);
        assert_eq!(area[512..520], SSE.to_le_bytes(), "{how:?}");
        assert_eq!(back[512..520], SSE.to_le_bytes(), "{how:?}");
        assert_eq!(back[XMM], image(0)[XMM]);
        assert!(back[576..896].iter().all(|&byte| byte == 0));
        assert_eq!(back[..2], FCW_INITIAL.to_le_bytes());
    }
}

#[test]
fn only_what_is_asked_for_is_touched() {
    let layout = layout();
    let mut area = vec![0xee; 4096];
    area[512..520].copy_from_slice(&X87.to_le_bytes());
    layout.save(Save::Plain, AVX, true, &image(ALL), &mut area).unwrap();
    assert!(area[..24].iter().all(|&byte| byte == 0xee));
    assert_eq!(area[MXCSR..MXCSR + 4], MXCSR_INITIAL.to_le_bytes());
    assert!(area[32..512].iter().all(|&byte| byte == 0xee));
    assert_eq!(area[512..520], (X87 | AVX).to_le_bytes());
    assert!(area[520..576].iter().all(|&byte| byte == 0xee));
    assert_eq!(area[576..832], image(0)[576..832]);
    assert!(area[832..].iter().all(|&byte| byte == 0xee));
}

#[test]
fn the_compacted_form_closes_gaps_and_aligns() {
    let layout = layout();
    let mut area = vec![0; 4096];
    layout.save(Save::Compacted, SSE | OPMASK, true, &image(ALL), &mut area).unwrap();
    assert_eq!(area[576..640], image(0)[832..896]);
    assert_eq!(area[520..528], (COMPACTED | SSE | OPMASK).to_le_bytes());
    assert_eq!(layout.length(OPMASK, Some(SSE | OPMASK)), 640);
    assert_eq!(layout.length(OPMASK, None), 896);
    assert_eq!(layout.length(SSE, None), MINIMUM);
}

#[test]
fn a_restore_of_some_components_leaves_the_others() {
    let layout = layout();
    let mut area = vec![0; 4096];
    layout.save(Save::Plain, AVX, true, &image(ALL), &mut area).unwrap();
    let mut target = image(ALL);
    target[576..832].fill(0);
    target[832..896].fill(0x77);
    layout.restore(AVX, None, true, &area, &mut target).unwrap();
    assert_eq!(target[576..832], image(0)[576..832]);
    assert!(target[832..896].iter().all(|&byte| byte == 0x77));
    assert_eq!(target[512..520], ALL.to_le_bytes());
}

#[test]
fn an_mxcsr_that_is_not_initial_is_kept_without_sse_state() {
    let layout = layout();
    let mut area = vec![0; 4096];
    area[MXCSR..MXCSR + 4].copy_from_slice(&0x9fc0u32.to_le_bytes());
    let mut target = image(0);
    layout.restore(SSE | AVX, None, true, &area, &mut target).unwrap();
    assert_eq!(target[MXCSR..MXCSR + 4], 0x9fc0u32.to_le_bytes());
    assert_eq!(target[512..520], SSE.to_le_bytes());
}

#[test]
fn headers_that_the_processor_refuses_are_protection_faults() {
    let layout = layout();
    let refused = |at: usize, byte: u8| {
        let mut area = vec![0; 4096];
        area[at] = byte;
        layout.form(ALL, &area)
    };
    assert_eq!(refused(513, 1), Err(Fault::Protection), "a component that XCR0 lacks");
    assert_eq!(refused(521, 1), Err(Fault::Protection), "XCOMP_BV without its top bit");
    assert_eq!(refused(530, 1), Err(Fault::Protection), "a reserved byte");
    let mut area = vec![0; 4096];
    area[520..528].copy_from_slice(&(COMPACTED | SSE).to_le_bytes());
    area[512] = 4;
    assert_eq!(layout.form(ALL, &area), Err(Fault::Protection), "held but not in the form");
    let mut area = vec![0; 4096];
    area[MXCSR + 2] = 1;
    let outcome = layout.restore(SSE, None, true, &area, &mut image(0));
    assert_eq!(outcome, Err(Fault::Protection), "a reserved bit of MXCSR");
}

#[test]
fn without_rex_w_the_pointers_have_32_bits() {
    let layout = layout();
    let mut area = vec![0; 4096];
    layout.save(Save::Plain, X87, false, &image(ALL), &mut area).unwrap();
    assert_eq!(area[8..12], [0x10; 4]);
    assert_eq!(area[12..16], [0; 4]);
    assert_eq!(area[20..24], [0; 4]);
}
