use super::*;
use crate::layer::{Node, NodeKind};

/// A layer from `(path, kind)`; parents come first.
fn layer(entries: &[(&str, NodeKind)]) -> LayerIndex {
    let mut nodes = vec![node(0, "", NodeKind::Implied)];
    let mut numbers = std::collections::HashMap::from([(String::new(), 0)]);
    for (path, kind) in entries {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let (name, whiteout) = name.strip_prefix(".wh.").map_or((name, false), |name| (name, true));
        numbers.insert((*path).to_owned(), u32::try_from(nodes.len()).unwrap());
        nodes.push(Node { whiteout, ..node(numbers[parent], name, kind.clone()) });
    }
    LayerIndex { data_blocks: 100, nodes }
}

fn node(parent: u32, name: &str, kind: NodeKind) -> Node {
    Node { parent, name: name.as_bytes().into(), whiteout: false, opaque: false, kind }
}

fn dir() -> NodeKind {
    NodeKind::Directory(Attributes::default())
}

fn file() -> NodeKind {
    NodeKind::File(Attributes::default(), Content { size: 0, map: crate::layer::Map::Flat(0) })
}

fn symlink(target: &str) -> NodeKind {
    NodeKind::Symlink(Attributes::default(), target.as_bytes().into())
}

fn below(target: &str) -> NodeKind {
    NodeKind::LinkBelow(target.as_bytes().into())
}

/// All paths of the image, in order, directories with a slash at their end.
fn paths(image: &Image<'_>) -> Vec<String> {
    let mut out = Vec::new();
    let mut todo = vec![(ROOT, String::new())];
    while let Some((id, path)) = todo.pop() {
        match &image.file(id).unwrap().body {
            Body::Directory { names, .. } => {
                out.push(format!("{path}/"));
                todo.extend(
                    names.iter().map(|(name, id)| (*id, format!("{path}/{}", name.escape_ascii()))),
                );
            }
            _ => out.push(path),
        }
    }
    out.sort();
    out
}

fn join(layers: &[LayerIndex]) -> Result<Vec<String>, MergeError> {
    let mut image = Image::new();
    for (number, layer) in layers.iter().enumerate() {
        image.apply(number, layer)?;
    }
    Ok(paths(&image))
}

#[test]
fn a_whiteout_hides_below_and_not_beside() {
    let base = layer(&[("a", dir()), ("a/x", file()), ("b", file())]);
    let top =
        layer(&[(".wh.a", dir()), (".wh.gone", NodeKind::Absent), (".wh.b", NodeKind::Absent)]);
    assert_eq!(join(&[base, top]).unwrap(), ["/", "/a/"]);
}

#[test]
fn an_opaque_directory_keeps_what_its_own_layer_brings() {
    let base = layer(&[("a", dir()), ("a/x", file())]);
    let mut top = layer(&[("a", NodeKind::Implied), ("a/y", file())]);
    top.nodes[1].opaque = true;
    assert_eq!(join(&[base, top]).unwrap(), ["/", "/a/", "/a/y"]);
}

#[test]
fn types_replace_each_other_and_directories_merge() {
    let base = layer(&[("a", dir()), ("a/x", file()), ("f", file()), ("l", symlink("a"))]);
    let top = layer(&[("a", file()), ("f", dir()), ("f/y", file()), ("l", dir())]);
    assert_eq!(join(&[base, top]).unwrap(), ["/", "/a", "/f/", "/f/y", "/l/"]);
}

#[test]
fn links_of_lower_layers_are_followed_inside_the_root() {
    let base =
        layer(&[("usr", dir()), ("lib", symlink("../../usr/./lib/")), ("up", symlink("/../lib"))]);
    let top = layer(&[
        ("lib", NodeKind::Implied),
        ("lib/a", file()),
        ("up", NodeKind::Implied),
        ("up/b", file()),
    ]);
    assert_eq!(
        join(&[base, top]).unwrap(),
        ["/", "/lib", "/up", "/usr/", "/usr/lib/", "/usr/lib/a", "/usr/lib/b"]
    );
}

#[test]
fn links_that_lead_nowhere_good_are_refused() {
    let base = layer(&[
        ("loop", symlink("loop")),
        ("lib", symlink("own")),
        ("file", file()),
        ("to", symlink("file")),
    ]);
    let through = |name: &str| layer(&[(name, NodeKind::Implied), (&format!("{name}/x"), file())]);
    assert!(
        matches!(join(&[base, through("loop")]), Err(MergeError::Symlink(path)) if path == "loop")
    );
    let base = || layer(&[("lib", symlink("own")), ("file", file()), ("to", symlink("file"))]);
    assert!(
        matches!(join(&[base(), through("file")]), Err(MergeError::NotDirectory(path)) if path == "file")
    );
    assert!(
        matches!(join(&[base(), through("to")]), Err(MergeError::NotDirectory(path)) if path == "to")
    );
    let top = layer(&[("own", symlink("/")), ("lib", NodeKind::Implied), ("lib/x", file())]);
    assert!(matches!(join(&[base(), top]), Err(MergeError::Symlink(path)) if path == "lib"));
    let mut top = through("lib");
    top.nodes[1].opaque = true;
    assert!(matches!(join(&[base(), top]), Err(MergeError::Opaque(path)) if path == "lib"));
}

#[test]
fn one_file_by_two_paths_of_one_layer_is_refused() {
    let base = layer(&[("usr", dir()), ("lib", symlink("usr"))]);
    let top =
        layer(&[("usr", dir()), ("usr/x", file()), ("lib", NodeKind::Implied), ("lib/x", file())]);
    assert!(matches!(join(&[base, top]), Err(MergeError::Duplicate(path)) if path == "lib/x"));
}

#[test]
fn hard_links_reach_below_but_not_what_is_hidden() {
    let base = || layer(&[("d", dir()), ("d/x", file()), ("l", symlink("d"))]);
    let good = layer(&[("a", below("d/x")), ("b", below("l/x")), ("c", below("l"))]);
    assert_eq!(join(&[base(), good]).unwrap(), ["/", "/a", "/b", "/c", "/d/", "/d/x", "/l"]);
    for target in ["d", "gone", "d/gone", "gone/x"] {
        let top = layer(&[("a", below(target))]);
        assert!(matches!(join(&[base(), top]), Err(MergeError::LinkTarget { .. })), "{target}");
    }
    let hidden = layer(&[(".wh.d", NodeKind::Absent), ("a", below("d/x"))]);
    assert!(matches!(join(&[base(), hidden]), Err(MergeError::LinkTarget { .. })));
}
