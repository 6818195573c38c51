//! `bulkhead bench`, as its users see it: reports that hold together, starts that prove what they are, a page that a browser shows, and nothing left
//! behind however it ends. No test looks at how fast anything was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod density;
mod ends;
mod io;
mod isolation;
mod net;
mod page;
mod startup;

use std::{fs, path::Path};

use bulkhead_tests::{
    harness::Host,
    image::{Name, cached},
};
use serde_json::Value;

/// A host with the busybox image in its store; `None`, after saying so, without the rights that every bench needs.
fn host() -> Option<Host> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: a bench needs root");
        return None;
    }
    let host = Host::new();
    host.import("busybox", &cached(Name::Busybox).unwrap());
    Some(host)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The samples of a measure, which must be there.
fn samples(report: &Value, group: &str, measure: &str, subject: &str) -> Vec<f64> {
    let find = |list: &Value, key: &str| {
        let found = list.as_array().unwrap().iter().find(|item| item["key"] == key);
        found.cloned().unwrap_or_else(|| panic!("no {key} in {list}"))
    };
    let group = find(&report["groups"], group);
    let measure = find(&group["measures"], measure);
    let samples = measure["samples"][subject].as_array();
    let samples = samples.unwrap_or_else(|| panic!("no samples of {subject}: {measure}"));
    samples.iter().map(|sample| sample.as_f64().unwrap()).collect()
}
