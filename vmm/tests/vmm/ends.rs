//! How a guest ends, and what it says on the way.

use bulkhead_vmm::api::{End, Mark, SerialOutput};

use crate::guest::{Guest, guest, kvm, run_with_config, succeed, until_end};

guest!(power_off, succeed!());
guest!(panic, "mov edx, 0x505; mov al, 1; out dx, al; 2: jmp 2b");
guest!(reset, "mov al, 0xfe; out 0x64, al; 2: jmp 2b");
guest!(triple_fault, "mov rax, 0x8000000000000000; mov byte ptr [rax], 1; 2: jmp 2b");
guest!(
    timer,
    "mov edx, 0x506; mov al, 1; out dx, al; out dx, al",
    "mov al, 77; out dx, al",
    "mov al, 2; out dx, al; mov al, 1; out dx, al",
    succeed!()
);
guest!(
    hello,
    "lea rsi, [rip + 3f]; mov edx, 0x3f8; mov ecx, 3",
    "2: mov al, [rsi]; out dx, al; inc rsi; dec ecx; jnz 2b",
    succeed!(),
    "3: .ascii \"hi\\n\"",
);
guest!(
    absent,
    // No device there: all ones; a write goes nowhere.
    "mov edx, 0xcf8; in eax, dx; inc eax; jnz 9f",
    "out dx, eax",
    "mov edx, 0x3fd; in al, dx; inc al; jnz 9f",
    succeed!(),
    crate::guest::fail_at_9!(),
);

#[test]
fn a_guest_that_ends_says_how() {
    if !kvm() {
        return;
    }
    for (code, end) in [
        (power_off(), End::PowerOff),
        (reset(), End::PowerOff),
        (panic(), End::Panic),
        (triple_fault(), End::TripleFault),
        (absent(), End::PowerOff),
    ] {
        assert_eq!(Guest::new(code).run().end, end);
    }
}

#[test]
fn the_exit_code_and_standard_error_say_it_too() {
    if !kvm() {
        return;
    }
    for (code, exit, words) in [
        (power_off(), 0, ""),
        (panic(), 2, "bulkhead-vmm: the guest's kernel panicked\n"),
        (triple_fault(), 3, "bulkhead-vmm: a virtual CPU met a triple fault\n"),
    ] {
        let guest = Guest::new(code);
        let output = run_with_config(&serde_json::to_string(&guest.config()).unwrap());
        assert_eq!(output.status.code(), Some(exit));
        assert_eq!(String::from_utf8_lossy(&output.stderr), words);
    }
}

#[test]
fn each_point_of_the_start_is_told_once_and_in_order() {
    if !kvm() {
        return;
    }
    let outcome = Guest::new(timer()).run();
    assert_eq!(
        outcome.marks,
        [Mark::ProcessStarted, Mark::KernelEntry, Mark::InitExec, Mark::ContainerExec]
    );
    assert_eq!(outcome.end, End::PowerOff);
}

#[test]
fn a_serial_console_writes_to_its_file_and_else_there_is_none() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(hello());
    let mut config = guest.config();
    config.serial = Some(SerialOutput::File(guest.path("console")));
    let (vmm, mut messages) = guest.start(&config);
    assert_eq!(until_end(&mut messages).end, End::PowerOff);
    drop(vmm);
    assert_eq!(std::fs::read(guest.path("console")).unwrap(), b"hi\n");
    let without = Guest::new(hello());
    let output = run_with_config(&serde_json::to_string(&without.config()).unwrap());
    assert_eq!((output.stdout, output.status.code()), (Vec::new(), Some(0)));
}
