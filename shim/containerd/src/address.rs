//! Where a shim listens, and which containers share one.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::FileTypeExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use bulkhead::sandbox::Config;
use rustix::{
    fs::{FlockOperation, Mode, flock},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use sha2::{Digest, Sha256};

use crate::{
    refusal::{Refusal, at},
    root,
};

/// Where these shims have their sockets: a directory of their own below that of all of containerd's shims, which is the same whatever containerd's own
/// state directory is.
const SOCKETS: &str = "/run/containerd/s/bulkhead";
/// Connections that wait for a shim that begins.
const BACKLOG: i32 = 128;
/// The file in the bundle that tells containerd the address.
const ADDRESS: &str = "address";
/// Annotations that name the sandbox of a pod, of containerd's CRI plugin and of CRI-O.
const SANDBOX: [&str; 2] = ["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"];

/// A socket that was there already, or a new one.
#[derive(Debug)]
pub(crate) enum Socket {
    /// A shim listens.
    Served,
    /// For a new shim.
    Fresh(UnixListener),
}

/// The name under which containers share a shim: their pod's sandbox, or their own.
///
/// # Errors
/// A configuration that cannot be read.
pub(crate) fn group(bundle: &Path, id: &str) -> Result<String, Refusal> {
    let config = Config::read(&bundle.join("config.json"))?;
    let named = SANDBOX.iter().find_map(|name| config.spec().annotations.get(*name));
    Ok(named.map_or(id, String::as_str).to_owned())
}

/// The socket's path for one group of a namespace of the containerd at `address`; short enough for a Unix socket's address.
pub(crate) fn path(address: &str, namespace: &str, group: &str) -> PathBuf {
    let name = Path::new(address).join(namespace).join(group);
    let hash = Sha256::digest(name.as_os_str().as_encoded_bytes());
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    Path::new(SOCKETS).join(hash)
}

/// The path in containerd's form.
pub(crate) fn url(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// Whether somebody listens at the path.
pub(crate) fn is_served(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Listens at the path, unless somebody does.
///
/// # Errors
/// A socket that cannot be made.
pub(crate) fn listen(path: &Path) -> Result<Socket, Refusal> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(at("make", parent))?;
    }
    let _lock = lock(path)?;
    if is_served(path) {
        return Ok(Socket::Served);
    }
    remove(path)?;
    sweep(path);
    bind(path).map(|listener| Socket::Fresh(listener.into())).map_err(at("listen at", path))
}

/// containerd runs as the same user, and nobody else is to connect.
fn bind(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file has this mode from its beginning.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Keeps others from listening in the same directory, and from taking a socket for one that was left before it is listened at.
fn lock(path: &Path) -> Result<File, Refusal> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let file = File::open(directory).map_err(at("open", directory))?;
    rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
        .map_err(at("lock", directory))?;
    Ok(file)
}

/// Removes the sockets beside this one that no process has any more: of shims that were killed before containerd knew of them, or after their last answer.
/// With the directory's lock.
fn sweep(path: &Path) {
    // A socket of another type can connect to none of them, and is told whether there is one (unix(7)); whoever listens does not notice.
    let flags = SocketFlags::CLOEXEC;
    let probe = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None);
    let (Ok(probe), Some(Ok(entries))) = (probe, path.parent().map(fs::read_dir)) else { return };
    let sockets =
        entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    for path in sockets.map(|entry| entry.path()) {
        let Ok(address) = SocketAddrUnix::new(&path) else { continue };
        if connect(&probe, &address) == Err(Errno::CONNREFUSED) {
            // Nobody's loss if it stays.
            let _ = remove(&path);
        }
    }
}

/// Tells containerd the address.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn note(bundle: &Path, path: &Path) -> Result<(), Refusal> {
    root::replace(bundle, ADDRESS, url(path).as_bytes())
}

/// Removes the socket of a bundle whose shim is gone, and of others; one that is served stays.
///
/// # Errors
/// A file that cannot be removed.
pub(crate) fn clear(bundle: &Path) -> Result<(), Refusal> {
    let Ok(text) = fs::read_to_string(bundle.join(ADDRESS)) else { return Ok(()) };
    let Some(path) = text.trim().strip_prefix("unix://").map(Path::new) else { return Ok(()) };
    if path.starts_with(SOCKETS) { abandon(path) } else { Ok(()) }
}

/// Removes a socket at which nobody listens.
///
/// # Errors
/// A file that cannot be removed.
pub(crate) fn abandon(path: &Path) -> Result<(), Refusal> {
    if !path.exists() {
        return Ok(());
    }
    let _lock = lock(path)?;
    sweep(path);
    if is_served(path) { Ok(()) } else { remove(path) }
}

/// Removes a file that may be gone.
pub(crate) fn remove(path: &Path) -> Result<(), Refusal> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, thread};

    use super::*;

    #[test]
    fn the_path_is_containerds() {
        // As containerd's own shims compute it: the hash of address/namespace/group.
        let path = path("/run/containerd/containerd.sock", "default", "c1");
        let hash = Sha256::digest("/run/containerd/containerd.sock/default/c1");
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(path, Path::new("/run/containerd/s/bulkhead").join(hash));
        SocketAddrUnix::new(&path).unwrap();
    }

    #[test]
    fn whoever_listens_next_removes_the_sockets_that_nobody_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let bound = |name: &str| {
            let socket =
                socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                    .unwrap();
            let address = SocketAddrUnix::new(path(name)).unwrap();
            rustix::net::bind(&socket, &address).unwrap();
            socket
        };
        // One is about to listen, and one to be taken.
        let (begins, left) = (bound("begins"), bound("left"));
        let Socket::Fresh(serves) = listen(&path("serves")).unwrap() else { panic!("it is new") };
        fs::write(path("file"), "").unwrap();
        assert!(path("left").exists());
        drop(left);
        // A descriptor may live a moment longer in a child of another test's thread.
        for number in 0.. {
            let name = format!("next{number}");
            let Socket::Fresh(next) = listen(&path(&name)).unwrap() else { panic!("it is new") };
            drop(next);
            if !path("left").exists() {
                break;
            }
            thread::yield_now();
        }
        assert!(["begins", "serves", "file"].iter().all(|name| path(name).exists()));
        assert!(matches!(listen(&path("serves")).unwrap(), Socket::Served));
        drop((begins, serves));
    }

    #[test]
    fn a_socket_is_shared_and_one_that_was_left_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let Socket::Fresh(first) = listen(&path).unwrap() else { panic!("it is new") };
        assert!(matches!(listen(&path).unwrap(), Socket::Served));
        // Closed at once for all: a descriptor may live a moment longer in a child of another test's thread.
        rustix::net::shutdown(&first, rustix::net::Shutdown::Both).unwrap();
        drop(first);
        let Socket::Fresh(second) = listen(&path).unwrap() else { panic!("nobody listens") };
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!((fs::read_dir(dir.path()).unwrap().count(), mode & 0o777), (1, 0o600));
        abandon(&path).unwrap();
        assert!(path.exists());
        rustix::net::shutdown(&second, rustix::net::Shutdown::Both).unwrap();
        abandon(&path).unwrap();
        assert!(!path.exists());
        abandon(&path).unwrap();
    }

    #[test]
    fn one_of_many_gets_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for _ in 0..20 {
            let fresh = thread::scope(|scope| {
                let all: Vec<_> = (0..8).map(|_| scope.spawn(|| listen(&path).unwrap())).collect();
                let all: Vec<_> = all.into_iter().map(|one| one.join().unwrap()).collect();
                all.into_iter().filter_map(|socket| match socket {
                    Socket::Fresh(listener) => Some(listener),
                    Socket::Served => None,
                })
            });
            let fresh: Vec<_> = fresh.collect();
            assert_eq!(fresh.len(), 1);
            rustix::net::shutdown(&fresh[0], rustix::net::Shutdown::Both).unwrap();
        }
    }

    #[test]
    fn containers_of_a_pod_share_a_shim() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(dir.path().join("config.json"), text).unwrap();
        write(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#);
        assert_eq!(group(dir.path(), "c").unwrap(), "pod");
        write("{}");
        assert_eq!(group(dir.path(), "c").unwrap(), "c");
        write("{");
        assert!(group(dir.path(), "c").is_err());
    }
}
