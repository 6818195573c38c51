//! The three images: busybox, a small Debian, and that Debian with Python.

use std::{path::Path, process::Command};

use super::{
    Compression, Config, Entry, Image, ImageError, Kind, Layer, Package, members, packages,
    system_layer, zoo,
};

const BUSYBOX: [&str; 1] = ["busybox-static"];
/// bash, coreutils and what they need, and the tools that scripts expect.
const DEBIAN: [&str; 19] = [
    "base-files",
    "base-passwd",
    "bash",
    "coreutils",
    "dash",
    "debianutils",
    "findutils",
    "grep",
    "hostname",
    "libacl1",
    "libattr1",
    "libc6",
    "libgcc-s1",
    "libgmp10",
    "libpcre2-8-0",
    "libselinux1",
    "libtinfo6",
    "ncurses-base",
    "sed",
];
const PYTHON: [&str; 6] = [
    "python3-minimal",
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libexpat1",
    "libssl3",
    "zlib1g",
];

/// An image of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// busybox with every kind of file beside it, in two layers, gzip and Zstandard.
    Busybox,
    /// bash and coreutils in one layer.
    Debian,
    /// The same with a layer of Python.
    Python,
}

impl std::str::FromStr for Name {
    type Err = ImageError;

    fn from_str(name: &str) -> Result<Self, ImageError> {
        match name {
            "busybox" => Ok(Name::Busybox),
            "debian" => Ok(Name::Debian),
            "python" => Ok(Name::Python),
            other => Err(ImageError::Unknown(other.to_owned())),
        }
    }
}

impl Name {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Name::Busybox => "busybox",
            Name::Debian => "debian",
            Name::Python => "python",
        }
    }

    /// The packages that it is made of.
    #[must_use]
    pub fn packages(self) -> Vec<&'static str> {
        match self {
            Name::Busybox => BUSYBOX.to_vec(),
            Name::Debian => DEBIAN.to_vec(),
            Name::Python => [DEBIAN.as_slice(), &PYTHON].concat(),
        }
    }
}

/// Makes an image of these packages, whose files are kept in `downloads`.
///
/// # Errors
/// [`ImageError`].
pub fn build(name: Name, packages: &[Package], downloads: &Path) -> Result<Image, ImageError> {
    let files = packages::download(packages, downloads)?;
    let take = |wanted: &[&str]| -> Result<Vec<Vec<Entry>>, ImageError> {
        let files = packages.iter().zip(&files);
        files
            .filter(|(package, _)| wanted.contains(&package.name.as_str()))
            .map(|(_, file)| members(file))
            .collect()
    };
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let config = |cmd: &str| Config {
        cmd: vec![cmd.to_owned()],
        env: vec![path.to_owned()],
        ..Config::default()
    };
    Ok(match name {
        Name::Busybox => Image {
            layers: vec![
                Layer::new(&busybox_layer(take(&BUSYBOX)?)?, Compression::Gzip),
                Layer::new(&zoo::zoo(), Compression::Zstd),
            ],
            config: config("sh"),
        },
        Name::Debian => Image {
            layers: vec![Layer::new(&system_layer(take(&DEBIAN)?, true)?, Compression::Gzip)],
            config: config("bash"),
        },
        Name::Python => Image {
            layers: vec![
                Layer::new(&system_layer(take(&DEBIAN)?, true)?, Compression::Gzip),
                Layer::new(&system_layer(take(&PYTHON)?, false)?, Compression::Zstd),
            ],
            config: config("python3"),
        },
    })
}

fn busybox_layer(packages: Vec<Vec<Entry>>) -> Result<Vec<Entry>, ImageError> {
    let busybox = packages.into_iter().flatten().find(|entry| entry.path == b"bin/busybox");
    let Some(Entry { kind: Kind::File(program), .. }) = busybox else {
        return Err(ImageError::Missing {
            package: "busybox-static".to_owned(),
            path: "bin/busybox".to_owned(),
        });
    };
    let applets = applets(&program)?;
    let mut entries = vec![Entry::directory("./")];
    for name in [
        "bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "usr", "usr/bin", "usr/sbin",
        "var",
    ] {
        entries.push(Entry::directory(name));
    }
    entries.extend([
        Entry::directory("tmp").mode(0o1777),
        Entry::directory("home"),
        Entry::directory("home/guest").mode(0o700).owner(1000, 1000),
        Entry::file("etc/hosts", ""),
        Entry::file("etc/hostname", ""),
        Entry::file("etc/resolv.conf", ""),
        Entry::file(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/home/guest:/bin/sh\n\
             nobody:x:65534:65534:nobody:/:/bin/false\n",
        ),
        Entry::file("etc/group", "root:x:0:\nguest:x:1000:\nextra:x:1001:guest\nnobody:x:65534:\n"),
        Entry::file("bin/busybox", program).mode(0o755),
    ]);
    for applet in applets.iter().filter(|applet| *applet != "bin/busybox") {
        // Both kinds of link are found in the wild.
        entries.push(if applet.starts_with("bin/") {
            Entry::hard_link(applet, "bin/busybox").mode(0o755)
        } else {
            Entry::symlink(applet, "/bin/busybox")
        });
    }
    entries.extend(zoo::doomed());
    Ok(entries)
}

/// The paths that busybox wants to be called by, without a leading slash.
fn applets(program: &[u8]) -> Result<Vec<String>, ImageError> {
    let directory =
        tempfile::tempdir().map_err(ImageError::at(Path::new("a temporary directory")))?;
    let path = directory.path().join("busybox");
    std::fs::write(&path, program).map_err(ImageError::at(&path))?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, executable).map_err(ImageError::at(&path))?;
    let output = Command::new(&path).arg("--list-full").output().map_err(ImageError::at(&path))?;
    let listed = String::from_utf8_lossy(&output.stdout);
    Ok(listed.lines().map(|line| line.trim_start_matches('/').to_owned()).collect())
}
