//! What the administrator and the client want of a runtime: the options that containerd sends, and the file that they name.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use bulkhead::{
    choice::{self, Choice},
    sandbox::Isolation,
};
use containerd_shim_protos::{
    protobuf::{CodedInputStream, Message, well_known_types::any::Any},
    shim::oci,
};
use serde::Deserialize;

use crate::refusal::{Refusal, at};

/// Where the states of containers are, by namespace.
const ROOT: &str = "/run/bulkhead/containerd";
/// The largest file of options.
const MAX_FILE: u64 = 1 << 20;
/// The handler whose containers run on the host's kernel.
const HOST_PROGRAM: &str = "containerd-shim-bulkhead-host-v2";
/// runc's options: what docker, nerdctl and `ctr` send.
const RUNC: &str = "containerd.runc.v1.Options";
/// What `ctr run --no-pivot` and `--uidmap` of containerd 1.x send to runtimes that are not runc.
const CREATE: &str = "containerd.linux.runc.CreateOptions";
/// The CRI plugin's for runtimes that it does not know.
const RUNTIME: &str = "runtimeoptions.v1.Options";

/// What was asked for.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// What isolates a container, and its template.
    pub(crate) choice: Choice,
    /// Where the states of all namespaces are; absent: [`ROOT`].
    root: Option<PathBuf>,
    /// The shim's own cgroup; empty: where containerd is.
    pub(crate) shim_cgroup: String,
    pub(crate) no_pivot: bool,
    pub(crate) no_new_keyring: bool,
    pub(crate) systemd_cgroup: bool,
}

/// The file that `ConfigPath` names.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    isolation: Option<String>,
    template: Option<String>,
    tenant: Option<String>,
    root: Option<PathBuf>,
}

impl Options {
    /// Of what containerd sent, and of the name by which the program is called.
    ///
    /// # Errors
    /// Options of an unknown kind, or a file that cannot be used.
    pub(crate) fn of(sent: Option<&Any>, program: &Path) -> Result<Self, Refusal> {
        let mut options = match sent {
            Some(any) if any.type_url.ends_with(RUNC) => Self::of_runc(&any.value)?,
            Some(any) if any.type_url.ends_with(CREATE) => Self::of_create(&any.value)?,
            Some(any) if any.type_url.ends_with(RUNTIME) => Self::of_runtime(&any.value)?,
            Some(any) if !any.type_url.is_empty() => {
                let name = &any.type_url;
                return Err(Refusal::invalid(format!(
                    "options of type {name}: {RUNC} or {RUNTIME} are wanted"
                )));
            }
            _ => Self::default(),
        };
        if program.file_name().is_some_and(|name| name == HOST_PROGRAM) {
            options.choice.isolation = options.choice.isolation.or(Some(Isolation::Host));
        }
        Ok(options)
    }

    fn of_runc(bytes: &[u8]) -> Result<Self, Refusal> {
        let sent = oci::Options::parse_from_bytes(bytes)
            .map_err(|error| Refusal::invalid(format!("options of type {RUNC}: {error}")))?;
        Ok(Self {
            root: (!sent.root.is_empty()).then(|| PathBuf::from(sent.root)),
            shim_cgroup: sent.shim_cgroup,
            no_pivot: sent.no_pivot_root,
            no_new_keyring: sent.no_new_keyring,
            systemd_cgroup: sent.systemd_cgroup,
            ..Self::default()
        })
    }

    fn of_create(bytes: &[u8]) -> Result<Self, Refusal> {
        create_options(bytes)
            .map_err(|error| Refusal::invalid(format!("options of type {CREATE}: {error}")))
    }

    fn of_runtime(bytes: &[u8]) -> Result<Self, Refusal> {
        let bad = |error| Refusal::invalid(format!("options of type {RUNTIME}: {error}"));
        let (path, body) = runtime_options(bytes).map_err(bad)?;
        if !body.is_empty() {
            let text = String::from_utf8(body)
                .map_err(|_| Refusal::invalid(format!("options of type {RUNTIME}: not text")))?;
            return Self::of_file(&text, "the runtime's options");
        }
        if path.is_empty() {
            return Ok(Self::default());
        }
        let mut text = String::new();
        fs::File::open(&path)
            .and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
            .map_err(at("read the runtime's options", Path::new(&path)))?;
        Self::of_file(&text, &path)
    }

    fn of_file(text: &str, what: &str) -> Result<Self, Refusal> {
        let file: File = toml::from_str(text).map_err(|error| {
            let line = error.to_string().replace('\n', " ");
            Refusal::invalid(format!("{what}: {line}"))
        })?;
        let isolation = file.isolation.map(|name| choice::isolation(&name, "isolation"));
        let template = file.template.map(|name| choice::mode(&name, "template"));
        Ok(Self {
            choice: Choice {
                isolation: isolation.transpose()?,
                template: template.transpose()?,
                tenant: file.tenant,
            },
            root: file.root,
            ..Self::default()
        })
    }

    /// Where the states of a namespace's containers are.
    pub(crate) fn root(&self, namespace: &str) -> PathBuf {
        self.root.as_deref().unwrap_or(Path::new(ROOT)).join(namespace)
    }
}

/// What means something here of `containerd.linux.runc.CreateOptions` (containerd 1.x, `runtime/linux/runctypes/runc.proto`).
fn create_options(bytes: &[u8]) -> Result<Options, containerd_shim_protos::protobuf::Error> {
    /// Field numbers with the wire types of numbers and text.
    const NO_PIVOT_ROOT: u32 = 1 << 3;
    const NO_NEW_KEYRING: u32 = 8 << 3;
    const SHIM_CGROUP: u32 = 9 << 3 | 2;

    let mut input = CodedInputStream::from_bytes(bytes);
    let mut options = Options::default();
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            NO_PIVOT_ROOT => options.no_pivot = input.read_bool()?,
            NO_NEW_KEYRING => options.no_new_keyring = input.read_bool()?,
            SHIM_CGROUP => options.shim_cgroup = input.read_string()?,
            other => skip(&mut input, other)?,
        }
    }
    Ok(options)
}

/// `config_path` and `config_body` of `runtimeoptions.v1.Options` (containerd, `pkg/runtimeoptions/v1/api.proto`).
fn runtime_options(
    bytes: &[u8],
) -> Result<(String, Vec<u8>), containerd_shim_protos::protobuf::Error> {
    /// Field numbers with the wire type of bytes and text, as they are in a message.
    const CONFIG_PATH: u32 = 2 << 3 | 2;
    const CONFIG_BODY: u32 = 3 << 3 | 2;

    let mut input = CodedInputStream::from_bytes(bytes);
    let (mut path, mut body) = (String::new(), Vec::new());
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            CONFIG_PATH => path = input.read_string()?,
            CONFIG_BODY => body = input.read_bytes()?,
            other => skip(&mut input, other)?,
        }
    }
    Ok((path, body))
}

fn skip(
    input: &mut CodedInputStream<'_>,
    tag: u32,
) -> Result<(), containerd_shim_protos::protobuf::Error> {
    match tag & 7 {
        0 => input.read_raw_varint64().map(drop),
        1 => input.read_fixed64().map(drop),
        5 => input.read_fixed32().map(drop),
        _ => input.read_bytes().map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(name: &str, value: Vec<u8>) -> Any {
        Any { type_url: name.into(), value, ..Any::default() }
    }

    /// A message with text fields.
    fn message(fields: &[(u8, &str)]) -> Vec<u8> {
        let field = |(number, text): &(u8, &str)| {
            [&[number << 3 | 2, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
        };
        fields.iter().flat_map(field).collect()
    }

    fn of(any: &Any) -> Result<Options, Refusal> {
        Options::of(Some(any), Path::new("/bin/containerd-shim-bulkhead-v2"))
    }

    #[test]
    fn runcs_options_are_taken() {
        let sent = oci::Options {
            root: "/r".into(),
            binary_name: "/bin/runc".into(),
            shim_cgroup: "/s".into(),
            no_pivot_root: true,
            ..Default::default()
        };
        let options = of(&any(RUNC, sent.write_to_bytes().unwrap())).unwrap();
        assert_eq!(options.root("ns"), Path::new("/r/ns"));
        assert_eq!((options.shim_cgroup.as_str(), options.no_pivot), ("/s", true));
        assert_eq!(Options::default().root("ns"), Path::new("/run/bulkhead/containerd/ns"));
    }

    #[test]
    fn what_ctr_sends_is_taken() {
        // `--no-pivot --uidmap 0:1000:1`, with a cgroup of the shim's own and two fields that mean nothing here.
        let sent =
            [&[1 << 3, 1, 8 << 3, 1, 10 << 3, 0xe8, 7][..], &message(&[(9, "/s"), (7, "x")])];
        let options = of(&any(CREATE, sent.concat())).unwrap();
        assert_eq!(options.shim_cgroup, "/s");
        assert!(options.no_pivot && options.no_new_keyring && !options.systemd_cgroup);
        assert_eq!(options.root("n"), Path::new(ROOT).join("n"));
        let options = of(&any(CREATE, vec![10 << 3, 0xe8, 7])).unwrap();
        assert!(!options.no_pivot && !options.no_new_keyring && options.shim_cgroup.is_empty());
    }

    #[test]
    fn a_file_says_more() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("options.toml");
        let text = "isolation = \"host\"\ntemplate = \"never\"\ntenant = \"t\"\nroot = \"/r\"\n";
        fs::write(&file, text).unwrap();
        let sent = message(&[(1, "x.y.Options"), (2, file.to_str().unwrap())]);
        let options = of(&any(&format!("types.example/{RUNTIME}"), sent)).unwrap();
        assert_eq!(options.choice.isolation, Some(Isolation::Host));
        assert_eq!(options.choice.tenant.as_deref(), Some("t"));
        assert_eq!(options.root("n"), Path::new("/r/n"));
        let options = of(&any(RUNTIME, message(&[(3, "template = \"require\"")]))).unwrap();
        assert_eq!(options.choice.template.map(|mode| mode.name()), Some("require"));
    }

    #[test]
    fn the_programs_name_chooses_the_host() {
        let program = Path::new("/usr/bin").join(HOST_PROGRAM);
        let options = Options::of(None, &program).unwrap();
        assert_eq!(options.choice.isolation, Some(Isolation::Host));
        let vm = any(RUNTIME, message(&[(3, "isolation = \"vm\"")]));
        let options = Options::of(Some(&vm), &program).unwrap();
        assert_eq!(options.choice.isolation, Some(Isolation::Vm));
    }

    /// Whatever is sent is taken or refused with a line: each message with each of its bytes changed, cut short, and doubled.
    #[test]
    fn whatever_is_sent_is_answered() {
        let sent = oci::Options { root: "/r".into(), no_pivot_root: true, ..Default::default() };
        let body = "isolation = \"vm\"\ntemplate = \"never\"";
        for (name, whole) in [
            (RUNC, sent.write_to_bytes().unwrap()),
            (CREATE, [vec![1 << 3, 1, 10 << 3, 7], message(&[(9, "/s")])].concat()),
            (RUNTIME, message(&[(1, "x"), (2, ""), (3, body), (9, "y")])),
        ] {
            let answered = |bytes: Vec<u8>| {
                if let Err(refusal) = of(&any(name, bytes)) {
                    assert!(!refusal.to_string().contains('\n'), "{refusal}");
                }
            };
            for at in 0..whole.len() {
                answered(whole[..at].to_vec());
                answered([&whole[..], &whole[at..]].concat());
                for value in 0..=u8::MAX {
                    let mut changed = whole.clone();
                    changed[at] = value;
                    answered(changed);
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        for (sent, named) in [
            (any("x.Options", Vec::new()), "x.Options"),
            (any(RUNC, vec![0xff]), RUNC),
            (any(CREATE, vec![9 << 3 | 2, 0x7f]), CREATE),
            (any(RUNTIME, vec![0x12, 0x7f]), RUNTIME),
            (any(RUNTIME, message(&[(2, "/does/not/exist")])), "/does/not/exist"),
            (any(RUNTIME, message(&[(3, "moon = 1")])), "moon"),
            (any(RUNTIME, message(&[(3, "isolation = \"x\"")])), "\"x\""),
        ] {
            let message = of(&sent).unwrap_err().to_string();
            assert!(message.contains(named) && !message.contains('\n'), "{message}");
        }
    }
}
