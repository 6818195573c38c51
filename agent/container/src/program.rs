//! The program that a process executes: its arguments and environment in the kernel's form, and where it is.

use std::{
    ffi::{CString, c_char},
    ptr,
};

use rustix::{
    fs::{Access, AtFlags, CWD, FileType, StatxFlags},
    io::Errno,
};

use crate::{
    error::{Error, at},
    passwd, path,
    path::PointKind,
    spec::Process,
    sys,
};

/// Where a program is looked for when the environment has no `PATH` (execvp(3)).
const DEFAULT_PATH: &str = "/bin:/usr/bin";
/// `MAX_ARG_STRLEN`: 32 pages.
const MAX_STRING: usize = 128 << 10;

/// A program to execute.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    cwd: String,
    search: String,
    has_home: bool,
    argv: Vec<CString>,
    envp: Vec<CString>,
    file: CString,
    argv_pointers: Vec<*const c_char>,
    envp_pointers: Vec<*const c_char>,
}

impl Program {
    /// # Errors
    /// [`Error::Invalid`].
    pub(crate) fn new(process: &Process) -> Result<Self, Error> {
        let Some(name) = process.args.first() else {
            return Err(Error::invalid("process.args", "[]", "a program is wanted"));
        };
        if !process.cwd.starts_with('/') {
            return Err(Error::invalid("process.cwd", &process.cwd, "an absolute path is wanted"));
        }
        // The last one of a name counts, as with runc.
        let value = |name: &str| {
            process.env.iter().rev().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
        };
        Ok(Self {
            name: name.clone(),
            cwd: process.cwd.clone(),
            search: value("PATH").unwrap_or(DEFAULT_PATH).to_owned(),
            has_home: value("HOME").is_some_and(|home| !home.is_empty()),
            argv: strings("process.args", &process.args)?,
            envp: strings("process.env", &process.env)?,
            file: CString::default(),
            argv_pointers: Vec::new(),
            envp_pointers: Vec::new(),
        })
    }

    /// Enters the working directory; `make`: a missing one is made, as runc does for a container's first process.
    pub(crate) fn enter_directory(&self, make: bool) -> Result<(), Error> {
        let enter = || rustix::process::chdir(&self.cwd);
        match enter() {
            Err(Errno::NOENT) if make => {
                path::make(&self.cwd, PointKind::Directory).and_then(|()| enter())
            }
            entered => entered,
        }
        .map_err(at("enter process.cwd", &self.cwd))?;
        // A magic link can lead out of the root (CVE-2024-21626); then there is no path from the root to it.
        if self.cwd != "/" && !path::is_inside().map_err(at("look at process.cwd", &self.cwd))? {
            return Err(Error::invalid("process.cwd", &self.cwd, "it is outside of the container"));
        }
        Ok(())
    }

    /// Finds the program with the identity that executes it.
    ///
    /// # Errors
    /// [`Error::ProgramNotFound`] or [`Error::ProgramNotExecutable`].
    pub(crate) fn resolve(&mut self, uid: u32) -> Result<(), Error> {
        if !self.has_home {
            let home = passwd::home(uid).unwrap_or_else(|| "/".to_owned());
            let entry = CString::new(format!("HOME={home}"))
                .map_err(|_| Error::invalid("/etc/passwd", home, "it holds a zero byte"))?;
            self.envp.push(entry);
        }
        self.file = self.find()?;
        self.argv_pointers = pointers(&self.argv);
        self.envp_pointers = pointers(&self.envp);
        Ok(())
    }

    fn find(&self) -> Result<CString, Error> {
        let not_found = |why| Error::ProgramNotFound { program: self.name.clone(), why };
        let candidates: Vec<String> = if self.name.contains('/') {
            vec![self.name.clone()]
        } else if self.name.is_empty() {
            return Err(not_found("the program has no name"));
        } else {
            let directory =
                |dir: &str| if dir.is_empty() { ".".to_owned() } else { dir.to_owned() };
            self.search.split(':').map(|dir| format!("{}/{}", directory(dir), self.name)).collect()
        };
        let mut denied = None;
        for candidate in candidates {
            match check(&candidate) {
                Ok(()) => {
                    return CString::new(candidate).map_err(|_| not_found("its name is malformed"));
                }
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => denied = denied.or(Some(errno)),
            }
        }
        match denied {
            Some(errno) => {
                Err(Error::ProgramNotExecutable { program: self.name.clone(), why: reason(errno) })
            }
            None if self.name.contains('/') => Err(not_found("no such file in the container")),
            None => Err(not_found("executable file not found in $PATH of the container")),
        }
    }

    /// Becomes the program. Returns only an error. Touches no memory but its own, so that a process that shares its
    /// parent's may call it.
    pub(crate) fn execute(&self) -> Errno {
        // SAFETY: `resolve` made the arrays from strings that live in `self`, with a null pointer at their ends; an empty
        // array, when it did not run, is one too.
        unsafe {
            sys::execve(
                self.file.as_ptr(),
                self.argv_pointers.as_ptr(),
                self.envp_pointers.as_ptr(),
            )
        }
    }

    /// What an error of [`Program::execute`] means.
    pub(crate) fn error(&self, errno: Errno) -> Error {
        let program = self.name.clone();
        match errno {
            Errno::NOENT => Error::ProgramNotFound {
                program,
                why: "the interpreter that it names is not in the container",
            },
            Errno::ACCESS | Errno::NOEXEC | Errno::ISDIR | Errno::PERM | Errno::LOOP => {
                Error::ProgramNotExecutable { program, why: reason(errno) }
            }
            Errno::TOOBIG => {
                let why = "its process.args and process.env are more than the kernel takes: a quarter of the stack's \
                           limit (RLIMIT_STACK), at most 6 MiB (execve(2))";
                Error::ProgramNotExecutable { program, why: why.to_owned() }
            }
            errno => at("execute", program)(errno),
        }
    }
}

fn reason(errno: Errno) -> String {
    match errno {
        Errno::NOEXEC => "it is neither a program for this machine nor a script with #!".to_owned(),
        Errno::ACCESS => "permission denied".to_owned(),
        Errno::ISDIR => "it is a directory".to_owned(),
        errno => errno.to_string(),
    }
}

/// The file is there and this process may execute it.
fn check(path: &str) -> Result<(), Errno> {
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?;
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::TYPE)?;
    match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::ACCESS),
    }
}

fn strings(what: &'static str, values: &[String]) -> Result<Vec<CString>, Error> {
    let wrong = |at: usize, value: &str, why: String| {
        let shown: String = value.chars().take(60).collect();
        Error::invalid(format!("{what}[{at}]"), shown, why)
    };
    values
        .iter()
        .enumerate()
        .map(|(at, value)| {
            if value.len() >= MAX_STRING {
                let why = format!(
                    "{} bytes are more than the {} that the kernel takes (execve(2))",
                    value.len(),
                    MAX_STRING - 1
                );
                return Err(wrong(at, value, why));
            }
            CString::new(value.as_str())
                .map_err(|_| wrong(at, value, "it holds a zero byte".to_owned()))
        })
        .collect()
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(json: &str) -> Result<Program, Error> {
        Program::new(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn the_environment_says_where_to_look() {
        let p = program(
            r#"{"args": ["sh"], "cwd": "/", "env": ["PATH=/a", "PATH=/usr/bin:/bin", "HOME="]}"#,
        )
        .unwrap();
        assert!(!p.has_home);
        let found = p.find().unwrap();
        assert!(found.to_str().unwrap().ends_with("/sh"), "{found:?}");
    }

    #[test]
    fn errors_tell_missing_from_forbidden() {
        let find = |name: &str| {
            program(&format!(r#"{{"args": ["{name}"], "cwd": "/"}}"#)).unwrap().find().unwrap_err()
        };
        assert!(matches!(find("no-such-program"), Error::ProgramNotFound { .. }));
        assert!(matches!(find("/no/such"), Error::ProgramNotFound { .. }));
        assert!(matches!(find(""), Error::ProgramNotFound { .. }));
        assert!(matches!(find("/usr"), Error::ProgramNotExecutable { .. }));
        assert!(matches!(find("/etc/passwd"), Error::ProgramNotExecutable { .. }));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for json in [
            r#"{"args": [], "cwd": "/"}"#,
            r#"{"args": ["a"], "cwd": "tmp"}"#,
            r#"{"args": ["a\u0000b"], "cwd": "/"}"#,
            r#"{"args": ["a"], "cwd": "/", "env": ["A=\u0000"]}"#,
        ] {
            assert!(matches!(program(json), Err(Error::Invalid { .. })), "{json}");
        }
    }
}
