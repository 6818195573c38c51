//! What the tests of templates share.

use std::{fs, num::NonZeroU32, path::Path};

use bulkhead_protocol::{Ready, VERSION};
use bulkhead_vmm::api::Backend;

use super::{
    Machine, Mode, Store, TemplateError, Templates, Tenant,
    files::{MEMORY, Made, STATE},
};

/// A machine whose files are in `dir`.
pub(super) fn machine(dir: &Path) -> Machine {
    let file = |name: &str| {
        let path = dir.join(name);
        fs::write(&path, name).unwrap();
        path
    };
    Machine {
        kernel: file("kernel"),
        initrd: file("initrd"),
        vmm: file("vmm"),
        vcpus: 1,
        memory_mib: 64,
        backend: Backend::Auto,
        pod: false,
        tenant: Tenant::new(None).unwrap(),
    }
}

pub(super) fn store(dir: &Path, max: u32) -> Store {
    let max = NonZeroU32::new(max).unwrap();
    let settings = Templates { mode: Mode::Auto, directory: dir.join("templates"), max };
    Store::open(&settings).unwrap()
}

/// Makes the files of a template of 64 MiB.
pub(super) fn files(draft: &Path) -> Result<Made, TemplateError> {
    use std::os::unix::fs::FileExt;
    let made = || {
        fs::write(draft.join(STATE), "a machine's state")?;
        let memory = fs::File::create(draft.join(MEMORY))?;
        memory.write_all_at(b"a machine's memory", 20 << 20)?;
        memory.set_len(64 << 20)
    };
    made().map_err(TemplateError::io("make", draft))?;
    let ready = Ready { version: VERSION, kernel: "6.1".into() };
    Ok(Made { nonce: "0".repeat(32), ready, took_ms: 1, instructions: 2 })
}
