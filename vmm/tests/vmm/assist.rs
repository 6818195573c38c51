//! Instructions that a software KVM does not know, executed by guests that check the results themselves. On hardware the same
//! guests check the checks.

use bulkhead_vmm::{
    api::{Backend, End},
    kvm::{Detected, Host, detect},
};

use crate::guest::{Guest, fail_at_9, guest, kvm, succeed};

/// Points the interrupt gate of vector `$vector` to label `$label`; the IDT is at 0x210000.
macro_rules! gate {
    ($vector:literal, $label:literal) => {
        concat!(
            "lea rax, [rip + ",
            $label,
            "]; mov edi, 0x210000 + 16 * ",
            $vector,
            ";",
            "mov word ptr [rdi], ax; mov word ptr [rdi + 2], 8; mov word ptr [rdi + 4], 0x8e00;",
            "shr rax, 16; mov word ptr [rdi + 6], ax; shr rax, 16; mov dword ptr [rdi + 8], eax;",
            "mov dword ptr [rdi + 12], 0;",
            "mov word ptr [0x20f000], 0xfff; mov qword ptr [0x20f002], 0x210000; lidt [0x20f000]"
        )
    };
}

/// Switches XSAVE on, with every component of x87, SSE, AVX and AVX-512 that there is; XCR0 in EBX. Skips to success without.
macro_rules! enable_xsave {
    () => {
        "
    mov eax, 1; xor ecx, ecx; cpuid; bt ecx, 26; jnc 8f
    mov rax, cr4; or eax, 0x40600; mov cr4, rax
    mov rax, cr0; and eax, ~0xe; or eax, 0x22; mov cr0, rax
    mov eax, 0xd; xor ecx, ecx; cpuid
    and eax, 0xe7; mov ebx, eax; xor edx, edx; xor ecx, ecx; xsetbv"
    };
}

/// Fills an XSAVE area at 0x200000 with a pattern in every component that EBX names, all of them in use.
macro_rules! fill_area {
    () => {
        "
    mov edi, 0x200000; xor ecx, ecx; mov eax, 0x11
    2: mov byte ptr [rdi + rcx], al; add al, 7; inc ecx; cmp ecx, 4096; jne 2b
    xor eax, eax; mov edi, 0x200000 + 512; mov ecx, 64; rep stosb
    mov word ptr [0x200000], 0x37f; mov word ptr [0x200002], 0; mov dword ptr [0x200004], 0
    mov dword ptr [0x200018], 0x1f80; mov dword ptr [0x20001c], 0
    mov dword ptr [0x200200], ebx"
    };
}

guest!(
    population_count,
    "mov rax, 0xf0f0f0f000000001; popcnt rbx, rax; jz 9f; cmp rbx, 17; jne 9f",
    "popcnt ecx, eax; cmp rcx, 1; jne 9f",
    "xor eax, eax; stc; popcnt rcx, rax; jnz 9f; jc 9f; test rcx, rcx; jnz 9f",
    "mov qword ptr [0x200ffc], -1; mov r9, -1; mov r10d, 0x200ff8; mov r11d, 2",
    "popcnt r8, qword ptr [r10 + 2*r11]; cmp r8, 64; jne 9f",
    "popcnt r9w, word ptr [0x200ffc]; mov rax, 0xffffffffffff0010; cmp r9, rax; jne 9f",
    succeed!(),
    fail_at_9!(),
);

guest!(
    compare_exchange,
    "mov qword ptr [0x200000], 1; mov qword ptr [0x200008], 2",
    "mov eax, 1; mov edx, 2; mov ebx, 3; mov ecx, 4",
    "lock cmpxchg16b [0x200000]; jnz 9f",
    "cmp qword ptr [0x200000], 3; jne 9f; cmp qword ptr [0x200008], 4; jne 9f",
    "cmp rbx, 3; jne 9f; cmp rcx, 4; jne 9f",
    "cmpxchg16b [0x200000]; jz 9f",
    "cmp rax, 3; jne 9f; cmp rdx, 4; jne 9f; cmp qword ptr [0x200000], 3; jne 9f",
    succeed!(),
    fail_at_9!(),
);

guest!(
    misaligned,
    gate!("13", "7f"),
    "lock cmpxchg16b [0x200008]; jmp 9f",
    // The error code of a protection fault is 0.
    "7: cmp qword ptr [rsp], 0; jne 9f",
    succeed!(),
    fail_at_9!(),
);

guest!(
    vector_registers,
    enable_xsave!(),
    fill_area!(),
    "mov eax, -1; mov edx, -1; xrstor64 [0x200000]",
    "movdqu [0x208000], xmm5; mov rax, [0x208000]; cmp rax, [0x200000 + 160 + 5*16]; jne 9f",
    "mov rax, [0x208008]; cmp rax, [0x200000 + 160 + 5*16 + 8]; jne 9f",
    // Into a clean area that lies on two pages, then compare all that is in use.
    "xor eax, eax; mov edi, 0x204f00; mov ecx, 4096; rep stosb",
    "mov eax, -1; mov edx, -1; xsave64 [0x204f00]",
    "cmp dword ptr [0x204f00 + 512], ebx; jne 9f",
    "mov esi, 0x200000 + 160; mov edi, 0x204f00 + 160; mov ecx, 256; repe cmpsb; jne 9f",
    "mov r8d, 2",
    "3: bt ebx, r8d; jnc 4f; mov r9d, ebx; mov eax, 0xd; mov ecx, r8d; cpuid",
    "mov esi, ebx; lea edi, [rsi + 0x204f00]; add esi, 0x200000; mov ecx, eax; mov ebx, r9d",
    "repe cmpsb; jne 9f",
    "4: inc r8d; cmp r8d, 8; jne 3b",
    // What the area does not hold becomes initial.
    "mov dword ptr [0x200200], 0; mov eax, -1; mov edx, -1; xrstor64 [0x200000]",
    "movdqu [0x208000], xmm5; cmp qword ptr [0x208000], 0; jne 9f",
    "8:",
    succeed!(),
    fail_at_9!(),
);

guest!(
    compacted,
    enable_xsave!(),
    fill_area!(),
    "mov r9d, ebx; mov eax, 0xd; mov ecx, 1; cpuid; bt eax, 1; jnc 8f; mov ebx, r9d",
    "mov eax, -1; mov edx, -1; xrstor64 [0x200000]",
    "xor eax, eax; mov edi, 0x204000; mov ecx, 4096; rep stosb",
    "mov eax, -1; mov edx, -1; xsavec64 [0x204000]",
    "bt dword ptr [0x204000 + 524], 31; jnc 9f",
    // Forget, restore from the compacted form, save in the standard one, compare.
    "mov dword ptr [0x200200], 0; mov eax, -1; mov edx, -1; xrstor64 [0x200000]",
    "mov eax, -1; mov edx, -1; xrstor64 [0x204000]",
    "xor eax, eax; mov edi, 0x206000; mov ecx, 4096; rep stosb",
    "mov eax, -1; mov edx, -1; xsaveopt64 [0x206000]",
    "mov esi, 0x200000 + 160; mov edi, 0x206000 + 160; mov ecx, 256; repe cmpsb; jne 9f",
    "bt ebx, 2; jnc 8f",
    "mov esi, 0x200000 + 576; mov edi, 0x206000 + 576; mov ecx, 256; repe cmpsb; jne 9f",
    "8:",
    succeed!(),
    fail_at_9!(),
);

guest!(
    absent_page,
    enable_xsave!(),
    gate!("14", "7f"),
    // The last 64 bytes of the first GiB are there, the rest of the area is not; the header is on the second page.
    "mov eax, -1; mov edx, -1; mov ebx, 0x3fffffc0; mov ecx, 0",
    "6: xsave64 [rbx]; jmp 9f",
    // A write to an absent page, and its address is the first one that is absent.
    "7: cmp qword ptr [rsp], 2; jne 9f; mov rax, cr2; cmp rax, 0x40000000; jne 9f",
    "lea rax, [rip + 6b]; cmp rax, [rsp + 8]; jne 9f",
    "8:",
    succeed!(),
    fail_at_9!(),
);

guest!(
    read_only_page,
    enable_xsave!(),
    gate!("14", "7f"),
    // The third large page loses its right to be written, which ring 0 honours with CR0.WP.
    "mov rax, cr0; or eax, 0x10000; mov cr0, rax",
    "and qword ptr [0xb000 + 2*8], ~2; invlpg [0x400000]",
    "mov eax, -1; mov edx, -1; xsave64 [0x400000]; jmp 9f",
    "7: cmp qword ptr [rsp], 3; jne 9f; mov rax, cr2; cmp rax, 0x400000; jne 9f",
    "8:",
    succeed!(),
    fail_at_9!(),
);

guest!(
    traps,
    gate!("3", "5f"),
    gate!("6", "6f"),
    "xor r15d, r15d; fwait; int3",
    "2: cmp r15d, 1; jne 9f",
    "3: ud2; jmp 9f",
    // The breakpoint's return address is behind it, that of the undefined opcode at it.
    "5: lea rax, [rip + 2b]; cmp rax, [rsp]; jne 9f; inc r15d; iretq",
    "6: lea rax, [rip + 3b]; cmp rax, [rsp]; jne 9f",
    succeed!(),
    fail_at_9!(),
);

guest!(not_interpreted, "vzeroupper", succeed!());

fn assert_succeeds(code: &[u8]) {
    if kvm() {
        assert_eq!(Guest::new(code).run().end, End::PowerOff);
    }
}

#[test]
fn popcnt_counts_registers_and_memory_and_sets_flags() {
    assert_succeeds(population_count());
}

#[test]
fn cmpxchg16b_swaps_or_loads_and_wants_alignment() {
    assert_succeeds(compare_exchange());
    assert_succeeds(misaligned());
}

#[test]
fn vector_registers_survive_xsave_and_xrstor() {
    assert_succeeds(vector_registers());
}

#[test]
fn vector_registers_survive_the_compacted_form() {
    assert_succeeds(compacted());
}

#[test]
fn an_operand_on_an_absent_or_read_only_page_is_the_guests_page_fault() {
    assert_succeeds(absent_page());
    assert_succeeds(read_only_page());
}

#[test]
fn breakpoints_undefined_opcodes_and_fwait_are_the_processors() {
    assert_succeeds(traps());
}

#[test]
fn an_instruction_that_nobody_knows_is_named_with_its_place() {
    if !kvm() {
        return;
    }
    if detect(&Host::open().unwrap(), Backend::Auto).unwrap() == Detected::Hardware {
        eprintln!("skipped: only a software KVM has such instructions");
        return;
    }
    let end = Guest::new(not_interpreted()).run().end;
    let End::Failed(why) = end else { panic!("{end:?}") };
    assert!(why.contains("c5 f8 77") && why.contains("0x100078"), "{why}");
}
