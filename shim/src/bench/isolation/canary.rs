//! Things that the bench puts on the host for scouts to look for. They go when this is dropped; the process and the socket go with the bench
//! however it ends, and the key after an hour.

use std::{
    ffi::CString,
    fs, io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use bulkhead_scout::{Handle, Hints};

use crate::container::id::new_id;

/// keyctl(2).
const USER_KEYRING: usize = -4_i32 as usize;
const SET_PERMISSIONS: usize = 5;
const UNLINK: usize = 9;
const SET_TIMEOUT: usize = 15;
/// View, read, write, search, link for the possessor and the user; and changing attributes for the possessor.
const PERMISSIONS: usize = 0x3f1f_0000;
/// Seconds after which a key is gone by itself.
const TIMEOUT: usize = 3600;

/// What was put on the host.
#[derive(Debug)]
pub(super) struct Canaries {
    nonce: String,
    file: PathBuf,
    process: Child,
    _socket: UnixListener,
    key: Option<Key>,
}

/// A key in the user's keyring.
#[derive(Debug)]
struct Key(usize);

impl Canaries {
    /// Puts them there; the file goes into `directory`, and `scout` is the process.
    ///
    /// # Errors
    /// Something that cannot be made. A kernel without keys has no key.
    pub(super) fn plant(scout: &Path, directory: &Path) -> io::Result<Self> {
        let nonce = new_id().map_err(io::Error::other)?;
        let file = directory.join("canary");
        fs::write(&file, &nonce)?;
        let address = SocketAddr::from_abstract_name(format!("bulkhead-bench-{nonce}"))?;
        let socket = UnixListener::bind_addr(&address)?;
        let process = Command::new(scout)
            .args(["wait", &nonce])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let key = Key::add(&nonce).ok();
        Ok(Self { nonce, file, process, _socket: socket, key })
    }

    /// There is a key.
    pub(super) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// What a scout is told. `paths`: of the host, that a list of mounts might name.
    pub(super) fn hints(&self, paths: &[&Path]) -> Hints {
        Hints {
            nonce: self.nonce.clone(),
            file: self.file.to_string_lossy().into_owned(),
            handle: handle(&self.file).ok(),
            socket: format!("bulkhead-bench-{}", self.nonce),
            paths: paths.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
            block: block_device(),
        }
    }
}

impl Drop for Canaries {
    fn drop(&mut self) {
        // It may have been killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.file);
    }
}

impl Key {
    fn add(name: &str) -> io::Result<Self> {
        let name = CString::new(name)?;
        let (kind, text) = (c"user", c"canary");
        let arguments = [
            kind.as_ptr() as usize,
            name.as_ptr() as usize,
            text.as_ptr() as usize,
            text.to_bytes().len(),
            USER_KEYRING,
        ];
        let key = Self(call(libc::SYS_add_key, arguments)?);
        // Others of the user find it only with this; without the right to give it, the row says that nobody did.
        let _ = call(libc::SYS_keyctl, [SET_TIMEOUT, key.0, TIMEOUT, 0, 0]);
        let _ = call(libc::SYS_keyctl, [SET_PERMISSIONS, key.0, PERMISSIONS, 0, 0]);
        Ok(key)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // It has its time-out.
        let _ = call(libc::SYS_keyctl, [UNLINK, self.0, USER_KEYRING, 0, 0]);
    }
}

/// add_key(2) and keyctl(2), for which no library is here.
fn call(number: libc::c_long, [a, b, c, d, e]: [usize; 5]) -> io::Result<usize> {
    // SAFETY: strings that are among the arguments live in the caller until it returns; nothing is written.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The file's number in its file system.
fn handle(path: &Path) -> io::Result<Handle> {
    /// MAX_HANDLE_SZ, of which the first word of the handle tells.
    const MOST: usize = 128;
    let path = CString::new(path.as_os_str().as_bytes())?;
    // `struct file_handle`: its length, its type, its bytes.
    let mut raw = [0_u32; 2 + MOST / 4];
    raw[0] = 128;
    let mut mount = 0_i32;
    // SAFETY: the path is a string, and there is room for as many bytes as the handle says.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            raw.as_mut_ptr(),
            &raw mut mount,
            0,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes = raw.iter().skip(2).flat_map(|word| word.to_ne_bytes());
    let length = usize::try_from(raw[0]).unwrap_or(0).min(MOST);
    Ok(Handle { kind: raw[1].cast_signed(), bytes: bytes.take(length).collect() })
}

/// The first disk of the host that is one: `MAJOR:MINOR` in its `dev`.
fn block_device() -> Option<(u32, u32)> {
    let mut names: Vec<_> =
        fs::read_dir("/sys/class/block").ok()?.flatten().map(|entry| entry.path()).collect();
    names.sort();
    let made_up = ["loop", "ram", "zram", "dm-", "md", "nbd", "sr"];
    names.into_iter().find_map(|path| {
        let name = path.file_name()?.to_str()?;
        if made_up.iter().any(|prefix| name.starts_with(prefix)) {
            return None;
        }
        let numbers = fs::read_to_string(path.join("dev")).ok()?;
        let (major, minor) = numbers.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_the_same_each_time_and_another_for_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
        fs::write(&one, "").unwrap();
        fs::write(&other, "").unwrap();
        let first = handle(&one).unwrap();
        assert!(!first.bytes.is_empty());
        assert_eq!(first, handle(&one).unwrap());
        assert_ne!(first, handle(&other).unwrap());
        assert!(handle(&dir.path().join("none")).is_err());
    }

    #[test]
    fn what_was_planted_goes_again() {
        let dir = tempfile::tempdir().unwrap();
        // Waits for its input as the scout does.
        let canaries = Canaries::plant(Path::new("/bin/cat"), dir.path()).unwrap();
        let hints = canaries.hints(&[dir.path()]);
        assert_eq!(fs::read_to_string(&hints.file).unwrap(), hints.nonce);
        let address = SocketAddr::from_abstract_name(&hints.socket).unwrap();
        assert!(std::os::unix::net::UnixStream::connect_addr(&address).is_ok());
        drop(canaries);
        assert!(!Path::new(&hints.file).exists());
        // A child of another test has the socket, too, until it runs its program.
        while std::os::unix::net::UnixStream::connect_addr(&address).is_ok() {
            std::thread::yield_now();
        }
    }
}
