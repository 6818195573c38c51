//! A second, simple-minded opinion on what a stack of layers looks like: a map from paths to files, changed layer by layer.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    archive::{Archive, header},
    disk::{Kind, Seen, Tree},
};
use tar::EntryType;

/// Something that a layer may do.
#[derive(Debug, Clone)]
pub enum Action {
    Put(What),
    Link(Vec<String>),
    Whiteout,
    Opaque,
}

#[derive(Debug, Clone)]
pub enum What {
    Directory,
    File { seed: u8, size: usize },
    Sparse { at: usize, size: usize },
    Symlink(String),
    Char(u32, u32),
    Fifo,
}

/// An entry of a layer.
#[derive(Debug, Clone)]
pub struct Op {
    pub path: Vec<String>,
    pub action: Action,
    pub mode: u32,
    pub uid: u32,
    pub mtime: (i64, u32),
    pub xattr: Option<Vec<u8>>,
}

#[derive(Clone)]
struct File {
    seen: Seen,
    inode: usize,
}

/// The tree as it is after the layers so far.
#[derive(Default)]
pub struct Model {
    files: BTreeMap<String, File>,
    inodes: usize,
    /// Targets in lower layers of this layer's hard links: it must not bring them itself.
    below: BTreeSet<String>,
}

impl Model {
    pub fn new() -> Self {
        let mut model = Self::default();
        model.put("", implied());
        model
    }

    /// Applies those of `ops` that are legal, and returns the layer that has just them.
    pub fn apply(&mut self, ops: &[Op]) -> Vec<u8> {
        let hides = |op: &&Op| matches!(op.action, Action::Whiteout | Action::Opaque);
        self.below.clear();
        let mut own = BTreeMap::new();
        let mut kept = Vec::new();
        let lower: BTreeMap<_, _> = self
            .files
            .iter()
            .map(|(path, file)| (path.clone(), file.seen.kind == Kind::Directory))
            .collect();
        let hidden: BTreeSet<_> =
            ops.iter().enumerate().filter(|(_, op)| hides(op)).map(|(i, _)| i).collect();
        // What is hidden is hidden before anything is put there, wherever it stands in the archive.
        let mut lower_after = lower;
        for op in hidden.iter().map(|i| &ops[*i]) {
            if op.path.is_empty() && matches!(op.action, Action::Whiteout) {
                continue;
            }
            let prefixes =
                if matches!(op.action, Action::Opaque) { op.path.len() + 1 } else { op.path.len() };
            if !imply(&op.path, prefixes, &mut own, &lower_after) {
                continue;
            }
            let path = op.path.join("/");
            let inside = |name: &str| {
                name.starts_with(&format!("{path}/")) || (path.is_empty() && !name.is_empty())
            };
            let whiteout = matches!(op.action, Action::Whiteout);
            let goes = |name: &str| inside(name) || (whiteout && name == path);
            lower_after.retain(|name, _| !goes(name));
            self.files.retain(|name, _| !goes(name));
            kept.push(op);
        }
        for directory in own.keys() {
            if !self.files.contains_key(directory) {
                self.put(directory, implied());
            }
        }
        for op in ops.iter().filter(|op| !hides(op)) {
            if self.step(op, &mut own, &lower_after) {
                kept.push(op);
            }
        }
        write(&kept, ops)
    }

    fn step(
        &mut self,
        op: &Op,
        own: &mut BTreeMap<String, bool>,
        lower: &BTreeMap<String, bool>,
    ) -> bool {
        let path = op.path.join("/");
        let directory = matches!(op.action, Action::Put(What::Directory));
        if self.below.iter().any(|target| {
            *target == path || (!directory && target.starts_with(&format!("{path}/")))
        }) {
            return false;
        }
        if own.get(&path).is_some_and(|known| !(*known && directory))
            || (path.is_empty() && !directory)
        {
            return false;
        }
        let file = match &op.action {
            Action::Link(target) => {
                let target = target.join("/");
                let usable = |file: &&File| file.seen.kind != Kind::Directory;
                let passable = (1..target.len())
                    .filter(|i| target.as_bytes()[*i] == b'/')
                    .all(|i| own.get(&target[..i]).is_none_or(|d| *d));
                let Some(file) = self.files.get(&target).filter(usable).filter(|_| {
                    passable && target != path && !target.starts_with(&format!("{path}/"))
                }) else {
                    return false;
                };
                file.clone()
            }
            Action::Put(what) => {
                let inode = self.inodes;
                File { seen: seen(op, what), inode }
            }
            Action::Whiteout | Action::Opaque => return false,
        };
        if !imply(&op.path, op.path.len(), own, lower) {
            return false;
        }
        if let Action::Link(target) = &op.action
            && !own.contains_key(&target.join("/"))
        {
            self.below.insert(target.join("/"));
        }
        own.insert(path.clone(), directory);
        for end in 0..op.path.len() {
            let parent = op.path[..end].join("/");
            if !self.files.contains_key(&parent) {
                self.put(&parent, implied());
            }
        }
        let merges =
            directory && self.files.get(&path).is_some_and(|old| old.seen.kind == Kind::Directory);
        if !merges {
            self.files.retain(|name, _| *name != path && !name.starts_with(&format!("{path}/")));
        }
        if let Action::Link(_) = op.action {
            self.files.insert(path, file);
        } else {
            self.put(&path, file.seen);
        }
        true
    }

    fn put(&mut self, path: &str, seen: Seen) {
        self.inodes += 1;
        self.files.insert(path.to_owned(), File { seen, inode: self.inodes });
    }

    /// What a mount must show.
    pub fn tree(&self) -> Tree {
        let mut names = BTreeMap::<usize, u64>::new();
        let mut inside = BTreeMap::<&str, u64>::new();
        for (path, file) in &self.files {
            *names.entry(file.inode).or_default() += 1;
            if file.seen.kind == Kind::Directory && !path.is_empty() {
                *inside
                    .entry(path.rsplit_once('/').map_or("", |(parent, _)| parent))
                    .or_default() += 1;
            }
        }
        let see = |(path, file): (&String, &File)| {
            let mut seen = file.seen.clone();
            let is_directory = seen.kind == Kind::Directory;
            seen.links = if is_directory {
                2 + inside.get(path.as_str()).unwrap_or(&0)
            } else {
                names[&file.inode]
            };
            (path.as_bytes().to_vec(), seen)
        };
        self.files.iter().map(see).collect()
    }
}

/// Marks the first `count` prefixes of `path` as directories that the layer implies; false if one of them is no directory.
fn imply(
    path: &[String],
    count: usize,
    own: &mut BTreeMap<String, bool>,
    lower: &BTreeMap<String, bool>,
) -> bool {
    let prefixes: Vec<_> = (0..count).map(|end| path[..end].join("/")).collect();
    let passable =
        |prefix: &String| own.get(prefix).or(lower.get(prefix)).is_none_or(|directory| *directory);
    if !prefixes.iter().all(passable) {
        return false;
    }
    for prefix in prefixes {
        own.entry(prefix).or_insert(true);
    }
    true
}

fn implied() -> Seen {
    Seen {
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        links: 0,
        xattrs: BTreeMap::new(),
    }
}

fn seen(op: &Op, what: &What) -> Seen {
    let kind = match what {
        What::Directory => Kind::Directory,
        What::File { .. } | What::Sparse { .. } => Kind::File(content(what)),
        What::Symlink(target) => Kind::Symlink(target.as_bytes().to_vec()),
        What::Char(major, minor) => Kind::Char(*major, *minor),
        What::Fifo => Kind::Fifo,
    };
    let link = matches!(what, What::Symlink(_));
    let xattrs = op.xattr.iter().map(|value| ("security.test".to_owned(), value.clone())).collect();
    Seen {
        kind,
        mode: if link { 0o777 } else { op.mode },
        uid: op.uid,
        gid: op.uid / 2,
        mtime: (op.mtime.0, i64::from(op.mtime.1)),
        links: 0,
        xattrs,
    }
}

fn content(what: &What) -> Vec<u8> {
    match what {
        What::File { seed, size } => (0..*size)
            .map(|i| u8::try_from((i * 7 + i / 256 + usize::from(*seed)) % 251).unwrap())
            .collect(),
        What::Sparse { at, size } => {
            let mut content = vec![0; *size];
            content[*at % *size] = 1;
            content
        }
        _ => Vec::new(),
    }
}

/// The entries that were kept, in the order in which they came.
fn write(kept: &[&Op], ops: &[Op]) -> Vec<u8> {
    let mut archive = Archive::new();
    for op in ops.iter().filter(|op| kept.iter().any(|k| std::ptr::eq(*k, *op))) {
        let mut path = op.path.clone();
        let kind = match &op.action {
            Action::Put(What::Directory) => EntryType::Directory,
            Action::Put(What::File { .. } | What::Sparse { .. })
            | Action::Whiteout
            | Action::Opaque => EntryType::Regular,
            Action::Put(What::Symlink(_)) => EntryType::Symlink,
            Action::Put(What::Char(..)) => EntryType::Char,
            Action::Put(What::Fifo) => EntryType::Fifo,
            Action::Link(_) => EntryType::Link,
        };
        match &op.action {
            Action::Whiteout => path.last_mut().unwrap().insert_str(0, ".wh."),
            Action::Opaque => path.push(".wh..wh..opq".into()),
            _ => {}
        }
        let mut header = header(kind, op.mode);
        let (uid, gid) = (op.uid.to_string(), (op.uid / 2).to_string());
        let mtime = format!("{}.{:09}", op.mtime.0, op.mtime.1);
        let path = if path.is_empty() { "./".to_owned() } else { path.join("/") };
        let target = match &op.action {
            Action::Link(target) => target.join("/"),
            Action::Put(What::Symlink(target)) => target.clone(),
            _ => String::new(),
        };
        let mut records: Vec<(&str, &[u8])> = vec![
            ("uid", uid.as_bytes()),
            ("gid", gid.as_bytes()),
            ("mtime", mtime.as_bytes()),
            ("path", path.as_bytes()),
        ];
        if !target.is_empty() {
            records.push(("linkpath", target.as_bytes()));
        }
        if let Some(value) = &op.xattr {
            records.push(("SCHILY.xattr.security.test", value));
        }
        if let Action::Put(What::Char(major, minor)) = &op.action {
            header.set_device_major(*major).unwrap();
            header.set_device_minor(*minor).unwrap();
        }
        let data = if let Action::Put(what) = &op.action { content(what) } else { Vec::new() };
        archive = archive.pax(&records).raw(header, b"in-pax", &data);
    }
    archive.finish()
}
