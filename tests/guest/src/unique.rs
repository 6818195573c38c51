//! What no two machines may have in common, and the time, as lines `KEY=VALUE`.

use std::{
    collections::hash_map::RandomState,
    fs::{self, File},
    hash::{BuildHasher, Hasher},
    io::Read,
    time::{SystemTime, UNIX_EPOCH},
};

use bulkhead_probe::hex;

/// Bytes of each kind.
const LENGTH: usize = 16;

pub(crate) fn print() -> Result<(), String> {
    for (key, flags) in [("getrandom", 0), ("getrandom_random", libc::GRND_RANDOM)] {
        let mut bytes = [0_u8; LENGTH];
        // SAFETY: the kernel writes at most as many bytes as there are.
        let length = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), LENGTH, flags) };
        if usize::try_from(length) != Ok(LENGTH) {
            return Err(format!("getrandom: {}", std::io::Error::last_os_error()));
        }
        println!("{key}={}", hex(&bytes));
    }
    for name in ["urandom", "random"] {
        let mut bytes = [0; LENGTH];
        let path = format!("/dev/{name}");
        File::open(&path)
            .and_then(|mut file| file.read_exact(&mut bytes))
            .map_err(|error| format!("{path}: {error}"))?;
        println!("dev_{name}={}", hex(&bytes));
    }
    for name in ["boot_id", "uuid"] {
        let path = format!("/proc/sys/kernel/random/{name}");
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        println!("{name}={}", text.trim_end());
    }
    // SAFETY: takes no pointer; what it returns is 0 or, for AT_RANDOM, 16 bytes that live as long as the process.
    let given = unsafe {
        match libc::getauxval(libc::AT_RANDOM) as *const [u8; LENGTH] {
            null if null.is_null() => return Err("there is no AT_RANDOM".into()),
            given => *given,
        }
    };
    println!("at_random={}", hex(&given));
    println!("hash_key={:x}", RandomState::new().build_hasher().finish());
    let local = 0_u8;
    println!("stack={:x}", std::ptr::from_ref(&local) as usize);
    let mapping = vec![0_u8; 1 << 20];
    println!("mapping={:x}", mapping.as_ptr() as usize);
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname");
    println!("hostname={}", hostname.map_err(|error| format!("hostname: {error}"))?.trim_end());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
    println!("time_ms={}", now.as_millis());
    Ok(())
}
