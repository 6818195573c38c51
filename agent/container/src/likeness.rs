//! What a specification must have in common with those from which a process was made ahead, so that its container can take
//! that process, and which of the mounts that were made ahead it can have. Whatever is not compared here is applied when the
//! process has been taken, as to any other.

use std::collections::BTreeSet;

use crate::{
    builder::Platform,
    capability::Sets,
    error::Error,
    mount::{Contents, Mounts, Tree},
    spec::{DeviceRule, Linux, Namespace, NamespaceType, Spec},
};

/// All of a specification that goes into a process before it has its mounts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Likeness {
    namespaces: BTreeSet<NamespaceType>,
}

/// A tree for a container: which of those that were made ahead, and the places of its mounts in the specification.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) tree: usize,
    pub(crate) places: Vec<usize>,
}

impl Likeness {
    /// `None` for a specification whose process cannot be made ahead.
    pub(crate) fn of(linux: &Linux) -> Option<Self> {
        let has = |kind| linux.namespaces.iter().any(|namespace| namespace.kind == kind);
        let other = |namespace: &Namespace| {
            let apart = [NamespaceType::User, NamespaceType::Time];
            namespace.path.is_some() || apart.contains(&namespace.kind)
        };
        let shared =
            linux.rootfs_propagation.as_deref().is_some_and(|kind| kind.contains("shared"));
        let fits = [NamespaceType::Pid, NamespaceType::Mount].into_iter().all(has)
            && !linux.namespaces.iter().any(other);
        if !fits || shared {
            return None;
        }
        // The process is in a cgroup namespace of its own; one that is to have none leaves it.
        let kinds = linux.namespaces.iter().map(|namespace| namespace.kind);
        Some(Self { namespaces: kinds.filter(|kind| *kind != NamespaceType::Cgroup).collect() })
    }
}

/// It has a cgroup namespace and so does not see what its group is called: it can have one that was made ahead.
pub(crate) fn takes_group(linux: &Linux) -> bool {
    linux.namespaces.iter().any(|namespace| namespace.kind == NamespaceType::Cgroup)
}

/// What of a specification goes into trees.
pub(crate) fn contents(linux: &Linux) -> Contents<'_> {
    Contents {
        devices: &linux.devices,
        read_only: &linux.readonly_paths,
        masked: &linux.masked_paths,
        group: takes_group(linux),
    }
}

/// The bounding set of a specification's process.
pub(crate) fn bounding(platform: &Platform, spec: &Spec) -> Option<Sets> {
    spec.process.as_ref().map(|process| platform.sets(process).only_bounding())
}

pub(crate) fn rules(linux: &Linux) -> &[DeviceRule] {
    linux.resources.as_ref().map_or(&[], |resources| &resources.devices)
}

/// Chooses for each tree that the container could have the one in which most of what it wants is hidden already.
pub(crate) fn choose(mounts: &Mounts, linux: &Linux, made: &[&Tree]) -> Vec<Chosen> {
    let contents = contents(linux);
    let best = |wanted: &Tree| {
        let serving = made.iter().enumerate().filter(|(_, tree)| tree.serves(wanted, &contents));
        serving.max_by_key(|(_, tree)| tree.hidden().count()).map(|(index, _)| index)
    };
    let chosen = mounts.trees(&contents).into_iter();
    let chosen: Vec<_> = chosen
        .filter_map(|(places, wanted)| best(&wanted).map(|tree| Chosen { tree, places }))
        .collect();
    // Files are hidden with the null device of the container, whose nodes must be those that were made ahead.
    let has_nodes = made_of(&chosen, made).any(|tree| tree.nodes().is_some());
    let hides = made_of(&chosen, made).any(|tree| tree.hidden().next().is_some());
    if hides && !has_nodes { Vec::new() } else { chosen }
}

fn made_of<'a>(chosen: &'a [Chosen], made: &'a [&Tree]) -> impl Iterator<Item = &'a Tree> {
    chosen.iter().filter_map(|chosen| made.get(chosen.tree).copied())
}

/// What is still to be hidden beside what is in these trees: read-only paths and masked ones.
pub(crate) fn rest<'a>(
    linux: &Linux,
    trees: impl Iterator<Item = &'a Tree> + Clone,
) -> [Vec<String>; 2] {
    let without = |paths: &[String], here: fn(&Tree) -> &BTreeSet<String>| {
        let is_here = |path: &String| trees.clone().any(|tree| here(tree).contains(path));
        paths.iter().filter(|path| !is_here(path)).cloned().collect()
    };
    [without(&linux.readonly_paths, Tree::read_only), without(&linux.masked_paths, Tree::masked)]
}

/// A specification whose trees are made ahead.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) mounts: Mounts,
    pub(crate) trees: Vec<Tree>,
}

impl Expected {
    /// Its mounts that can be made ahead and are not `made`, and what has to be there to hide files in them; `None` when there
    /// are none.
    pub(crate) fn new(spec: &Spec, linux: &Linux, made: &[&Tree]) -> Result<Option<Self>, Error> {
        let mut mounts = Mounts::new(&spec.mounts, "", false)?;
        let mut trees = mounts.trees(&contents(linux));
        if trees.iter().all(|(_, tree)| made.contains(&tree)) {
            return Ok(None);
        }
        trees.retain(|(_, tree)| tree.nodes().is_some() || !made.contains(&tree));
        let (places, trees): (Vec<_>, Vec<_>) = trees.into_iter().unzip();
        mounts.keep(&places.concat());
        Ok(Some(Self { mounts, trees }))
    }
}

#[cfg(test)]
#[path = "likeness_tests.rs"]
mod tests;
