//! OCI layouts and docker archives around layers.

use std::{fs, path::Path};

use bulkhead_rootfs::{Digest, Source};
use serde_json::{Value, json};

pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layout with one image, every part of which a test may change before it is written.
pub struct Layout {
    /// Blobs as they are stored, and their uncompressed digests.
    pub layers: Vec<(Vec<u8>, Digest)>,
    pub media_type: String,
    pub config: Value,
    pub tag: Option<String>,
}

impl Layout {
    pub fn new(layers: &[Vec<u8>]) -> Self {
        let layers: Vec<_> =
            layers.iter().map(|layer| (layer.clone(), Digest::of(layer))).collect();
        let diff_ids: Vec<_> = layers.iter().map(|(_, diff_id)| diff_id.to_string()).collect();
        let config = json!({
            "created": "2026-01-02T03:04:05Z", "os": "linux", "architecture": "amd64",
            "config": { "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        Self { layers, media_type: LAYER.into(), config, tag: Some("latest".into()) }
    }

    pub fn compressed(mut self, compress: fn(&[u8]) -> Vec<u8>, suffix: &str) -> Self {
        for (blob, _) in &mut self.layers {
            *blob = compress(blob);
        }
        self.media_type = format!("{LAYER}{suffix}");
        self
    }

    /// The manifest, as a value and a list of all blobs.
    pub fn manifest(&self) -> (Value, Vec<Vec<u8>>) {
        let config = serde_json::to_vec(&self.config).unwrap();
        let layers: Vec<_> =
            self.layers.iter().map(|(blob, _)| descriptor(&self.media_type, blob)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers,
        });
        let blobs = self.layers.iter().map(|(blob, _)| blob.clone()).chain([config]).collect();
        (manifest, blobs)
    }

    pub fn write(&self, dir: &Path) -> Source {
        let (manifest, mut blobs) = self.manifest();
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        if let Some(tag) = &self.tag {
            entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        }
        blobs.push(manifest);
        write(dir, &blobs, &json!([entry]));
        Source::parse(&format!("oci:{}", dir.display())).unwrap()
    }
}

pub fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(blob).to_string(), "size": blob.len() })
}

/// Writes a layout of these blobs with this list of manifests.
pub fn write(dir: &Path, blobs: &[Vec<u8>], manifests: &Value) {
    let blob_dir = dir.join("blobs/sha256");
    fs::create_dir_all(&blob_dir).unwrap();
    for blob in blobs {
        fs::write(blob_dir.join(Digest::of(blob).hex()), blob).unwrap();
    }
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    fs::write(dir.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
}

/// Writes a docker archive of the older form: `<id>.json`, `<n>/layer.tar`, equal layers as links to each other.
pub fn docker_archive(layout: &Layout, tags: &[&str]) -> Vec<u8> {
    let config = serde_json::to_vec(&layout.config).unwrap();
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let mut archive = super::archive::Archive::new().file(&config_name, &config);
    let mut names = Vec::new();
    for (i, (blob, diff_id)) in layout.layers.iter().enumerate() {
        let name = format!("{i}/layer.tar");
        let same = layout.layers[..i].iter().position(|(_, other)| other == diff_id);
        archive = match same {
            Some(first) => archive.symlink(&name, &format!("../{first}/layer.tar")),
            None => archive.file(&name, blob),
        };
        names.push(name);
    }
    let manifest = json!([{ "Config": config_name, "RepoTags": tags, "Layers": names }]);
    archive.file("manifest.json", &serde_json::to_vec(&manifest).unwrap()).finish()
}

/// Packs a directory into an archive, as `docker save` now does with a layout.
pub fn pack(dir: &Path) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(".", dir).unwrap();
    builder.into_inner().unwrap()
}
