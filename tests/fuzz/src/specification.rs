//! A bundle's config.json: read, and rewritten for a guest, or refused with a line. The host's files are made up.
#![no_main]

use std::{io, path::Path};

use bulkhead::sandbox::{
    Config,
    vm::rewrite::{Found, Host, Kind, Role, rewrite},
};
use libfuzzer_sys::fuzz_target;

/// A host where what is at a path hangs on its name.
struct Named;

impl Host for Named {
    fn look(&self, path: &Path) -> io::Result<Found> {
        let kind = match path.as_os_str().len() % 6 {
            0 => Kind::Directory { tmpfs: None },
            1 => Kind::File,
            2 => Kind::Device { block: false, major: 1, minor: 3 },
            3 => Kind::Socket,
            4 => Kind::Directory { tmpfs: Some(4096) },
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Found { path: path.into(), kind })
    }

    fn has(&self, _root: &Path, path: &str) -> bool {
        path.len() % 2 == 0
    }
}

fuzz_target!(|text: &[u8]| {
    let Ok(config) = Config::parse(text.to_vec(), "config.json") else { return };
    let Ok(value) = config.value() else { return };
    for root in [None, Some(Path::new("/bundle/rootfs"))] {
        match rewrite(&value, Path::new("/bundle"), root, Role::Member("m-"), &Named) {
            Ok(guest) => assert!(guest.spec.is_object()),
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
    }
});
