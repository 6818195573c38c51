//! The catalogue's images with one more layer, which holds the probe.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::probe;
use crate::image::{Compression, Entry, Image, Layer, Name, cached, cached_as};

/// The OCI layout of an image of the catalogue with `/probe`.
#[must_use]
pub fn layout_with_probe(name: Name) -> PathBuf {
    let base = cached(name).expect("the image can be made");
    let program = fs::read(probe()).expect("the probe can be read");
    let mut inputs = base.as_os_str().as_encoded_bytes().to_vec();
    inputs.extend_from_slice(&program);
    cached_as(&format!("{}-probe", name.as_str()), &inputs, || {
        let mut image = Image::read_layout(&base)?;
        let entry = Entry::file("probe", program).mode(0o755);
        image.layers.push(Layer::new(&[entry], Compression::Zstd));
        Ok(image)
    })
    .expect("the image can be made")
}

/// The same in memory, for a test to change.
#[must_use]
pub fn image_with_probe(name: Name) -> Image {
    Image::read_layout(&layout_with_probe(name)).expect("the layout can be read")
}

/// Writes busybox with the probe as docker's archive, for engines and containerd to import under this name.
pub fn write_archive(name: &str, file: &Path) {
    let mut image = image_with_probe(Name::Busybox);
    // What an unprivileged machine cannot unpack is the second layer's: device nodes.
    image.layers.remove(1);
    image.write_docker_archive(name, file).expect("the archive can be written");
}
