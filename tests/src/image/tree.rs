//! The tree that an image stands for, told file by file from its layers' archives (OCI image-spec, layer, "Applying
//! changesets"). It is written from the specification alone, to be compared with what a container sees.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use bulkhead_probe::{FileLine, escape, hex};
use sha2::{Digest, Sha256};

use super::{
    Image,
    reader::{Member, members},
};

/// A file: which of the tree's nodes a path names is what makes hard links.
#[derive(Debug, Clone)]
struct Node {
    kind: char,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: (i64, u32),
    content: String,
    xattrs: BTreeMap<String, Vec<u8>>,
}

/// Every file of the image, one line each, in byte order of the paths; the root directory is among them when a layer has it.
///
/// # Errors
/// When a layer is not a well-formed archive.
pub fn tree_of(image: &Image) -> io::Result<Vec<FileLine>> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut paths: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for layer in &image.layers {
        // Whiteouts speak of the layers below, wherever they stand in the archive.
        let mut above: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        for member in members(&layer.tar)? {
            let path = clean(&member.path);
            let (parent, name) = split(&path);
            if name == b".wh..wh..opq" {
                paths.retain(|path, _| !is_below(path, parent));
            } else if let Some(gone) = name.strip_prefix(b".wh.") {
                let gone = join(parent, gone);
                paths.retain(|path, _| *path != gone && !is_below(path, &gone));
            } else if member.flag == b'1' {
                let target = clean(&member.link);
                let node = above.get(&target).or_else(|| paths.get(&target)).copied();
                let missing = || io::Error::other(format!("no target {}", escape(&target)));
                above.insert(path, node.ok_or_else(missing)?);
            } else {
                nodes.push(node_of(member)?);
                above.insert(path, nodes.len() - 1);
            }
        }
        for (path, node) in above {
            if nodes[node].kind != 'd' {
                paths.retain(|other, _| !is_below(other, &path));
            }
            paths.insert(path, node);
        }
    }
    let mut names: HashMap<usize, Vec<&Vec<u8>>> = HashMap::new();
    for (path, node) in &paths {
        names.entry(*node).or_default().push(path);
    }
    let line = |(path, node): (&Vec<u8>, &usize)| {
        let same = &names[node];
        let same_as = if same.len() > 1 { same[0].clone() } else { Vec::new() };
        let Node { kind, mode, uid, gid, size, mtime, content, xattrs } = nodes[*node].clone();
        let xattrs = xattrs.into_iter().collect();
        FileLine { path: path.clone(), kind, mode, uid, gid, size, mtime, content, same_as, xattrs }
    };
    Ok(paths.iter().map(line).collect())
}

fn node_of(member: Member<'_>) -> io::Result<Node> {
    let device = format!("{}:{}", member.device.0, member.device.1);
    let (kind, size, content) = match member.flag {
        b'5' => ('d', 0, "-".to_owned()),
        b'2' => ('l', member.link.len() as u64, escape(&member.link)),
        b'6' => ('p', 0, "-".to_owned()),
        b'3' => ('c', 0, device),
        b'4' => ('b', 0, device),
        b'0' | b'S' => ('f', member.size, checksum(&member)),
        flag => return Err(io::Error::other(format!("a member of type {flag}"))),
    };
    let Member { mode, uid, gid, mtime, xattrs, .. } = member;
    // The permissions of a symbolic link are always these.
    let mode = if kind == 'l' { 0o777 } else { mode };
    Ok(Node { kind, mode, uid, gid, size, mtime, content, xattrs })
}

/// The SHA-256 of a file with its holes.
fn checksum(member: &Member<'_>) -> String {
    let mut hash = Sha256::new();
    let zeros = [0; 64 << 10];
    let mut at = 0;
    let end = (member.size, [].as_slice());
    for (offset, bytes) in member.pieces.iter().copied().chain([end]) {
        while at < offset {
            let some = usize::try_from(offset - at).unwrap_or(usize::MAX).min(zeros.len());
            hash.update(&zeros[..some]);
            at += some as u64;
        }
        hash.update(bytes);
        at += bytes.len() as u64;
    }
    hex(&hash.finalize())
}

fn clean(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    parts.collect::<Vec<_>>().join(&b'/')
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.iter()
        .rposition(|byte| *byte == b'/')
        .map_or((b"", path), |at| (&path[..at], &path[at + 1..]))
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    if directory.is_empty() {
        return !path.is_empty();
    }
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Compression, Config, Entry, Layer};

    #[test]
    fn layers_are_applied_as_the_specification_says() {
        let layer = |entries: &[Entry]| Layer::new(entries, Compression::None);
        let image = Image {
            layers: vec![
                layer(&[
                    Entry::directory("d"),
                    Entry::file("d/gone", ""),
                    Entry::file("d/kept", "k"),
                    Entry::directory("o"),
                    Entry::file("o/below", ""),
                    Entry::directory("f"),
                    Entry::file("f/inner", ""),
                ]),
                layer(&[
                    Entry::file("o/above", ""),
                    Entry::opaque("o"),
                    Entry::whiteout("d", "gone"),
                    Entry::file("f", "now a file"),
                    Entry::hard_link("d/link", "d/kept"),
                    Entry::file("n", "")
                        .mtime(-5, 0)
                        .owner(3_000_000_000, 0)
                        .xattr("user.x", b"\0"),
                ]),
            ],
            config: Config::default(),
        };
        let tree = tree_of(&image).unwrap();
        let paths: Vec<_> = tree.iter().map(|line| escape(&line.path)).collect();
        assert_eq!(paths, ["d", "d/kept", "d/link", "f", "n", "o", "o/above"]);
        assert_eq!(tree[1].same_as, b"d/kept");
        assert_eq!(tree[1].content, tree[2].content);
        assert_eq!(tree[4].mtime, (-5, 0));
        assert_eq!(tree[4].uid, 3_000_000_000);
        assert_eq!(tree[4].xattrs, [("user.x".to_owned(), vec![0])]);
    }
}
