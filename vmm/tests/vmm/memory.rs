//! Memory on both sides of the device gap.

use bulkhead_vmm::api::End;

use crate::guest::{Guest, fail_at_9, guest, kvm, succeed, until_end};

guest!(
    above_the_gap,
    // The zero page's last e820 entry is the memory from 4 GiB on: 72 MiB.
    "movzx eax, byte ptr [rsi + 0x1e8]; dec eax; imul eax, eax, 20",
    "mov rbx, [rsi + rax + 0x2d0]; mov rcx, [rsi + rax + 0x2d8]",
    "mov rdx, 0x100000000; cmp rbx, rdx; jne 9f; cmp rcx, 72 << 20; jne 9f",
    // Map its last large page at 5 GiB with a table of our own.
    "mov rax, 0x100000083 + (70 << 20); mov qword ptr [0x211000], rax",
    "mov qword ptr [0xa000 + 5 * 8], 0x211003; mov rax, cr3; mov cr3, rax",
    "mov rbx, 0x140000000; cmp qword ptr [rbx], 0; jne 9f",
    "mov rcx, 0x123456789abcdef; mov [rbx + 0x1ffff8], rcx; cmp [rbx + 0x1ffff8], rcx; jne 9f",
    succeed!(),
    fail_at_9!(),
);

#[test]
fn what_does_not_fit_below_the_gap_is_above_four_gib() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(above_the_gap());
    let mut config = guest.config();
    config.memory_mib = 3328 + 72;
    let (_vmm, mut messages) = guest.start(&config);
    assert_eq!(until_end(&mut messages).end, End::PowerOff);
}
