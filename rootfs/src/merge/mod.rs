//! The tree of an image: its layers' trees put on top of each other (OCI image-spec, layer.md "Applying Changesets").
//!
//! Inside a layer, order means nothing: a layer's whiteouts hide what is below it, never what it brings itself. A path that goes through a symbolic
//! link of a lower layer is resolved inside the image's root, as containerd does, after the layer's other entries are in place.

mod pass;

use std::collections::BTreeMap;

use crate::{
    layer::{Attributes, Content, LayerIndex},
    limits,
};

use pass::Pass;

/// Number of a file of the image.
pub(crate) type FileId = u32;

/// The image's root.
pub(crate) const ROOT: FileId = 0;

/// The names of a directory, in the order that EROFS wants them: by their bytes.
pub(crate) type Names<'a> = BTreeMap<&'a [u8], FileId>;

/// A file of any type.
#[derive(Debug)]
pub(crate) struct File<'a> {
    pub(crate) attributes: &'a Attributes,
    pub(crate) body: Body<'a>,
    /// The layer that brought it or changed it last.
    pub(crate) layer: usize,
}

/// What a file is.
#[derive(Debug)]
pub(crate) enum Body<'a> {
    Directory {
        parent: FileId,
        names: Names<'a>,
    },
    /// Content in the data blob of `File::layer`.
    Regular(&'a Content),
    Symlink(&'a [u8]),
    Device {
        block: bool,
        rdev: u32,
    },
    Fifo,
}

impl Body<'_> {
    fn directory(parent: FileId) -> Self {
        Self::Directory { parent, names: Names::new() }
    }
}

/// Why layers do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A path goes through a file of a lower layer.
    #[error("entry \"{0}\": the path goes through something that is not a directory")]
    NotDirectory(String),
    /// A path that leads back into the layer's own symbolic links, or in a circle.
    #[error(
        "entry \"{0}\": the path goes through a symbolic link that leads through the layer's own links, or too many"
    )]
    Symlink(String),
    /// A hard link to a file that no layer below has.
    #[error("entry \"{path}\": the hard link's target \"{target}\" is in no layer below")]
    LinkTarget {
        /// The link.
        path: String,
        /// Its target.
        target: String,
    },
    /// Two names of one layer turn out to be the same, by way of a symbolic link of a lower layer.
    #[error(
        "entry \"{0}\": the layer brings this file twice, once through a symbolic link of a lower layer"
    )]
    Duplicate(String),
    /// An opaque whiteout behind a symbolic link.
    #[error("entry \"{0}\": an opaque whiteout stands behind a symbolic link of a lower layer")]
    Opaque(String),
    /// Too many entries in all layers together.
    #[error("the image has more than {0} entries")]
    TooManyEntries(usize),
}

/// What an implied directory that no layer brings looks like (containerd and docker make it so).
static IMPLIED: Attributes =
    Attributes { mode: 0o755, uid: 0, gid: 0, mtime: 0, mtime_ns: 0, xattrs: Vec::new() };

/// The image's files. Those that no name leads to any more are still there.
#[derive(Debug)]
pub(crate) struct Image<'a> {
    pub(crate) files: Vec<File<'a>>,
}

impl<'a> Image<'a> {
    /// An image without layers: an empty root.
    pub(crate) fn new() -> Self {
        Self { files: vec![File { attributes: &IMPLIED, body: Body::directory(ROOT), layer: 0 }] }
    }

    /// Puts the next layer, number `layer`, on top.
    pub(crate) fn apply(&mut self, layer: usize, index: &'a LayerIndex) -> Result<(), MergeError> {
        let nodes = &index.nodes;
        if self.files.len() + nodes.len() > limits::IMAGE_ENTRIES {
            return Err(MergeError::TooManyEntries(limits::IMAGE_ENTRIES));
        }
        Pass::new(self, layer, nodes).apply()
    }

    pub(crate) fn file(&self, id: FileId) -> Option<&File<'a>> {
        self.files.get(id as usize)
    }

    fn names(&self, id: FileId) -> Option<&Names<'a>> {
        match &self.file(id)?.body {
            Body::Directory { names, .. } => Some(names),
            _ => None,
        }
    }

    fn names_mut(&mut self, id: FileId) -> Option<&mut Names<'a>> {
        match &mut self.files.get_mut(id as usize)?.body {
            Body::Directory { names, .. } => Some(names),
            _ => None,
        }
    }

    fn add(&mut self, file: File<'a>) -> FileId {
        let id = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        self.files.push(file);
        id
    }
}

#[cfg(test)]
mod tests;
