//! What the image store takes, what it refuses, and that a refusal leaves nothing behind. No test here needs /dev/kvm.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod damaged;
mod hostile;
mod large;
mod stored;

use std::{collections::BTreeSet, fs, path::PathBuf};

use bulkhead_tests::{
    harness::{Host, Outcome},
    image::{Compression, Config, Entry, Image, Layer},
};

/// An image of these layers, stored with each compression in turn.
fn image(layers: &[Vec<Entry>]) -> Image {
    let compressions = [Compression::Gzip, Compression::Zstd, Compression::None];
    let layers = layers.iter().zip(compressions.into_iter().cycle());
    let config = Config { cmd: vec!["/bin/true".to_owned()], ..Config::default() };
    Image { layers: layers.map(|(entries, how)| Layer::new(entries, how)).collect(), config }
}

/// Every file below the store but the locks, which are empty and stay.
fn store_files(host: &Host) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut pending = vec![host.data()];
    while let Some(directory) = pending.pop() {
        for item in fs::read_dir(directory).into_iter().flatten().flatten() {
            if item.file_type().unwrap().is_dir() {
                pending.push(item.path());
            } else if item.file_name() != "lock"
                && !item.path().parent().unwrap().ends_with("locks")
            {
                found.insert(item.path());
            }
        }
    }
    found
}

/// The import of `source` is refused with one line that has `names`, and the store is what it was.
#[track_caller]
fn assert_import_refused(host: &Host, source: &str, names: &[&str]) -> Outcome {
    host.run(&["image", "ls"]).assert_code(0);
    let before = store_files(host);
    let outcome = host.run(&["image", "import", source]);
    outcome.assert_refused(125, names);
    assert_same_files(&before, &store_files(host));
    host.assert_nothing_left();
    outcome
}

#[track_caller]
fn assert_same_files(before: &BTreeSet<PathBuf>, after: &BTreeSet<PathBuf>) {
    let differences: Vec<_> = before.symmetric_difference(after).collect();
    assert!(differences.is_empty(), "the store is not what it was: {differences:?}");
}

/// [`assert_import_refused`] for an image of one layer with these entries.
#[track_caller]
fn assert_layer_refused(entries: Vec<Entry>, names: &[&str]) {
    let host = Host::new();
    let source = host.source("bad", &image(&[entries]));
    assert_import_refused(&host, &source, names);
}
