//! The tree of one layer while its tar stream is read: every rule about paths, duplicates, whiteouts and hard links inside a layer
//! is applied here. What depends on lower layers is left to the merge.

use std::collections::HashMap;

use super::{
    error::{EntryError, LayerError},
    node::{Node, NodeKind},
};
use crate::{
    limits,
    path::{WHITEOUT, components, display},
};

const OPAQUE: &[u8] = b".wh..wh..opq";
/// AUFS's own bookkeeping (`.wh..wh.plnk` and the like), which docker ignores wherever it stands.
const AUFS: &[u8] = b".wh..wh.";

/// Where an entry goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    Root,
    /// A name in the directory with this number.
    Name(u32, &'a [u8]),
    /// The entry only hides something, or means nothing; that is done.
    Settled,
}

/// The nodes of the layer and an index to find them by name.
pub(super) struct Tree {
    nodes: Vec<Node>,
    names: HashMap<(u32, Box<[u8]>), u32>,
    metadata: usize,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node {
            parent: 0,
            name: Box::default(),
            whiteout: false,
            opaque: false,
            kind: NodeKind::Implied,
        };
        Self { nodes: vec![root], names: HashMap::new(), metadata: 0 }
    }

    /// All nodes, once the archive has ended.
    pub(super) fn finish(self) -> Result<Vec<Node>, LayerError> {
        for (i, node) in self.nodes.iter().enumerate() {
            let NodeKind::LinkBelow(target) = &node.kind else { continue };
            // When the link came, the layer did not have its target. If it has it now, two files could be meant.
            if !matches!(self.link(target), Ok(NodeKind::LinkBelow(found)) if found == *target) {
                let source = EntryError::LinkTarget(display(target));
                return Err(LayerError::Entry { path: self.path(i), source });
            }
        }
        Ok(self.nodes)
    }

    fn path(&self, mut i: usize) -> String {
        let mut names: Vec<&[u8]> = Vec::new();
        while let Some(node) = self.nodes.get(i).filter(|_| i != 0) {
            names.push(&node.name);
            i = node.parent as usize;
        }
        names.reverse();
        display(&names.join(&b'/'))
    }

    /// Bytes of names and whatever else was counted with [`Self::count`].
    pub(super) fn count(&mut self, bytes: usize) -> Result<(), LayerError> {
        self.metadata = self.metadata.saturating_add(bytes);
        if self.metadata > limits::LAYER_METADATA {
            return Err(LayerError::TooMuchMetadata(limits::LAYER_METADATA));
        }
        if self.nodes.len() > limits::LAYER_ENTRIES {
            return Err(LayerError::TooManyEntries(limits::LAYER_ENTRIES));
        }
        Ok(())
    }

    /// Finds where the entry `path` goes, making implied directories on the way and settling whiteouts.
    pub(super) fn place<'a>(&mut self, path: &'a [u8]) -> Result<Place<'a>, EntryError> {
        let components = components(path)?;
        let Some((name, parents)) = components.split_last() else {
            return Ok(Place::Root);
        };
        if components.iter().any(|c| c.starts_with(AUFS) && *c != OPAQUE) {
            return Ok(Place::Settled);
        }
        if parents.iter().any(|c| c.starts_with(WHITEOUT)) || *name == WHITEOUT {
            return Err(EntryError::BadWhiteout);
        }
        let mut at = 0;
        for (i, component) in parents.iter().enumerate() {
            at = self.child(at, component);
            let shown = || display(&parents.get(..=i).unwrap_or_default().join(&b'/'));
            match self.kind_mut(at) {
                Some(NodeKind::Symlink(..)) => return Err(EntryError::ThroughSymlink(shown())),
                Some(kind @ NodeKind::Absent) => *kind = NodeKind::Implied,
                Some(kind) if kind.is_directory() => {}
                _ => return Err(EntryError::ThroughFile(shown())),
            }
        }
        if *name == OPAQUE {
            if let Some(node) = self.nodes.get_mut(at as usize) {
                node.opaque = true;
            }
            return Ok(Place::Settled);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"." | b"..") {
                return Err(EntryError::BadWhiteout);
            }
            let node = self.child(at, hidden);
            if let Some(node) = self.nodes.get_mut(node as usize) {
                node.whiteout = true;
            }
            return Ok(Place::Settled);
        }
        Ok(Place::Name(at, name))
    }

    /// Puts `kind` where [`Self::place`] said. A directory may come again: the last one's attributes count.
    pub(super) fn put(&mut self, place: &Place<'_>, kind: NodeKind) -> Result<(), EntryError> {
        let node = match place {
            Place::Settled => return Ok(()),
            Place::Root if !kind.is_directory() => return Err(EntryError::RootNotDirectory),
            Place::Root => 0,
            Place::Name(parent, name) => self.child(*parent, name),
        };
        match self.kind_mut(node) {
            Some(old)
                if *old == NodeKind::Absent || (old.is_directory() && kind.is_directory()) =>
            {
                *old = kind;
                Ok(())
            }
            _ => Err(EntryError::Duplicate),
        }
    }

    /// Whether a file may be put there: asked before its content is written.
    pub(super) fn is_free(&self, place: &Place<'_>) -> bool {
        match place {
            Place::Settled => true,
            Place::Root => false,
            Place::Name(parent, name) => {
                self.find(*parent, name).is_none_or(|(_, kind)| *kind == NodeKind::Absent)
            }
        }
    }

    /// What a hard link to `target` is: the target is a file that the layer has brought before, or else one of a lower layer.
    pub(super) fn link(&self, target: &[u8]) -> Result<NodeKind, EntryError> {
        let shown = || display(target);
        let components = components(target)
            .map_err(|source| EntryError::LinkTargetPath { target: shown(), source })?;
        let below = || Ok(NodeKind::LinkBelow(components.join(&b'/').into()));
        let Some((name, parents)) = components.split_last() else {
            return Err(EntryError::LinkTarget(shown()));
        };
        let mut at = 0;
        for parent in parents {
            match self.find(at, parent) {
                Some((_, NodeKind::Symlink(..))) => {
                    return Err(EntryError::ThroughSymlink(display(parent)));
                }
                Some((node, kind)) if kind.is_directory() => at = node,
                Some((_, NodeKind::Absent)) | None => return below(),
                Some(_) => return Err(EntryError::LinkTarget(shown())),
            }
        }
        match self.find(at, name) {
            None | Some((_, NodeKind::Absent)) => below(),
            Some((_, kind)) if kind.is_directory() => Err(EntryError::LinkTarget(shown())),
            Some((_, kind @ (NodeKind::Link(_) | NodeKind::LinkBelow(_)))) => Ok(kind.clone()),
            Some((node, _)) => Ok(NodeKind::Link(node)),
        }
    }

    fn kind_mut(&mut self, node: u32) -> Option<&mut NodeKind> {
        self.nodes.get_mut(node as usize).map(|node| &mut node.kind)
    }

    fn find(&self, parent: u32, name: &[u8]) -> Option<(u32, &NodeKind)> {
        let node = *self.names.get(&(parent, Box::from(name)))?;
        Some((node, &self.nodes.get(node as usize)?.kind))
    }

    /// The node of a name, made if it is new. The number of nodes is bounded far below `u32::MAX` by [`Self::count`].
    fn child(&mut self, parent: u32, name: &[u8]) -> u32 {
        let new = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let node = *self.names.entry((parent, Box::from(name))).or_insert(new);
        if node == new {
            let kind = NodeKind::Absent;
            self.nodes.push(Node {
                parent,
                name: name.into(),
                whiteout: false,
                opaque: false,
                kind,
            });
            self.metadata += name.len();
        }
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::node::Attributes;

    fn put(tree: &mut Tree, path: &str, kind: NodeKind) -> Result<(), EntryError> {
        let place = tree.place(path.as_bytes())?;
        tree.put(&place, kind)
    }

    fn directory(mode: u16) -> NodeKind {
        NodeKind::Directory(Attributes { mode, ..Attributes::default() })
    }

    fn fifo() -> NodeKind {
        NodeKind::Fifo(Attributes::default())
    }

    fn symlink() -> NodeKind {
        NodeKind::Symlink(Attributes::default(), b"/etc".as_slice().into())
    }

    #[test]
    fn the_last_directory_wins_and_everything_else_is_a_duplicate() {
        let mut tree = Tree::new();
        put(&mut tree, "a/b", fifo()).unwrap();
        put(&mut tree, "a", directory(0o700)).unwrap();
        put(&mut tree, "./a/", directory(0o755)).unwrap();
        assert!(matches!(put(&mut tree, "a", fifo()), Err(EntryError::Duplicate)));
        assert!(matches!(put(&mut tree, "a/b", fifo()), Err(EntryError::Duplicate)));
        assert!(matches!(put(&mut tree, "a/b", directory(0)), Err(EntryError::Duplicate)));
        assert!(matches!(put(&mut tree, "/", fifo()), Err(EntryError::RootNotDirectory)));
        assert_eq!(tree.finish().unwrap()[1].kind, directory(0o755));
    }

    #[test]
    fn paths_never_leave_through_what_the_layer_made() {
        let mut tree = Tree::new();
        put(&mut tree, "link", symlink()).unwrap();
        put(&mut tree, "pipe", fifo()).unwrap();
        assert!(
            matches!(tree.place(b"link/passwd"), Err(EntryError::ThroughSymlink(p)) if p == "link")
        );
        assert!(matches!(tree.place(b"pipe/x"), Err(EntryError::ThroughFile(p)) if p == "pipe"));
        assert!(matches!(tree.link(b"link/passwd"), Err(EntryError::ThroughSymlink(_))));
        assert!(matches!(tree.link(b"../x"), Err(EntryError::LinkTargetPath { .. })));
        assert!(matches!(tree.link(b"."), Err(EntryError::LinkTarget(_))));
    }

    #[test]
    fn whiteouts_hide_below_and_keep_what_the_layer_has() {
        let mut tree = Tree::new();
        put(&mut tree, "d/a", fifo()).unwrap();
        for settled in
            ["d/.wh.a", "d/.wh.gone", "d/.wh..wh..opq", ".wh..wh.plnk/1.2", ".wh..wh.aufs"]
        {
            assert_eq!(tree.place(settled.as_bytes()).unwrap(), Place::Settled, "{settled}");
        }
        put(&mut tree, "d/gone", fifo()).unwrap();
        for bad in [".wh.", "d/.wh.", ".wh.x/y", ".wh..", ".wh..."] {
            assert!(matches!(tree.place(bad.as_bytes()), Err(EntryError::BadWhiteout)), "{bad}");
        }
        let nodes = tree.finish().unwrap();
        let seen: Vec<_> =
            nodes.iter().map(|n| (&*n.name, n.whiteout, n.opaque, n.kind == fifo())).collect();
        assert_eq!(
            seen,
            [
                (&b""[..], false, false, false),
                (b"d", false, true, false),
                (b"a", true, false, true),
                (b"gone", true, false, true)
            ]
        );
    }

    #[test]
    fn hard_links_name_this_layer_first_then_those_below() {
        let mut tree = Tree::new();
        put(&mut tree, "a", fifo()).unwrap();
        let link = tree.link(b"./a").unwrap();
        assert_eq!(link, NodeKind::Link(1));
        put(&mut tree, "b", link).unwrap();
        assert_eq!(tree.link(b"b").unwrap(), NodeKind::Link(1));
        assert_eq!(
            tree.link(b"lower/x").unwrap(),
            NodeKind::LinkBelow(b"lower/x".as_slice().into())
        );
    }
}
