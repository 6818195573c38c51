//! What is done, in which order, and what it is called.

use bulkhead_scout::Order;

use crate::bench::orders::{Sizes, Step, steps};

/// Where things are in the container.
pub(super) const SHARE: &str = "/.bulkhead-share";
/// The file in the share that is read.
pub(super) const LARGE: &str = "large";
/// The container's own files.
const LAYER: &str = "/";

/// Files that images have and that are large. The first that is long enough is read.
const CANDIDATES: [&str; 10] = [
    "/usr/bin/python3",
    "/bin/bash",
    "/bin/busybox",
    "/usr/bin/perl",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
    "/lib/libc.musl-x86_64.so.1",
    "/usr/bin/openssl",
    "/bin/sh",
];

fn read(files: &[&str], sizes: &Sizes) -> Order {
    let files = files.iter().map(|path| (*path).to_owned()).collect();
    Order::Read { files, offset: sizes.round * sizes.bytes, bytes: sizes.bytes }
}

fn large() -> String {
    format!("{SHARE}/{LARGE}")
}

/// All steps, in their order.
pub(in crate::bench) const STEPS: &[Step] = steps! {
    Block Bytes "image-read" "read of the image, first time" |sizes| read(&CANDIDATES, sizes);
    Block Bytes "image-again" "the same once more" |sizes| read(&CANDIDATES, sizes);
    Block Bytes "layer-write" "write to the layer, one fsync" |sizes| Order::Write { directory: LAYER.into(), bytes: sizes.bytes };
    Block Things "layer-sync" "files made, written, each fsync" |sizes| Order::Sync { directory: LAYER.into(), count: sizes.count };
    Block Things "layer-stat" "stat of these" |sizes| Order::Stat { directory: LAYER.into(), count: sizes.count };
    Block Things "layer-open" "open, read, close of these" |sizes| Order::Open { directory: LAYER.into(), count: sizes.count };
    Block Things "layer-remove" "unlink of these" |sizes| Order::Remove { directory: LAYER.into(), count: sizes.count };
    Share Bytes "share-read" "read of a file, first time" |sizes| read(&[&large()], sizes);
    Share Bytes "share-again" "the same once more" |sizes| read(&[&large()], sizes);
    Share Bytes "share-write" "write of a file, one fsync" |sizes| Order::Write { directory: SHARE.into(), bytes: sizes.bytes };
    Share Things "share-sync" "files made, written, each fsync" |sizes| Order::Sync { directory: SHARE.into(), count: sizes.count };
    Share Things "share-stat" "stat of these" |sizes| Order::Stat { directory: SHARE.into(), count: sizes.count };
    Share Things "share-open" "open, read, close of these" |sizes| Order::Open { directory: SHARE.into(), count: sizes.count };
    Share Things "share-remove" "unlink of these" |sizes| Order::Remove { directory: SHARE.into(), count: sizes.count };
    Streams Bytes "output" "standard output" |sizes| Order::Output { bytes: sizes.bytes };
    Streams Bytes "input" "standard input" |sizes| Order::Input { bytes: sizes.bytes };
    Streams Things "echo" "a line there and back" |sizes| Order::Echo { count: sizes.count };
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_reads_another_part() {
        let part = |round| {
            let sizes = Sizes { bytes: 100, count: 1, round };
            STEPS[0].order(&sizes)
        };
        assert!(matches!(part(0), Order::Read { offset: 0, bytes: 100, .. }));
        assert!(matches!(part(3), Order::Read { offset: 300, .. }));
        let mut keys: Vec<_> = STEPS.iter().map(|step| step.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), STEPS.len());
    }
}
