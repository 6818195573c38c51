//! The tree of an image: its layers' trees put on top of each other (OCI image-spec, layer.md "Applying Changesets").
//!
//! Inside a layer, order means nothing: a layer's whiteouts hide what is below it, never what it brings itself. A path that goes through a symbolic
//! link of a lower layer is resolved inside the image's root, as containerd does, after the layer's other entries are in place.

use std::collections::BTreeMap;

use crate::{
    layer::{Attributes, Content, LayerIndex, Node, NodeKind},
    limits,
    path::display,
};

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
        let mut pass = Pass {
            image: self,
            nodes,
            layer,
            placed: vec![Placed::Not; nodes.len()],
            through_links: false,
        };
        pass.run()?;
        pass.through_links = true;
        pass.run()?;
        pass.links()
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Placed {
    Not,
    At(FileId),
    /// Behind a symbolic link of a lower layer: for the second run.
    Later,
}

/// One layer on its way into the image.
struct Pass<'p, 'a> {
    image: &'p mut Image<'a>,
    nodes: &'a [Node],
    layer: usize,
    placed: Vec<Placed>,
    /// The second run: only what is behind symbolic links.
    through_links: bool,
}

impl<'a> Pass<'_, 'a> {
    fn run(&mut self) -> Result<(), MergeError> {
        let nodes = self.nodes;
        for (i, node) in nodes.iter().enumerate() {
            let wanted = if self.through_links { Placed::Later } else { Placed::Not };
            if self.placed.get(i) != Some(&wanted) {
                continue;
            }
            let placed = if i == 0 { self.root(node) } else { self.node(i, node)? };
            if let Some(slot) = self.placed.get_mut(i) {
                *slot = placed;
            }
        }
        Ok(())
    }

    fn root(&mut self, node: &'a Node) -> Placed {
        if let Some(root) = self.image.files.first_mut() {
            if let NodeKind::Directory(attributes) = &node.kind {
                (root.attributes, root.layer) = (attributes, self.layer);
            }
            if node.opaque {
                root.body = Body::directory(ROOT);
            }
        }
        Placed::At(ROOT)
    }

    fn node(&mut self, i: usize, node: &'a Node) -> Result<Placed, MergeError> {
        let parent = match self.placed.get(node.parent as usize) {
            Some(Placed::At(parent)) => *parent,
            _ => return Ok(Placed::Later),
        };
        if node.whiteout
            && self.existing(parent, &node.name).is_some_and(|(_, own)| !own)
            && let Some(names) = self.image.names_mut(parent)
        {
            names.remove(&*node.name);
        }
        let body = match &node.kind {
            NodeKind::Absent | NodeKind::Link(_) | NodeKind::LinkBelow(_) => {
                return Ok(Placed::Not);
            }
            NodeKind::Implied => return self.implied(i, node, parent),
            NodeKind::Directory(attributes) => {
                return self.directory(i, node, attributes, parent).map(Placed::At);
            }
            NodeKind::File(attributes, content) => (attributes, Body::Regular(content)),
            NodeKind::Symlink(attributes, target) => (attributes, Body::Symlink(target)),
            NodeKind::Device { attributes, block, rdev } => {
                (attributes, Body::Device { block: *block, rdev: *rdev })
            }
            NodeKind::Fifo(attributes) => (attributes, Body::Fifo),
        };
        let id = self.image.add(File { attributes: body.0, body: body.1, layer: self.layer });
        self.name(i, parent, &node.name, id)?;
        Ok(Placed::At(id))
    }

    /// What the directory `parent` has under `name`, and whether this layer brought it.
    fn existing(&self, parent: FileId, name: &[u8]) -> Option<(FileId, bool)> {
        let id = *self.image.names(parent)?.get(name)?;
        Some((id, self.image.file(id)?.layer == self.layer))
    }

    fn directory(
        &mut self,
        i: usize,
        node: &'a Node,
        attributes: &'a Attributes,
        parent: FileId,
    ) -> Result<FileId, MergeError> {
        let layer = self.layer;
        if let Some((id, own)) = self.existing(parent, &node.name) {
            if let Some(file) = self.image.files.get_mut(id as usize)
                && let Body::Directory { names, .. } = &mut file.body
            {
                if node.opaque && !own {
                    names.clear();
                }
                (file.attributes, file.layer) = (attributes, layer);
                return Ok(id);
            }
            if own {
                return Err(MergeError::Duplicate(self.path(i)));
            }
        }
        let id = self.image.add(File { attributes, body: Body::directory(parent), layer });
        if let Some(names) = self.image.names_mut(parent) {
            names.insert(&node.name, id);
        }
        Ok(id)
    }

    fn implied(&mut self, i: usize, node: &'a Node, parent: FileId) -> Result<Placed, MergeError> {
        let Some((id, own)) = self.existing(parent, &node.name) else {
            return self.directory(i, node, &IMPLIED, parent).map(Placed::At);
        };
        let directory = match self.image.files.get_mut(id as usize).map(|file| &mut file.body) {
            Some(Body::Directory { names, .. }) => {
                if node.opaque && !own {
                    names.clear();
                }
                id
            }
            Some(Body::Symlink(_)) if node.opaque => return Err(MergeError::Opaque(self.path(i))),
            Some(Body::Symlink(_)) if !self.through_links => return Ok(Placed::Later),
            Some(Body::Symlink(_)) => self.resolve(i, parent, &node.name)?,
            _ => return Err(MergeError::NotDirectory(self.path(i))),
        };
        Ok(Placed::At(directory))
    }

    /// Gives `id` a name, in place of whatever a lower layer has there.
    fn name(
        &mut self,
        i: usize,
        parent: FileId,
        name: &'a [u8],
        id: FileId,
    ) -> Result<(), MergeError> {
        if self.existing(parent, name).is_some_and(|(_, own)| own) {
            return Err(MergeError::Duplicate(self.path(i)));
        }
        if let Some(names) = self.image.names_mut(parent) {
            names.insert(name, id);
        }
        Ok(())
    }

    /// The directory that `name` in `start` leads to, through symbolic links of lower layers, never out of the root. What is missing is made,
    /// as containerd does. `i` is the node that wants it.
    fn resolve(&mut self, i: usize, start: FileId, name: &'a [u8]) -> Result<FileId, MergeError> {
        let mut at = start;
        let mut todo = vec![name];
        let (mut steps, mut followed) = (0, 0);
        while let Some(name) = todo.pop() {
            steps += 1;
            if steps > limits::PATH {
                return Err(MergeError::Symlink(self.path(i)));
            }
            if matches!(name, b"" | b".") {
                continue;
            }
            if name == b".." {
                if let Some(Body::Directory { parent, .. }) =
                    self.image.file(at).map(|file| &file.body)
                {
                    at = *parent;
                }
                continue;
            }
            let Some((id, own)) = self.existing(at, name) else {
                let id = self.image.add(File {
                    attributes: &IMPLIED,
                    body: Body::directory(at),
                    layer: self.layer,
                });
                if let Some(names) = self.image.names_mut(at) {
                    names.insert(name, id);
                }
                at = id;
                continue;
            };
            match self.image.file(id).map(|file| &file.body) {
                Some(Body::Directory { .. }) => at = id,
                Some(Body::Symlink(target)) if !own && followed < limits::SYMLINKS => {
                    followed += 1;
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    todo.extend(target.rsplit(|b| *b == b'/'));
                }
                Some(Body::Symlink(_)) => return Err(MergeError::Symlink(self.path(i))),
                _ => return Err(MergeError::NotDirectory(self.path(i))),
            }
        }
        Ok(at)
    }

    /// The layer's hard links, once everything that they may name is there.
    fn links(&mut self) -> Result<(), MergeError> {
        let nodes = self.nodes;
        for (i, node) in nodes.iter().enumerate() {
            let missing = |pass: &Self, target: &[u8]| MergeError::LinkTarget {
                path: pass.path(i),
                target: display(target),
            };
            let id = match &node.kind {
                NodeKind::Link(target) => match self.placed.get(*target as usize) {
                    Some(Placed::At(id)) => *id,
                    _ => {
                        return Err(missing(
                            self,
                            nodes.get(*target as usize).map_or(&b""[..], |n| &n.name),
                        ));
                    }
                },
                NodeKind::LinkBelow(target) => {
                    self.below(i, target)?.ok_or_else(|| missing(self, target))?
                }
                _ => continue,
            };
            let Some(Placed::At(parent)) = self.placed.get(node.parent as usize).copied() else {
                return Err(MergeError::NotDirectory(self.path(i)));
            };
            self.name(i, parent, &node.name, id)?;
        }
        Ok(())
    }

    /// The file that a path of lower layers names; None if there is none, or a directory.
    fn below(&mut self, i: usize, target: &'a [u8]) -> Result<Option<FileId>, MergeError> {
        let (parents, name) = match target.iter().rposition(|b| *b == b'/') {
            Some(slash) => target.split_at(slash),
            None => (&b""[..], target),
        };
        let mut at = ROOT;
        for parent in parents.split(|b| *b == b'/').filter(|p| !p.is_empty()) {
            match self.existing(at, parent) {
                None => return Ok(None),
                Some(_) => at = self.resolve(i, at, parent)?,
            }
        }
        let found = self.existing(at, name.strip_prefix(b"/").unwrap_or(name)).map(|(id, _)| id);
        Ok(found.filter(|id| self.image.names(*id).is_none()))
    }

    /// The path of a node in its own layer, for messages.
    fn path(&self, mut i: usize) -> String {
        let mut names: Vec<&[u8]> = Vec::new();
        while i != 0 {
            let Some(node) = self.nodes.get(i) else { break };
            names.push(&node.name);
            i = node.parent as usize;
        }
        names.reverse();
        display(&names.join(&b'/'))
    }
}

#[cfg(test)]
mod tests;
