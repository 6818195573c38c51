//! Docker archives, as `docker save` writes them: a tar file with `manifest.json`, configurations and layers, read in place. Newer ones keep
//! their files under `blobs/sha256/`; older ones as `<id>/layer.tar`, where equal layers are symbolic links to each other.

use std::path::Path;

use serde::Deserialize;

use super::{
    Package, PackageLayer, SourceError, check_config, fallback_name, files::Files, parse_json,
    verify,
};
use crate::{Digest, limits};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// Opens the image `name` of the archive `files`, which is at `path`.
pub(super) fn open(files: &Files, path: &Path, name: Option<&str>) -> Result<Package, SourceError> {
    let manifest = files.read("manifest.json", limits::MANIFEST_BYTES)?;
    let entries: Vec<Entry> = parse_json(&manifest, "manifest.json")?;
    let entry = choose(&entries, name)?;
    let config = files.read(&entry.config, limits::CONFIG_BYTES)?;
    let id = Digest::of(&config);
    if let Some(expected) = named_digest(&entry.config) {
        verify(&config, expected, &entry.config)?;
    }
    let files_of_layers = entry.layers.as_deref().unwrap_or_default();
    let diff_ids = check_config(&config, &entry.config, files_of_layers.len())?;
    let mut layers = Vec::with_capacity(diff_ids.len());
    for (name, diff_id) in files_of_layers.iter().zip(diff_ids) {
        let file = files.get(name).map_err(|source| SourceError::Read {
            file: crate::path::display(name.as_bytes()),
            source,
        })?;
        // Under blobs/ a layer's name is its digest, compressed or not.
        let digest = name.strip_prefix("blobs/sha256/").and_then(Digest::from_hex);
        layers.push(PackageLayer { file, digest, promised_size: None, diff_id });
    }
    let names = match entry.repo_tags.as_deref() {
        Some(tags) if !tags.is_empty() => tags.to_vec(),
        _ => vec![format!("{}:latest", fallback_name(path))],
    };
    Ok(Package { id, config, names, layers })
}

fn choose<'a>(entries: &'a [Entry], name: Option<&str>) -> Result<&'a Entry, SourceError> {
    let tags = |entry: &'a Entry| entry.repo_tags.as_deref().unwrap_or_default().iter();
    let mut fitting =
        entries.iter().filter(|entry| name.is_none_or(|name| tags(entry).any(|tag| tag == name)));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (first, _) => {
            let problem = match name {
                Some(name) if first.is_none() => {
                    format!("there is no image with the name \"{name}\"")
                }
                Some(name) => format!("there are several images with the name \"{name}\""),
                None if first.is_none() => "there is no image".to_owned(),
                None => "there are several images: add :NAME".to_owned(),
            };
            let names: Vec<_> = entries
                .iter()
                .flat_map(tags)
                .map(|tag| crate::path::display(tag.as_bytes()))
                .collect();
            let choices = if names.is_empty() { "no names".to_owned() } else { names.join(", ") };
            Err(SourceError::Choice { problem, choices })
        }
    }
}

/// The digest that a configuration's name promises: `<hex>.json` or `blobs/sha256/<hex>`.
fn named_digest(name: &str) -> Option<Digest> {
    let base = name.rsplit('/').next().unwrap_or(name);
    Digest::from_hex(base.strip_suffix(".json").unwrap_or(base))
}
