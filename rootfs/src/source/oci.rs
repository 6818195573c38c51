//! OCI image layouts (OCI image-spec, image-layout.md): picks the manifest for the tag and this machine's platform, and verifies everything
//! on the way to the layers.

use std::path::Path;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, OciLayout};

use super::{
    Package, PackageLayer, SourceError, check_config, fallback_name,
    files::{FileRef, Files},
    parse_digest, parse_json, platform, verify,
};
use crate::{Digest, limits};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What containerd and docker put beside a tag: the whole name.
const FULL_NAME: &str = "io.containerd.image.name";

const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Layers that are here and readable: not the "foreign" ones that live elsewhere, not encrypted ones.
const LAYERS: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// Opens the image `tag` of the layout `files`, which is at `path`.
pub(super) fn open(files: &Files, path: &Path, tag: Option<&str>) -> Result<Package, SourceError> {
    let layout: OciLayout =
        parse_json(&files.read("oci-layout", limits::MANIFEST_BYTES)?, "oci-layout")?;
    if layout.image_layout_version() != "1.0.0" {
        let reason = format!(
            "imageLayoutVersion is \"{}\"; only 1.0.0 is known",
            layout.image_layout_version()
        );
        return Err(SourceError::Malformed { file: "oci-layout".into(), reason });
    }
    let index: ImageIndex =
        parse_json(&files.read("index.json", limits::MANIFEST_BYTES)?, "index.json")?;
    let top = choose(index.manifests(), tag)?;
    let names = vec![name(top, path)];
    let (descriptor, manifest) = manifest(files, top)?;

    let config = manifest.config();
    check_type("the configuration", config, &CONFIGS)?;
    let (id, config, config_file) = blob(files, config, limits::CONFIG_BYTES)?;
    let diff_ids = check_config(&config, &config_file, manifest.layers().len())?;
    let mut layers = Vec::with_capacity(diff_ids.len());
    for (layer, diff_id) in manifest.layers().iter().zip(diff_ids) {
        check_type("the layer", layer, &LAYERS)?;
        let (digest, file) = find(files, layer, &format!("the manifest {}", descriptor.digest()))?;
        layers.push(PackageLayer {
            file,
            digest: Some(digest),
            promised_size: Some(layer.size()),
            diff_id,
        });
    }
    Ok(Package { id, config, names, layers })
}

fn annotation<'a>(descriptor: &'a Descriptor, key: &str) -> Option<&'a str> {
    descriptor.annotations().as_ref()?.get(key).map(String::as_str)
}

/// The entry of the top index that the user means.
fn choose<'a>(entries: &'a [Descriptor], tag: Option<&str>) -> Result<&'a Descriptor, SourceError> {
    let wanted = |d: &&Descriptor| match tag {
        Some(tag) => annotation(d, REF_NAME) == Some(tag) || annotation(d, FULL_NAME) == Some(tag),
        None => true,
    };
    let candidates: Vec<_> = entries.iter().filter(wanted).collect();
    // Attestations and other platforms are no choice for anybody.
    let fitting: Vec<_> = candidates.iter().filter(|d| fits(d)).copied().collect();
    match (fitting.as_slice(), candidates.as_slice()) {
        ([one], _) => Ok(one),
        ([], [_, ..]) => Err(no_platform(candidates.iter().copied())),
        _ => {
            let problem = match tag {
                Some(tag) if fitting.is_empty() => {
                    format!("there is no image with the tag \"{tag}\"")
                }
                Some(tag) => format!("there are several images with the tag \"{tag}\""),
                None if fitting.is_empty() => "there is no image".to_owned(),
                None => "there are several images: add :TAG".to_owned(),
            };
            let names: Vec<_> =
                entries.iter().filter_map(|d| annotation(d, REF_NAME)).map(printable).collect();
            let choices = if names.is_empty() { "no tags".to_owned() } else { names.join(", ") };
            Err(SourceError::Choice { problem, choices })
        }
    }
}

/// Whether a descriptor is for this machine. One that does not say is, until its configuration says otherwise.
fn fits(descriptor: &Descriptor) -> bool {
    let (os, architecture) = platform();
    descriptor.platform().as_ref().is_none_or(|platform| {
        let baseline =
            platform.variant().as_deref().is_none_or(|variant| matches!(variant, "" | "v1" | "v8"));
        platform.os().to_string() == os
            && platform.architecture().to_string() == architecture
            && baseline
    })
}

fn no_platform<'a>(entries: impl Iterator<Item = &'a Descriptor>) -> SourceError {
    let show = |d: &Descriptor| match d.platform() {
        Some(p) => format!(
            "{}/{}{}",
            p.os(),
            p.architecture(),
            p.variant().as_ref().map(|v| format!("/{v}")).unwrap_or_default()
        ),
        None => "an unknown platform".to_owned(),
    };
    let (os, architecture) = platform();
    let all: Vec<_> = entries.map(show).take(20).collect();
    let image =
        if all.is_empty() { "no platform at all".to_owned() } else { printable(&all.join(", ")) };
    SourceError::Platform { image, machine: format!("{os}/{architecture}") }
}

/// Follows indexes down to a manifest.
fn manifest(files: &Files, top: &Descriptor) -> Result<(Descriptor, ImageManifest), SourceError> {
    let mut descriptor = top.clone();
    for _ in 0..limits::INDEX_DEPTH {
        let media_type = descriptor.media_type().to_string();
        let (_, bytes, file) = blob(files, &descriptor, limits::MANIFEST_BYTES)?;
        if MANIFESTS.contains(&media_type.as_str()) {
            let manifest: ImageManifest = parse_json(&bytes, &file)?;
            if manifest.schema_version() != 2 {
                let reason =
                    format!("schemaVersion is {}; only 2 is known", manifest.schema_version());
                return Err(SourceError::Malformed { file, reason });
            }
            return Ok((descriptor, manifest));
        }
        check_type("the manifest", &descriptor, &INDEXES)?;
        let index: ImageIndex = parse_json(&bytes, &file)?;
        descriptor = index
            .manifests()
            .iter()
            .find(|d| fits(d))
            .cloned()
            .ok_or_else(|| no_platform(index.manifests().iter()))?;
    }
    let reason = format!("its indexes are nested more than {} deep", limits::INDEX_DEPTH);
    Err(SourceError::Malformed { file: "index.json".into(), reason })
}

fn check_type(
    what: &'static str,
    descriptor: &Descriptor,
    known: &[&str],
) -> Result<(), SourceError> {
    let media_type = descriptor.media_type().to_string();
    if known.contains(&media_type.as_str()) {
        return Ok(());
    }
    Err(SourceError::MediaType {
        what,
        digest: printable(descriptor.digest().as_ref()),
        media_type: printable(&media_type),
    })
}

fn find(
    files: &Files,
    descriptor: &Descriptor,
    holder: &str,
) -> Result<(Digest, FileRef), SourceError> {
    let digest = parse_digest(descriptor.digest().as_ref(), holder)?;
    let name = format!("blobs/sha256/{}", digest.hex());
    let file = files.get(&name).map_err(|source| SourceError::Read { file: name, source })?;
    Ok((digest, file))
}

/// A small blob, verified.
fn blob(
    files: &Files,
    descriptor: &Descriptor,
    limit: u64,
) -> Result<(Digest, Vec<u8>, String), SourceError> {
    let (digest, _) = find(files, descriptor, "a descriptor")?;
    let file = format!("blobs/sha256/{}", digest.hex());
    let bytes = files.read(&file, limit)?;
    verify(&bytes, digest, &file)?;
    if bytes.len() as u64 != descriptor.size() {
        return Err(SourceError::Size {
            file,
            actual: bytes.len() as u64,
            expected: descriptor.size(),
        });
    }
    Ok((digest, bytes, file))
}

/// The image's name: the full one if the layout has it, else the layout's own name with the tag.
fn name(descriptor: &Descriptor, path: &Path) -> String {
    let tag = annotation(descriptor, REF_NAME);
    match (annotation(descriptor, FULL_NAME), tag) {
        (Some(full), _) => full.to_owned(),
        (None, Some(tag)) if tag.contains(['/', ':']) => tag.to_owned(),
        (None, tag) => format!("{}:{}", fallback_name(path), tag.unwrap_or("latest")),
    }
}

/// Text of an untrusted source, for a message.
fn printable(text: &str) -> String {
    crate::path::display(text.as_bytes())
}
