//! One layer on its way into an image.

use super::{Body, File, FileId, IMPLIED, Image, MergeError, ROOT};
use crate::{
    layer::{Attributes, Node, NodeKind},
    limits,
    path::display,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Placed {
    Not,
    At(FileId),
    /// Behind a symbolic link of a lower layer: for the second run.
    Later,
}

/// The layer, and where its nodes have gone.
pub(super) struct Pass<'p, 'a> {
    image: &'p mut Image<'a>,
    nodes: &'a [Node],
    layer: usize,
    placed: Vec<Placed>,
    /// The second run: only what is behind symbolic links.
    through_links: bool,
}

impl<'p, 'a> Pass<'p, 'a> {
    pub(super) fn new(image: &'p mut Image<'a>, layer: usize, nodes: &'a [Node]) -> Self {
        Self { image, nodes, layer, placed: vec![Placed::Not; nodes.len()], through_links: false }
    }

    /// Puts the layer on top.
    pub(super) fn apply(mut self) -> Result<(), MergeError> {
        self.run()?;
        self.through_links = true;
        self.run()?;
        self.links()
    }

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
                if self.image.files.len() >= limits::IMAGE_ENTRIES {
                    return Err(MergeError::TooManyEntries(limits::IMAGE_ENTRIES));
                }
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
