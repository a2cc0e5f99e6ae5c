//! What a caller asks for as the [`Job`] that a sandbox understands: inside there are no languages, only a program, its
//! arguments and files.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use crate::{
    error::Error,
    interpreter::{Interpreter, Language},
    proxy,
    request::{CODE_MAX, CWD, ENVIRONMENT, Limits, Net, Request, Run},
    root::CERTIFICATES,
    wire::{Call, Job},
};

/// Arguments and environment together, in bytes: less than the kernel's own limit, so that it is us who explain it.
const WORDS_MAX: usize = 1 << 20;
/// One argument or variable, in bytes: the kernel's own limit, with its final NUL.
const WORD_MAX: usize = (128 << 10) - 1;
/// Files of a request.
const FILES_MAX: usize = 4096;

impl Request {
    /// The request as a sandbox understands it, what the helper must know of it, and its standard input.
    pub(crate) fn into_job(self) -> Result<(Job, Call, Vec<u8>), Error> {
        let interpreter = Interpreter::of(&self);
        let (argv, code) = self.run.into_words();
        let mut files = Vec::with_capacity(self.files.len() + 1);
        if let Some((path, code)) = code {
            if code.len() as u64 > CODE_MAX {
                return Err(invalid(format!("the program is longer than {CODE_MAX} bytes; pass it as a file")));
            }
            files.push((path.into(), code.into_bytes()));
        }
        for file in self.files {
            files.push((inside(&file.path)?, file.bytes));
        }
        if files.len() > FILES_MAX {
            return Err(invalid(format!("more than {FILES_MAX} files; pass an archive")));
        }
        let mut env: Vec<OsString> = ENVIRONMENT.map(OsString::from).to_vec();
        if let Net::Allow(_) = self.net {
            env.extend(proxy_variables());
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains('=') {
                return Err(invalid(format!("`{name}` cannot be the name of a variable")));
            }
            let prefix = format!("{name}=");
            env.retain(|entry| !entry.as_bytes().starts_with(prefix.as_bytes()));
            env.push(format!("{prefix}{value}").into());
        }
        check_words(&argv, &env)?;
        if self.limits.processes == 0 || self.limits.open_files < OPEN_FILES_MIN {
            return Err(invalid(format!("a command needs one process and {OPEN_FILES_MIN} open files at least")));
        }
        let cwd = self.cwd.unwrap_or_else(|| CWD.into());
        if cwd.as_os_str().as_bytes().contains(&0) {
            return Err(invalid("the working directory has a NUL byte in it".into()));
        }
        let job = Job { argv, env, cwd, files, limits: self.limits, net: self.net };
        let call = job.call(interpreter);
        Ok((job, call, self.stdin))
    }
}

impl Interpreter {
    /// The job of starting it, without a program.
    pub(crate) fn job(&self) -> Job {
        Job {
            argv: self.language.words().map(OsString::from).to_vec(),
            env: ENVIRONMENT.map(OsString::from).to_vec(),
            cwd: self.cwd.clone(),
            files: Vec::new(),
            limits: Limits::default(),
            net: Net::None,
        }
    }
}

/// What tells programs of the proxy. Half of them look for the upper case, half for the lower.
fn proxy_variables() -> impl Iterator<Item = OsString> {
    let proxy = format!("http://127.0.0.1:{}", proxy::PORT);
    let names = ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"];
    let proxied = names.map(|name| format!("{name}={proxy}").into());
    let others = ["NO_PROXY=localhost,127.0.0.1", "no_proxy=localhost,127.0.0.1", "NODE_USE_ENV_PROXY=1"];
    let certificates = format!("SSL_CERT_FILE={CERTIFICATES}").into();
    proxied.into_iter().chain(others.map(OsString::from)).chain([certificates])
}

/// Open files without which not even a dynamic loader works.
const OPEN_FILES_MIN: u32 = 8;

impl Run {
    /// The command line, and the file with the code if there is one.
    fn into_words(self) -> (Vec<OsString>, Option<(&'static str, String)>) {
        let ([program, path], code) = match self {
            Run::Argv(words) => return (words, None),
            Run::Shell(code) => (["sh", "/code/main.sh"], code),
            Run::Bash(code) => (["bash", "/code/main.sh"], code),
            Run::Python(code) => (Language::Python.words(), code),
            Run::JavaScript(code) => (Language::JavaScript.words(), code),
        };
        (vec![program.into(), path.into()], Some((path, code)))
    }
}

/// Where a file of the request goes.
fn inside(path: &Path) -> Result<PathBuf, Error> {
    let whole = Path::new("/tmp").join(path);
    let plain = whole.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    let below = |root| whole.strip_prefix(root).is_ok_and(|rest| rest.components().next().is_some());
    if plain && !path.as_os_str().as_bytes().contains(&0) && (below("/tmp") || below("/outputs")) {
        return Ok(whole);
    }
    Err(invalid(format!("a file cannot be put at {}; only below /tmp and /outputs", path.display())))
}

fn check_words(argv: &[OsString], env: &[OsString]) -> Result<(), Error> {
    if argv.first().is_none_or(|program| program.is_empty()) {
        return Err(invalid("there is no program to run".into()));
    }
    let mut total = 0;
    for word in argv.iter().chain(env) {
        if word.as_bytes().contains(&0) {
            return Err(invalid("an argument or a variable has a NUL byte in it".into()));
        }
        if word.len() > WORD_MAX {
            return Err(invalid(format!(
                "an argument or a variable is longer than {WORD_MAX} bytes; pass it as a file"
            )));
        }
        total += word.len() + 1;
    }
    if total > WORDS_MAX {
        return Err(invalid(format!("arguments and variables are longer than {WORDS_MAX} bytes; pass a file")));
    }
    Ok(())
}

fn invalid(why: String) -> Error {
    Error::Invalid(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_below_tmp_and_outputs_only() {
        assert_eq!(inside(Path::new("a/b")).unwrap(), Path::new("/tmp/a/b"));
        assert_eq!(inside(Path::new("/outputs/a")).unwrap(), Path::new("/outputs/a"));
        for bad in ["", "/", "/tmp", "/outputs", "..", "a/../b", "/etc/passwd", "/code/main.py", "/tmpx/a", "a\0b"] {
            assert!(inside(Path::new(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_request_that_cannot_work_is_refused_with_a_reason() {
        let argv = |words: &[&str]| Request::new(Run::Argv(words.iter().map(OsString::from).collect()));
        let why = |request: Request| request.into_job().unwrap_err().to_string();
        assert!(why(argv(&[])).contains("no program"));
        assert!(why(argv(&[""])).contains("no program"));
        assert!(why(argv(&["a", "b\0"])).contains("NUL"));
        assert!(why(argv(&["a", &"x".repeat(WORD_MAX + 1)])).contains("longer"));
        assert!(why(Request::new(Run::Python("#".repeat(CODE_MAX as usize + 1)))).contains("longer"));
        let named = |name: &str| Request { env: vec![(name.into(), "x".into())], ..argv(&["a"]) };
        assert!(why(named("")).contains("name"));
        assert!(why(named("A=B")).contains("name"));
    }

    #[test]
    fn a_variable_of_the_request_replaces_the_one_that_is_there() {
        let request = Request { env: vec![("PATH".into(), "/x".into())], ..Request::new(Run::Shell(String::new())) };
        let paths: Vec<_> = request.into_job().unwrap().0.env.into_iter().filter(|entry| entry.len() < 8).collect();
        assert_eq!(paths, ["PATH=/x"]);
    }
}
