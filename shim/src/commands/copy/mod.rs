//! `bulkhead cp`: between a container and this host, as a tar archive in between.
//!
//! The root of a container on this host's kernel is opened here, and no path is resolved out of it. In a microVM the image's own `tar` does that side.

mod guest;
mod pack;
mod tree;
mod unpack;

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
};

use rustix::pipe::{PipeFlags, pipe_with};

use self::{
    guest::{Guest, finish},
    pack::pack,
    tree::{Kind, Tree},
    unpack::unpack,
};
use super::{
    CommandError,
    context::{Context, warn},
};
use crate::{
    cli::CpArgs,
    container::{Place, Status, id::short, registry::Guard, root},
    settings::Isolation,
};

/// Who owns a copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owners {
    /// One user and group for all; absent: those of the originals.
    all: Option<(u32, u32)>,
}

impl Owners {
    pub(super) fn of(self, uid: u32, gid: u32) -> (u32, u32) {
        self.all.unwrap_or((uid, gid))
    }
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    /// A container and a path in it.
    Container(&'a str, &'a Path),
    /// A path of this host.
    Here(&'a Path),
    /// A tar archive on a standard stream.
    Archive,
}

impl<'a> Side<'a> {
    fn parse(text: &'a str) -> Self {
        if text == "-" {
            return Self::Archive;
        }
        match text.split_once(':') {
            // As docker has it: a path with a colon is told from a container by a leading ./ or /.
            Some((name, path)) if !text.starts_with(['/', '.']) => {
                Self::Container(name, Path::new(path))
            }
            _ => Self::Here(Path::new(text)),
        }
    }
}

/// A container's files, reached in one way or another.
#[derive(Debug)]
enum Files {
    /// Its root is open here.
    Tree(Tree),
    /// Programs in it do the work.
    Guest(Box<Guest>),
}

/// Copies.
pub(super) fn cp(args: &CpArgs) -> Result<u8, CommandError> {
    let usage = |text: &str| Err(CommandError::Usage(text.into()));
    match (Side::parse(&args.source), Side::parse(&args.destination)) {
        (Side::Container(..), Side::Container(..)) => {
            usage("copying between containers is not supported; copy to this host in between")
        }
        (Side::Container(name, path), to) => {
            let context = Context::open()?;
            let (files, _guard) = open(&context, name)?;
            from_container(&files, &absolute(path), to, args)
        }
        (from, Side::Container(name, path)) => {
            let context = Context::open()?;
            let (files, _guard) = open(&context, name)?;
            to_container(&files, from, &absolute(path), args)
        }
        _ => usage("one of the two must be CONTAINER:PATH"),
    }
}

/// A container's path, which counts from its root; a `/.` at its end stays.
fn absolute(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}

/// Opens a container's files. One that does not run is not started until the guard is dropped.
fn open(context: &Context, name: &str) -> Result<(Files, Option<Guard>), CommandError> {
    let place = context.find(name)?;
    let isolation = place.definition()?.isolation;
    let running = context.settled(&place)?.status == Status::Running;
    match (isolation, running) {
        (Isolation::Host, true) => Ok((Files::Tree(running_root(&place)?), None)),
        (Isolation::Host, false) => {
            let guard = context.registry.guard()?;
            let files = stopped_root(context, &guard, &place)?;
            Ok((Files::Tree(files), Some(guard)))
        }
        (Isolation::Vm, true) => {
            let config = place.config()?;
            let container = context.live(&place, name)?;
            Ok((Files::Guest(Box::new(Guest::new(container, &config))), None))
        }
        (Isolation::Vm, false) => Err(CommandError::Unsupported(format!(
            "container {name} does not run, and the files of a microVM can only be reached while it does: start it first (bulkhead start {name})"
        ))),
    }
}

fn file_error(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> CommandError {
    let what = what.to_string();
    move |source| CommandError::File { what, source }
}

fn running_root(place: &Place) -> Result<Tree, CommandError> {
    let pid = place.state()?.pid.unwrap_or(0);
    let path = format!("/proc/{pid}/root");
    let root = File::open(&path)
        .map_err(file_error(format!("the root of container {}", short(&place.id))))?;
    // The pid was that of the container when its root was open if it still is.
    if !place.state()?.is_kept() {
        return Err(super::context::not_running(place));
    }
    Ok(Tree::container(root.into()))
}

fn stopped_root(context: &Context, guard: &Guard, place: &Place) -> Result<Tree, CommandError> {
    if context.registry.settle(guard, place)?.is_active() {
        return Err(CommandError::State(format!(
            "container {} was started just now; try again",
            short(&place.id)
        )));
    }
    let store = context.store()?;
    let image = store.get(&place.definition()?.image)?;
    let path =
        root::mount(&image, &store, place.data()).map_err(crate::keeper::KeeperError::from)?;
    let root = File::open(&path).map_err(file_error(path.display()))?;
    Ok(Tree::container(OwnedFd::from(root)))
}

/// Whether a path's text asks for what is in a directory and not for the directory: it ends with `/.`.
fn means_content(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/.")
}

/// Whether a path's text says that it is a directory.
fn means_directory(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/") || means_content(path)
}

fn from_container(
    files: &Files,
    path: &Path,
    to: Side<'_>,
    args: &CpArgs,
) -> Result<u8, CommandError> {
    let source = files.kind(path, args.follow_link)?.ok_or_else(|| not_found(path))?;
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let name = path.file_name().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let Side::Here(to) = to else {
        if io::IsTerminal::is_terminal(&io::stdout()) {
            let message =
                "the archive is not written to a terminal; send standard output somewhere else";
            return Err(CommandError::Usage(message.into()));
        }
        let owners = Owners { all: None };
        let left_out = files.send(path, &name, args.follow_link, owners, |mut from| {
            let copied = io::copy(&mut from, &mut io::stdout());
            copied.map(|_| 0).map_err(CommandError::Output)
        })?;
        return Ok(done(left_out));
    };
    let here = Tree::host().map_err(file_error("/"))?;
    let full = std::path::absolute(to).map_err(file_error(to.display()))?;
    let target = target(
        &here.kind(&full, true).map_err(file_error(to.display()))?,
        source,
        path,
        &full,
        to,
    )?;
    let (directory, top) = target;
    let owners = Owners { all: (!args.archive).then_some(own) };
    let tree = Tree::destination(&directory).map_err(file_error(directory.display()))?;
    let left_out = files.send(path, &name, args.follow_link, Owners { all: None }, |from| {
        unpack(&tree, Path::new(""), Some(&top), owners, from).map_err(file_error(to.display()))
    })?;
    Ok(done(left_out))
}

fn to_container(
    files: &Files,
    from: Side<'_>,
    path: &Path,
    args: &CpArgs,
) -> Result<u8, CommandError> {
    let found = files.kind(path, true)?;
    let Side::Here(source) = from else {
        return match found {
            Some(Kind::Directory) => {
                let left_out = files.receive(path, |mut to| {
                    let copied = io::copy(&mut io::stdin(), &mut to);
                    copied.map(|_| 0).map_err(file_error("standard input"))
                })?;
                Ok(done(left_out))
            }
            Some(Kind::Other) => Err(CommandError::Usage(format!(
                "{}: an archive goes into a directory",
                path.display()
            ))),
            None => Err(not_found(path)),
        };
    };
    let here = Tree::host().map_err(file_error("/"))?;
    let full = std::path::absolute(source).map_err(file_error(source.display()))?;
    let kind = here.kind(&full, args.follow_link).map_err(file_error(source.display()))?;
    let kind = kind.ok_or_else(|| not_found(source))?;
    let (directory, top) = target(&found, kind, source, path, path)?;
    if files.kind(&directory, true)? != Some(Kind::Directory) {
        return Err(not_found(&directory));
    }
    let owners = Owners { all: (!args.archive).then_some((0, 0)) };
    let left_out = files.receive(&directory, |to| {
        pack(&here, &full, &top, args.follow_link, owners, to).map_err(file_error(source.display()))
    })?;
    Ok(done(left_out))
}

/// Where a copy goes and how it is called there: docker's rules. `source_text` and `text` are the paths as they were written.
fn target(
    found: &Option<Kind>,
    source: Kind,
    source_text: &Path,
    path: &Path,
    text: &Path,
) -> Result<(PathBuf, PathBuf), CommandError> {
    let refused = |why: &str| Err(CommandError::Usage(format!("{}: {why}", text.display())));
    let parent = || path.parent().unwrap_or(Path::new("/")).to_owned();
    let own_name = || path.file_name().unwrap_or(OsStr::new(".")).into();
    match (found, source) {
        (Some(Kind::Directory), Kind::Directory) if means_content(source_text) => {
            Ok((path.to_owned(), PathBuf::new()))
        }
        (Some(Kind::Directory), _) => {
            let name = source_text.file_name().unwrap_or(OsStr::new(""));
            Ok((path.to_owned(), name.into()))
        }
        (Some(Kind::Other), Kind::Directory) => {
            refused("a directory cannot take the place of a file")
        }
        (Some(Kind::Other), Kind::Other) if means_directory(text) => {
            refused("it is not a directory")
        }
        (None, Kind::Other) if means_directory(text) => refused("there is no such directory"),
        (Some(Kind::Other) | None, _) => Ok((parent(), own_name())),
    }
}

fn not_found(path: &Path) -> CommandError {
    CommandError::State(format!("Could not find the file {}", path.display()))
}

/// Runs both sides with a pipe in between. Of two errors, the sink's says more.
fn transfer(
    source: impl FnOnce(File) -> Result<u64, CommandError> + Send,
    sink: impl FnOnce(File) -> Result<u64, CommandError>,
) -> Result<u64, CommandError> {
    let (from, to) = pipe_with(PipeFlags::CLOEXEC)
        .map_err(|error| file_error("cannot make a pipe")(error.into()))?;
    thread::scope(|scope| {
        let packing = scope.spawn(|| source(to.into()));
        let unpacked = sink(from.into());
        let packed = packing.join().unwrap_or(Ok(0));
        Ok(unpacked? + packed?)
    })
}

/// The exit code, after saying what was left out.
fn done(left_out: u64) -> u8 {
    if left_out == 0 {
        return 0;
    }
    warn(&format!("{left_out} devices, sockets or entries that lead elsewhere were left out"));
    1
}

impl Files {
    fn kind(&self, path: &Path, follow: bool) -> Result<Option<Kind>, CommandError> {
        match self {
            Self::Tree(tree) => tree.kind(path, follow).map_err(file_error(path.display())),
            Self::Guest(guest) => guest.kind(path, follow),
        }
    }

    /// Packs what `path` leads to and gives the archive to `sink`. Returns how much was left out.
    fn send(
        &self,
        path: &Path,
        name: &Path,
        follow: bool,
        owners: Owners,
        sink: impl FnOnce(File) -> Result<u64, CommandError>,
    ) -> Result<u64, CommandError> {
        let follow = follow || means_directory(path);
        match self {
            Self::Tree(tree) => transfer(
                |out| {
                    pack(tree, path, name, follow, owners, out).map_err(file_error(path.display()))
                },
                sink,
            ),
            Self::Guest(guest) => {
                let (from, pid) = guest.pack(path, follow)?;
                let left_out = sink(from)?;
                finish(pid)?;
                Ok(left_out)
            }
        }
    }

    /// Unpacks into a directory the archive that `source` makes. Returns how much was left out.
    fn receive(
        &self,
        directory: &Path,
        source: impl FnOnce(File) -> Result<u64, CommandError> + Send,
    ) -> Result<u64, CommandError> {
        match self {
            Self::Tree(tree) => transfer(source, |from| {
                unpack(tree, directory, None, Owners { all: None }, from)
                    .map_err(file_error(directory.display()))
            }),
            Self::Guest(guest) => {
                let (to, pid) = guest.unpack(directory)?;
                let left_out = source(to);
                // A tar that failed takes no more, and its code says why.
                finish(pid)?;
                left_out
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_as_docker_does() {
        assert_eq!(Side::parse("-"), Side::Archive);
        assert_eq!(Side::parse("web:/etc"), Side::Container("web", Path::new("/etc")));
        assert_eq!(Side::parse("web:etc"), Side::Container("web", Path::new("etc")));
        for here in ["file", "/a:b", "./a:b", "../x"] {
            assert_eq!(Side::parse(here), Side::Here(Path::new(here)), "{here}");
        }
    }

    #[test]
    fn copies_go_where_docker_puts_them() {
        let go = |found, source, from: &str, to: &str| {
            target(&found, source, Path::new(from), Path::new(to), Path::new(to)).map(
                |(directory, top)| (directory.display().to_string(), top.display().to_string()),
            )
        };
        let (dir, file) = (Kind::Directory, Kind::Other);
        let is = |directory: &str, top: &str| (directory.to_owned(), top.to_owned());
        assert_eq!(go(Some(dir), file, "/a/f", "/to").unwrap(), is("/to", "f"));
        assert_eq!(go(Some(dir), dir, "/a/d", "/to").unwrap(), is("/to", "d"));
        assert_eq!(go(Some(dir), dir, "/a/d/.", "/to").unwrap(), is("/to", ""));
        assert_eq!(go(Some(file), file, "/a/f", "/to/g").unwrap(), is("/to", "g"));
        assert_eq!(go(None, file, "/a/f", "/to/g").unwrap(), is("/to", "g"));
        assert_eq!(go(None, dir, "/a/d", "/to/g").unwrap(), is("/to", "g"));
        assert!(go(None, file, "/a/f", "/to/g/").is_err());
        assert!(go(Some(file), dir, "/a/d", "/to/g").is_err());
    }
}
