//! What is done, in which order, and what it is called.

use bulkhead_scout::{FILE, Order};

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

/// What figures belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Area {
    /// The image's disk and the writable layer.
    Block,
    /// A directory of the host.
    Share,
    /// The program's standard streams.
    Streams,
}

/// What one of a step's operations is, and so which figures it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// So many bytes: how many a second, and what each [`FILE`] of them costs.
    Bytes,
    /// So many things: how many a second, and what each of them costs.
    Things,
}

/// A step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// Its name for programs.
    pub(super) key: &'static str,
    /// Its name for people.
    pub(super) name: &'static str,
    pub(super) area: Area,
    pub(super) form: Form,
    order: fn(&Sizes) -> Order,
}

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Bytes of what is large.
    pub(super) bytes: u64,
    /// How many of what is small.
    pub(super) count: u64,
    /// The round, from 0: each reads another part, which nobody has read.
    pub(super) round: u64,
}

macro_rules! steps {
    ($($area:ident $form:ident $key:literal $name:literal $order:expr;)*) => {
        &[$(Step { key: $key, name: $name, area: Area::$area, form: Form::$form, order: $order }),*]
    };
}

fn read(files: &[&str], sizes: &Sizes) -> Order {
    let files = files.iter().map(|path| (*path).to_owned()).collect();
    Order::Read { files, offset: sizes.round * sizes.bytes, bytes: sizes.bytes }
}

fn large() -> String {
    format!("{SHARE}/{LARGE}")
}

/// All steps, in their order.
pub(super) const STEPS: &[Step] = steps! {
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

impl Step {
    /// What the scout is told.
    pub(super) fn order(&self, sizes: &Sizes) -> Order {
        (self.order)(sizes)
    }
}

impl Form {
    /// How many units of cost these operations and bytes are.
    #[allow(clippy::cast_precision_loss, reason = "far less than 2^52 bytes are moved")]
    pub(super) fn units(self, operations: u64, bytes: u64) -> f64 {
        match self {
            Self::Bytes => bytes as f64 / FILE as f64,
            Self::Things => operations as f64,
        }
    }
}

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

    #[test]
    fn costs_are_of_pages_or_things() {
        assert_eq!(Form::Bytes.units(7, 8192), 2.0);
        assert_eq!(Form::Things.units(7, 8192), 7.0);
    }
}
