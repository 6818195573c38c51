//! `probe hog MIB`: takes memory and touches it, 1 MiB at a time with one call each, and says how far it came.

use std::io::Write;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

pub(crate) fn hog(mib: u64) -> Result<(), String> {
    for taken in 1..=mib {
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory of this program.
        unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                1 << 20,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::POPULATE,
            )
        }
        .map_err(|error| format!("after {taken} MiB: {error}"))?;
        if taken % 8 == 0 {
            println!("took {taken}");
            let _ = std::io::stdout().flush();
        }
    }
    println!("took all");
    Ok(())
}
