//! The entry point and system calls of x86-64 (System V ABI, AMD64 supplement, 3.4.1 and A.2.1).

use core::arch::{asm, global_asm};

// The stack pointer is the only thing that the kernel gives; calls need it at a multiple of 16.
global_asm!(
    ".globl _start",
    ".type _start, @function",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {stamp}",
    "ud2",
    stamp = sym super::stamp,
);

/// Calls the kernel; a negative result is an error's number.
///
/// # Safety
/// That of the call.
pub(crate) unsafe fn system_call(number: usize, arguments: [usize; 3]) -> isize {
    let result: isize;
    // SAFETY: the kernel changes rax, rcx and r11, and what the caller has vouched for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}
