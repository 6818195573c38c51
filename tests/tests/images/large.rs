//! Much of something: holes, entries, layers.

use std::os::unix::fs::MetadataExt;

use bulkhead_tests::{
    harness::Host,
    image::{Entry, Name, cached},
};

use super::{image, store_files};

#[test]
fn a_sparse_file_of_4_gib_takes_no_room() {
    let host = Host::new();
    let pieces = vec![(1 << 20, vec![1; 512]), ((4 << 30) - 512, vec![2; 512])];
    let source = host.source("sparse", &image(&[vec![Entry::sparse("sparse", 4 << 30, pieces)]]));
    host.run(&["image", "import", "--name", "sparse", &source]).assert_code(0);
    let blocks: u64 = store_files(&host).iter().map(|path| path.metadata().unwrap().blocks()).sum();
    assert!(blocks * 512 < 64 << 20, "{} bytes on disk", blocks * 512);
}

#[test]
fn a_hundred_thousand_entries_are_taken() {
    let host = Host::new();
    let mut entries = Vec::with_capacity(100_100);
    for directory in 0..100 {
        entries.push(Entry::directory(&format!("d{directory}")));
        entries.extend((0..999).map(|n| Entry::file(&format!("d{directory}/f{n}"), "x")));
    }
    entries.push(Entry::directory("flat"));
    entries.extend((0..5000).map(|n| Entry::symlink(&format!("flat/link-{n}"), "target")));
    let source = host.source("many", &image(&[entries]));
    host.run(&["image", "import", "--name", "many", &source]).assert_code(0);
    assert!(host.run(&["image", "ls"]).text().contains("many"));
}

#[test]
fn a_hundred_layers_are_taken() {
    let host = Host::new();
    let layers: Vec<_> =
        (0..100).map(|n| vec![Entry::file(&format!("layer-{n}"), format!("{n}"))]).collect();
    let source = host.source("layers", &image(&layers));
    host.run(&["image", "import", &source]).assert_code(0);
}

#[test]
fn the_images_of_the_catalogue_are_taken() {
    let host = Host::new();
    for name in [Name::Busybox, Name::Debian, Name::Python] {
        host.import(name.as_str(), &cached(name).unwrap());
    }
    let listed = host.run(&["image", "ls"]).text();
    for name in ["busybox", "debian", "python"] {
        assert!(listed.contains(name), "{listed}");
    }
}
