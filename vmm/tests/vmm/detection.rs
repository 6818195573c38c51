//! What kind of KVM this is.

use std::path::Path;

use bulkhead_vmm::{
    api::{Backend, End},
    kvm::{Detected, Host, detect},
};

use crate::guest::{Guest, guest, kvm, succeed, until_end};

guest!(any, succeed!());

#[test]
fn the_probe_guest_agrees_with_the_loaded_modules() {
    if !kvm() {
        return;
    }
    let found = detect(&Host::open().unwrap(), Backend::Auto).unwrap();
    let loaded = |name| Path::new("/sys/module").join(name).exists();
    if loaded("kvm_pvm") {
        assert_eq!(found, Detected::Software);
    } else if loaded("kvm_intel") || loaded("kvm_amd") {
        assert_eq!(found, Detected::Hardware);
    }
    // The answer does not depend on what ran before.
    assert_eq!(detect(&Host::open().unwrap(), Backend::Auto).unwrap(), found);
}

#[test]
fn the_configuration_has_the_last_word() {
    if !kvm() {
        return;
    }
    let host = Host::open().unwrap();
    assert_eq!(detect(&host, Backend::Hardware).unwrap(), Detected::Hardware);
    assert_eq!(detect(&host, Backend::Software).unwrap(), Detected::Software);
    let guest = Guest::new(any());
    for backend in [Backend::Hardware, Backend::Software] {
        let mut config = guest.config();
        config.backend = backend;
        let (_vmm, mut messages) = guest.start(&config);
        assert_eq!(until_end(&mut messages).end, End::PowerOff, "{backend:?}");
    }
}
