//! Interpreters that can be started before their program is there, and for which requests.

use std::path::{Path, PathBuf};

use crate::request::{self, Request, Run};

/// Longest program that is delivered, in bytes: what a pipe takes at once. Starting an interpreter is not what makes a
/// longer one slow.
pub(crate) const PROGRAM_MAX: usize = 64 << 10;
/// Longest working directory that an interpreter is kept waiting in, in bytes.
const CWD_MAX: usize = 1024;

/// A language whose interpreter can be started ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Python,
    JavaScript,
}

impl Language {
    /// The command line, of which the last word is the program's path.
    pub(crate) fn words(self) -> [&'static str; 2] {
        match self {
            Language::Python => ["python3", "/code/main.py"],
            Language::JavaScript => ["node", "/code/main.js"],
        }
    }

    /// Where its program lies.
    pub(crate) fn program(self) -> &'static str {
        self.words()[1]
    }

    /// Whether the start of the interpreter looks for a file of that path below `/tmp`.
    ///
    /// Python imports modules while it starts and lists `/tmp`, which is on its path. Node looks nowhere but beside its
    /// program.
    fn looks_for(self, path: &Path) -> bool {
        let Ok(path) = Path::new("/tmp").join(path).strip_prefix("/tmp").map(Path::to_owned) else { return false };
        let module = |extension: &std::ffi::OsStr| ["py", "pyc", "so"].iter().any(|one| extension == *one);
        self == Language::Python && (path.components().count() > 1 || path.extension().is_some_and(module))
    }

    /// Whether the interpreter would want to go back in its program after having read some: Python does for a
    /// declaration of its encoding, which stands in the first two lines.
    fn goes_back(self, code: &str) -> bool {
        self == Language::Python && code.lines().take(2).any(|line| line.contains("coding"))
    }
}

/// An interpreter as it would be started for a request: two that are equal cannot be told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interpreter {
    pub(crate) language: Language,
    pub(crate) cwd: PathBuf,
    /// Standard input is a file, not `/dev/null`.
    pub(crate) stdin: bool,
}

impl Interpreter {
    /// The one that could have been started before `request` was known. `None`: the request has a say in its start.
    pub(crate) fn of(request: &Request) -> Option<Interpreter> {
        let (language, code) = match &request.run {
            Run::Python(code) => (Language::Python, code),
            Run::JavaScript(code) => (Language::JavaScript, code),
            Run::Argv(_) | Run::Shell(_) | Run::Bash(_) => return None,
        };
        let cwd = request.cwd.clone().unwrap_or_else(|| request::CWD.into());
        let unchanged = request.env.is_empty()
            && code.len() <= PROGRAM_MAX
            && cwd.as_os_str().len() <= CWD_MAX
            && !language.goes_back(code)
            && !request.files.iter().any(|file| language.looks_for(&file.path));
        unchanged.then_some(Interpreter { language, cwd, stdin: !request.stdin.is_empty() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::InFile;

    fn python(code: &str) -> Request {
        Request::new(Run::Python(code.into()))
    }

    #[test]
    fn a_request_that_has_a_say_in_the_start_of_its_interpreter_gets_its_own() {
        assert!(Interpreter::of(&python("1")).is_some());
        assert!(Interpreter::of(&python(&"#".repeat(PROGRAM_MAX))).is_some());
        assert!(Interpreter::of(&python(&"#".repeat(PROGRAM_MAX + 1))).is_none());
        assert!(Interpreter::of(&python("#!/usr/bin/python3\n# -*- coding: latin-1 -*-\n")).is_none());
        assert!(Interpreter::of(&python("\n\n# -*- coding: latin-1 -*-\n")).is_some());
        assert!(Interpreter::of(&Request { env: vec![("A".into(), "b".into())], ..python("1") }).is_none());
        assert!(Interpreter::of(&Request { cwd: Some("/x".repeat(CWD_MAX).into()), ..python("1") }).is_none());
        assert!(Interpreter::of(&Request::new(Run::Bash("1".into()))).is_none());
    }

    #[test]
    fn files_that_python_looks_for_while_it_starts_keep_it_from_being_started_before() {
        let with = |path: &str| {
            let files = vec![InFile { path: path.into(), bytes: Vec::new() }];
            (
                Request { files: files.clone(), ..python("1") },
                Request { files, ..Request::new(Run::JavaScript("1".into())) },
            )
        };
        for path in ["data.csv", "/tmp/data.csv", "/outputs/a/b.py", "data"] {
            assert!(Interpreter::of(&with(path).0).is_some(), "{path}");
        }
        for path in ["os.py", "/tmp/sitecustomize.py", "package/data", "x.cpython-311.so", ".local/lib/x"] {
            let (python, javascript) = with(path);
            assert!(Interpreter::of(&python).is_none(), "{path}");
            assert!(Interpreter::of(&javascript).is_some(), "{path}");
        }
    }
}
