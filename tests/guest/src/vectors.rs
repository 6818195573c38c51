//! `probe vectors`: processes that keep different patterns in every vector register while the kernel switches between
//! them, each checking its own. `probe both-cpus`: two threads that can only go on when both processors run.

use std::{
    arch::{asm, is_x86_feature_detected},
    env, hint,
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use rustix::thread::{CpuSet, sched_setaffinity};

/// 32 registers of 64 bytes: all of AVX-512's; AVX uses the first 32 bytes of the first 16.
#[repr(align(64))]
struct Registers([[u8; 64]; 32]);

pub(crate) fn run(processes: u64, rounds: &str) -> Result<(), String> {
    let program = env::current_exe().map_err(|error| format!("/proc/self/exe: {error}"))?;
    let mut workers = Vec::new();
    for seed in 0..processes {
        let mut command = Command::new(&program);
        command.args(["vector-worker", &seed.to_string(), rounds]).stdin(Stdio::null());
        workers.push(command.spawn().map_err(|error| format!("process {seed}: {error}"))?);
    }
    let mut good = 0;
    for mut worker in workers {
        let status = worker.wait().map_err(|error| format!("wait: {error}"))?;
        good += u64::from(status.success());
    }
    println!("vectors {} processes {processes} good {good}", kind());
    if good == processes { Ok(()) } else { Err("registers were mixed up".to_owned()) }
}

fn kind() -> &'static str {
    if is_x86_feature_detected!("avx512f") {
        "avx512"
    } else if is_x86_feature_detected!("avx") {
        "avx"
    } else {
        "sse"
    }
}

pub(crate) fn worker(seed: u64, rounds: u64) -> Result<(), String> {
    let kind = kind();
    let (used, width) = match kind {
        "avx512" => (32, 64),
        "avx" => (16, 32),
        _ => (16, 16),
    };
    for round in 0..rounds {
        let mut want = Registers([[0; 64]; 32]);
        let mut state = (seed + 1) * 1_000_003 + round;
        for byte in want.0.iter_mut().flatten() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = state.to_be_bytes()[0];
        }
        let mut got = Registers([[0; 64]; 32]);
        match kind {
            "avx512" => hold_512(&want, &mut got),
            "avx" => hold_256(&want, &mut got),
            _ => hold_128(&want, &mut got),
        }
        for register in 0..used {
            if want.0[register][..width] != got.0[register][..width] {
                println!("process {seed} round {round}: register {register} of {kind} is wrong");
                return Err("a register changed".to_owned());
            }
        }
    }
    Ok(())
}

/// A function that loads the numbered registers, gives the processor away four times with `sched_yield` (24), each time
/// followed by turns in user mode for the timer to interrupt, and stores the registers. No other code runs in between.
macro_rules! hold {
    ($name:ident, $move:literal, $register:literal, $($n:literal)*) => {
        fn $name(want: &Registers, got: &mut Registers) {
            // SAFETY: it reads `want` and writes `got`, each of 32 times 64 bytes, and names what it changes. The upper
            // vector registers, which need AVX-512 to be named, are not used by code that is compiled without it.
            unsafe {
                asm!(
                    $(concat!($move, " ", $register, $n, ", [rsi + 64 * ", $n, "]"),)*
                    "mov r8d, 4",
                    "2: mov eax, 24",
                    "syscall",
                    "mov eax, 20000",
                    "3: dec eax",
                    "jnz 3b",
                    "dec r8d",
                    "jnz 2b",
                    $(concat!($move, " [rdi + 64 * ", $n, "], ", $register, $n),)*
                    in("rsi") want,
                    in("rdi") got,
                    out("rax") _, out("rcx") _, out("r8") _, out("r11") _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                );
            }
        }
    };
}

hold!(hold_128, "movups", "xmm", 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
hold!(hold_256, "vmovups", "ymm", 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
hold!(hold_512, "vmovups", "zmm", 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
    16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);

pub(crate) fn both_cpus() -> Result<(), String> {
    if thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        return Err("there is one processor".to_owned());
    }
    let turn = AtomicU64::new(0);
    let rounds = 2000;
    let play = |cpu: u64| {
        let mut only = CpuSet::new();
        only.set(usize::from(cpu == 1));
        sched_setaffinity(None, &only).map_err(|error| format!("processor {cpu}: {error}"))?;
        for round in 0..rounds {
            while turn.load(Ordering::Acquire) != 2 * round + cpu {
                hint::spin_loop();
            }
            turn.store(2 * round + cpu + 1, Ordering::Release);
        }
        Ok::<_, String>(())
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| play(1));
        play(0)?;
        other.join().map_err(|_| "the second thread panicked".to_owned())?
    })?;
    println!("both-cpus {}", turn.load(Ordering::Acquire));
    Ok(())
}
