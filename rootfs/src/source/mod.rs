//! Where images come from: an OCI image layout (`oci:DIR[:TAG]`) or a docker archive (`docker-archive:FILE[:NAME]`).

mod docker;
mod files;
mod oci;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use oci_spec::image::ImageConfiguration;

use crate::{Digest, DigestError, layer::Blob, limits, tar::TarError};
use files::{FileRef, Files};

/// Why an image could not be taken from its source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Neither `oci:` nor `docker-archive:`.
    #[error("\"{0}\" is no image source: use oci:DIR[:TAG] or docker-archive:FILE[:NAME]")]
    Syntax(String),
    /// The directory or file is not there.
    #[error("{} does not exist or is not {expected}", path.display())]
    Missing {
        /// What was looked for.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// A file of the source is missing or cannot be read.
    #[error("{file} cannot be read")]
    Read {
        /// The file, inside the source.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the source is not what the format asks for.
    #[error("{file} is malformed: {reason}")]
    Malformed {
        /// The file, inside the source.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The docker archive is no tar file.
    #[error("the archive {file} is damaged")]
    Tar {
        /// The archive.
        file: String,
        /// What is wrong.
        #[source]
        source: TarError,
    },
    /// A digest that cannot be verified.
    #[error("{file} has a digest that cannot be verified")]
    Digest {
        /// The file that holds the digest.
        file: String,
        /// Why.
        #[source]
        source: DigestError,
    },
    /// A blob is not what its digest says.
    #[error("digest mismatch: {file} is {actual}, but {expected} was promised")]
    Mismatch {
        /// The file, inside the source.
        file: String,
        /// Its digest.
        actual: Digest,
        /// The promised digest.
        expected: Digest,
    },
    /// A blob whose size is not the promised one.
    #[error("size mismatch: {file} has {actual} bytes, but {expected} were promised")]
    Size {
        /// The file, inside the source.
        file: String,
        /// Its size in bytes.
        actual: u64,
        /// The promised size in bytes.
        expected: u64,
    },
    /// A media type that is not a layer, manifest or configuration of a container image.
    #[error("{what} {digest} has the unsupported media type \"{media_type}\"")]
    MediaType {
        /// What has it.
        what: &'static str,
        /// Its digest.
        digest: String,
        /// The media type.
        media_type: String,
    },
    /// No such tag, or none given where there are several images.
    #[error("{problem}; the source has: {choices}")]
    Choice {
        /// What is wrong.
        problem: String,
        /// The names to choose from.
        choices: String,
    },
    /// An image for another machine.
    #[error("the image is for {image}; this machine runs {machine}")]
    Platform {
        /// The image's platforms.
        image: String,
        /// This machine's.
        machine: String,
    },
    /// No layers, or too many.
    #[error("the image has {0} layers; 1 to {limit} are supported", limit = limits::LAYERS)]
    Layers(usize),
    /// The configuration and the manifest do not agree.
    #[error(
        "the image's manifest has {layers} layers, but its configuration has {diff_ids} diff_ids"
    )]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// Digests in the configuration.
        diff_ids: usize,
    },
}

/// A source of images: where it is, and which image of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    kind: Kind,
    path: PathBuf,
    /// The tag or name, when one was given.
    tag: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Oci,
    DockerArchive,
}

impl Source {
    /// Reads `oci:DIR[:TAG]` or `docker-archive:FILE[:NAME]`. A colon belongs to the path if what is before it does not exist.
    ///
    /// # Errors
    /// Another syntax, or no such directory or file.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let (kind, rest) = match text.split_once(':') {
            Some(("oci", rest)) => (Kind::Oci, rest),
            Some(("docker-archive", rest)) => (Kind::DockerArchive, rest),
            _ => return Err(SourceError::Syntax(text.to_owned())),
        };
        let (exists, expected): (fn(&Path) -> bool, _) = match kind {
            Kind::Oci => (Path::is_dir, "a directory"),
            Kind::DockerArchive => (Path::is_file, "a file"),
        };
        let whole = Path::new(rest);
        if exists(whole) {
            return Ok(Self { kind, path: whole.to_owned(), tag: None });
        }
        let split = rest
            .match_indices(':')
            .map(|(i, _)| rest.split_at(i))
            .find(|(path, _)| exists(Path::new(path)));
        match split {
            Some((path, tag)) if tag.len() > 1 => {
                Ok(Self { kind, path: path.into(), tag: tag.strip_prefix(':').map(str::to_owned) })
            }
            _ => Err(SourceError::Missing { path: whole.to_owned(), expected }),
        }
    }

    /// Reads and verifies everything but the layers.
    pub(crate) fn open(&self) -> Result<Package, SourceError> {
        match self.kind {
            Kind::Oci => oci::open(&Files::directory(&self.path)?, &self.path, self.tag.as_deref()),
            Kind::DockerArchive => {
                let files = Files::archive(&self.path)?;
                if files.has("manifest.json") {
                    docker::open(&files, &self.path, self.tag.as_deref())
                } else if files.has("index.json") {
                    oci::open(&files, &self.path, self.tag.as_deref())
                } else {
                    let reason = "it has neither manifest.json nor index.json".to_owned();
                    Err(SourceError::Malformed { file: self.path.display().to_string(), reason })
                }
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Oci => "oci",
            Kind::DockerArchive => "docker-archive",
        };
        write!(f, "{kind}:{}", self.path.display())?;
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

/// An image as its source offers it.
pub(crate) struct Package {
    /// Digest of the configuration: the image's id.
    pub(crate) id: Digest,
    /// The configuration, byte for byte.
    pub(crate) config: Vec<u8>,
    /// The names that the source gives the image.
    pub(crate) names: Vec<String>,
    pub(crate) layers: Vec<PackageLayer>,
}

/// One layer, lowest first.
#[derive(Debug)]
pub(crate) struct PackageLayer {
    file: FileRef,
    /// Digest of the blob, if the source has one.
    digest: Option<Digest>,
    /// Bytes of the blob, if the source says.
    promised_size: Option<u64>,
    pub(crate) diff_id: Digest,
}

impl PackageLayer {
    /// The digest that people know the layer by.
    pub(crate) fn digest(&self) -> Digest {
        self.digest.unwrap_or(self.diff_id)
    }

    /// Bytes of the blob.
    pub(crate) fn size(&self) -> u64 {
        self.file.size()
    }

    pub(crate) fn blob(&self) -> io::Result<Blob> {
        Ok(Blob {
            reader: Box::new(self.file.open()?),
            digest: self.digest,
            size: self.promised_size,
            diff_id: self.diff_id,
        })
    }
}

/// Parses and checks a configuration against the number of layers; returns the layers' diff_ids.
fn check_config(config: &[u8], file: &str, layers: usize) -> Result<Vec<Digest>, SourceError> {
    let parsed: ImageConfiguration = parse_json(config, file)?;
    let (os, architecture) = platform();
    if parsed.os().to_string() != os || parsed.architecture().to_string() != architecture {
        let image = format!("{}/{}", parsed.os(), parsed.architecture());
        return Err(SourceError::Platform { image, machine: format!("{os}/{architecture}") });
    }
    let rootfs = parsed.rootfs();
    if rootfs.typ() != "layers" {
        let reason = format!("rootfs.type is \"{}\", not \"layers\"", rootfs.typ());
        return Err(SourceError::Malformed { file: file.to_owned(), reason });
    }
    if layers == 0 || layers > limits::LAYERS {
        return Err(SourceError::Layers(layers));
    }
    let diff_ids = rootfs.diff_ids();
    if diff_ids.len() != layers {
        return Err(SourceError::LayerCount { layers, diff_ids: diff_ids.len() });
    }
    diff_ids.iter().map(|id| parse_digest(id, file)).collect()
}

fn parse_digest(text: &str, file: &str) -> Result<Digest, SourceError> {
    text.parse().map_err(|source| SourceError::Digest { file: file.to_owned(), source })
}

/// Parses JSON. The message says where it goes wrong, and does not repeat what the file holds, but for a digest that is none.
fn parse_json<T: serde::de::DeserializeOwned>(bytes: &[u8], file: &str) -> Result<T, SourceError> {
    serde_json::from_slice(bytes).map_err(|e| {
        let kind = if e.is_data() { "an unexpected or missing value" } else { "no valid JSON" };
        SourceError::Malformed {
            file: file.to_owned(),
            reason: match bad_digest(bytes) {
                Some(digest) => format!("{digest:?} is no digest"),
                None => format!("{kind} at line {} column {}", e.line(), e.column()),
            },
        }
    })
}

/// The first value of a "digest" that is none, cut at 100 characters.
fn bad_digest(json: &[u8]) -> Option<String> {
    let mut values: Vec<serde_json::Value> = vec![serde_json::from_slice(json).ok()?];
    while let Some(value) = values.pop() {
        match value {
            serde_json::Value::Object(fields) => {
                if let Some(text) = fields.get("digest").and_then(|digest| digest.as_str())
                    && text.parse::<Digest>().is_err()
                {
                    return Some(text.chars().take(100).collect());
                }
                values.extend(fields.into_iter().map(|(_, value)| value));
            }
            serde_json::Value::Array(items) => values.extend(items),
            _ => {}
        }
    }
    None
}

fn verify(bytes: &[u8], expected: Digest, file: &str) -> Result<(), SourceError> {
    let actual = Digest::of(bytes);
    if actual == expected {
        Ok(())
    } else {
        Err(SourceError::Mismatch { file: file.to_owned(), actual, expected })
    }
}

/// This machine's platform, in Go's words, as images use them.
fn platform() -> (&'static str, &'static str) {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    ("linux", architecture)
}

/// A name for an image whose source has none: the file's or directory's own.
fn fallback_name(path: &Path) -> String {
    let name = path.file_stem().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .collect();
    let name = name.trim_start_matches(['.', '-', '_']);
    if name.is_empty() { "image".to_owned() } else { name.to_owned() }
}
