//! Runs compiled filters in a small interpreter of classic BPF.

use super::*;

fn run(filter: &Filter, arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = [0; 64];
    data[0..4].copy_from_slice(&number.to_le_bytes());
    data[4..8].copy_from_slice(&arch.to_le_bytes());
    for (index, value) in args.iter().enumerate() {
        data[16 + 8 * index..24 + 8 * index].copy_from_slice(&value.to_le_bytes());
    }
    let (mut at, mut a) = (0, 0);
    loop {
        let i = filter.program[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { i.jt } else { i.jf });
        match u32::from(i.code) {
            0x20 => a = u32::from_le_bytes(data[i.k as usize..][..4].try_into().unwrap()),
            0x54 => a &= i.k,
            0x05 => at += i.k as usize,
            0x15 => at += jump(a == i.k),
            0x25 => at += jump(a > i.k),
            0x35 => at += jump(a >= i.k),
            0x06 => return i.k,
            code => panic!("instruction {code:#x}"),
        }
    }
}

fn compile(json: &str) -> Filter {
    Filter::compile(&serde_json::from_str(json).unwrap()).unwrap()
}

fn call(filter: &Filter, name: &str, args: [u64; 6]) -> u32 {
    run(filter, ARCH_X86_64, native(name).unwrap(), args)
}

fn native(name: &str) -> Option<u32> {
    syscalls::number(Abi::X86_64, name)
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;

#[test]
fn every_number_has_the_outcome_of_its_rule() {
    let filter = compile(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
            {"names": ["read", "write", "close", "no_such_call", "clone3", "futex"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["mount"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["ptrace"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#,
    );
    let clone3 = native("clone3").unwrap();
    let named = ["read", "write", "close", "clone3", "futex"].map(native);
    for number in 0..600 {
        let expected = match number {
            n if named.contains(&Some(n)) => ALLOW,
            n if Some(n) == native("mount") => libc::SECCOMP_RET_KILL_PROCESS,
            n if Some(n) == native("ptrace") => libc::SECCOMP_RET_ERRNO | 13,
            n if n > clone3 => libc::SECCOMP_RET_ERRNO | ENOSYS,
            _ => EPERM,
        };
        assert_eq!(run(&filter, ARCH_X86_64, number, [0; 6]), expected, "{number}");
    }
    assert_eq!(run(&filter, 0x4000_0003, 0, [0; 6]), libc::SECCOMP_RET_KILL_THREAD);
    assert_eq!(run(&filter, ARCH_X86_64, X32_BIT, [0; 6]), libc::SECCOMP_RET_ERRNO | ENOSYS);
}

#[test]
fn comparisons_are_of_64_bits() {
    let value = 0x1_0000_0005_u64;
    let below = [0, 4, 5, 6, 0xffff_ffff, value - 1];
    let above = [value + 1, 0x1_ffff_ffff, 0x2_0000_0000, u64::MAX];
    for (op, holds_below, holds_equal, holds_above) in [
        ("NE", true, false, true),
        ("LT", true, false, false),
        ("LE", true, true, false),
        ("EQ", false, true, false),
        ("GE", false, true, true),
        ("GT", false, false, true),
    ] {
        let filter = compile(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["dup3"], "action": "SCMP_ACT_ALLOW",
                "args": [{{"index": 3, "value": {value}, "op": "SCMP_CMP_{op}"}}]}}]}}"#
        ));
        let check = |argument: u64, holds: bool| {
            let got = call(&filter, "dup3", [9, 9, 9, argument, 9, 9]);
            assert_eq!(got, if holds { ALLOW } else { EPERM }, "{argument:#x} {op} {value:#x}");
        };
        below.iter().for_each(|argument| check(*argument, holds_below));
        check(value, holds_equal);
        above.iter().for_each(|argument| check(*argument, holds_above));
    }
}

#[test]
fn masks_and_several_arguments() {
    let filter = compile(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"},
                {"index": 1, "value": 7, "op": "SCMP_CMP_EQ"}]},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 131072, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(call(&filter, "clone", [0x11, 7, 0, 0, 0, 0]), ALLOW);
    assert_eq!(call(&filter, "clone", [0x11, 8, 0, 0, 0, 0]), EPERM);
    assert_eq!(call(&filter, "clone", [0x1000_0011, 7, 0, 0, 0, 0]), EPERM);
    for persona in [0, 8, 0x20000] {
        assert_eq!(call(&filter, "personality", [persona, 0, 0, 0, 0, 0]), ALLOW);
    }
    assert_eq!(call(&filter, "personality", [1, 0, 0, 0, 0, 0]), EPERM);
}

#[test]
fn a_big_profile_has_a_short_path() {
    let names: Vec<_> = (0..400).step_by(2).collect();
    let by_number = |wanted: u32| {
        ["read", "open", "stat", "lstat", "lseek", "mprotect", "brk"]
            .iter()
            .find(|name| native(name) == Some(wanted))
    };
    let named: Vec<_> = names.iter().filter_map(|n| by_number(*n)).collect();
    let conditional = r#"{"names": ["read", "open"], "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}"#;
    let filter = compile(&format!(
        r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{conditional}, {{"names": {}, "action": "SCMP_ACT_TRAP"}}]}}"#,
        serde_json::to_string(&named).unwrap()
    ));
    for name in named {
        assert_eq!(call(&filter, name, [0; 6]), libc::SECCOMP_RET_TRAP);
    }
    assert_eq!(call(&filter, "write", [0; 6]), ALLOW);
    // More outcomes than a short jump spans.
    let outcomes: BTreeMap<_, _> = (0..2000)
        .map(|n| (n, Outcome { conditions: Vec::new(), otherwise: libc::SECCOMP_RET_ERRNO | n }))
        .collect();
    let mut program = vec![bpf::load(bpf::NUMBER)];
    program.extend(tree(&ranges(&outcomes, ALLOW, 1999, ALLOW)));
    let wide = Filter { program, flags: 0 };
    for number in [0, 1, 254, 255, 256, 1000, 1023, 1024, 1999] {
        assert_eq!(run(&wide, ARCH_X86_64, number, [0; 6]), libc::SECCOMP_RET_ERRNO | number);
    }
    assert_eq!(run(&wide, ARCH_X86_64, 2000, [0; 6]), ALLOW);
}

#[test]
fn what_cannot_be_is_refused() {
    for json in [
        r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_TRAP",
            "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
    ] {
        let profile = serde_json::from_str(json).unwrap();
        assert!(matches!(Filter::compile(&profile), Err(Error::Invalid { .. })));
    }
}

#[test]
fn programs_of_32_bits_have_numbers_of_their_own() {
    let json = |architectures: &str| {
        format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "architectures": [{architectures}],
                "syscalls": [{{"names": ["read", "socketcall", "futex"], "action": "SCMP_ACT_ALLOW"}}]}}"#
        )
    };
    let both = compile(&json(r#""SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32""#));
    let native = compile(&json(r#""SCMP_ARCH_X86_64""#));
    let i386 = |filter, number| run(filter, ARCH_I386, number, [0; 6]);
    // read, socketcall, write.
    assert_eq!([3, 102, 4].map(|number| i386(&both, number)), [ALLOW, ALLOW, EPERM]);
    assert_eq!(i386(&native, 3), libc::SECCOMP_RET_KILL_THREAD);
    for filter in [&both, &native] {
        assert_eq!(call(filter, "read", [0; 6]), ALLOW);
        assert_eq!(call(filter, "write", [0; 6]), EPERM);
        assert_eq!(run(filter, 0xc000_00b7, 0, [0; 6]), libc::SECCOMP_RET_KILL_THREAD);
    }
}
