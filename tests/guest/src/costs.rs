//! Files of a guest, for the benchmark: some are made, looked at and read on a block device as a container has it, and in shared
//! directories. Between lines it turns in user mode, which a software KVM does not interpret, so that the benchmark can ask
//! meanwhile how many instructions the guest's kernel has taken.

use std::{
    fs,
    hint::spin_loop,
    time::{Duration, Instant},
};

use rustix::mount::{MountFlags, mount};

use crate::init::say;

/// Files of each step. The benchmark makes as many of them, and knows the number, too.
const FILES: usize = 50;
/// Bytes of a file.
const LENGTH: usize = 4096;
/// How long the benchmark has to ask.
const PAUSE: Duration = Duration::from_millis(500);

type Step = (&'static str, fn(&str) -> std::io::Result<()>);

const STEPS: [Step; 5] = [
    ("nothing", |_| Ok(())),
    ("create", |place| each(|n| fs::write(format!("{place}/made{n}"), [1; LENGTH]))),
    ("stat", |place| each(|n| fs::metadata(format!("{place}/{n}")).map(drop))),
    ("read", |place| each(|n| fs::read(format!("{place}/{n}")).map(drop))),
    ("again", |place| each(|n| fs::read(format!("{place}/{n}")).map(drop))),
];

pub(crate) fn measure() -> Result<(), String> {
    let attach = |source: &str, place: &str, kind: &str| {
        mount(source, place, kind, MountFlags::empty(), None)
            .map_err(|error| format!("{kind} on {place}: {error}"))
    };
    attach("/dev/vdb", "/disk", "ext4")?;
    for name in ["/disk/upper", "/disk/work"] {
        fs::create_dir(name).map_err(|error| format!("{name}: {error}"))?;
    }
    mount("overlay", "/block", "overlay", MountFlags::empty(), Some(LAYERS))
        .map_err(|error| format!("overlay on /block: {error}"))?;
    attach("auto", "/auto", "virtiofs")?;
    attach("none", "/none", "virtiofs")?;
    for (name, place) in [("block", "/block"), ("auto", "/auto/tree"), ("none", "/none/tree")] {
        // What the kernel loads only once is loaded.
        let warm = format!("{place}/warm");
        fs::write(&warm, "warm")
            .and_then(|()| fs::read(&warm))
            .map_err(|error| format!("{warm}: {error}"))?;
        for (step, act) in STEPS {
            say(&format!("begin {name} {step}"));
            pause();
            let begin = Instant::now();
            act(place).map_err(|error| format!("{name} {step}: {error}"))?;
            let took = begin.elapsed().as_micros();
            say(&format!("end {name} {step} {FILES} {took}"));
            pause();
        }
    }
    Ok(())
}

/// The image's file system, and the writable layer.
const LAYERS: &std::ffi::CStr = c"lowerdir=/image,upperdir=/disk/upper,workdir=/disk/work";

fn each(mut act: impl FnMut(usize) -> std::io::Result<()>) -> std::io::Result<()> {
    (0..FILES).try_for_each(&mut act)
}

fn pause() {
    let begin = Instant::now();
    while begin.elapsed() < PAUSE {
        for _ in 0..10_000 {
            spin_loop();
        }
    }
}
