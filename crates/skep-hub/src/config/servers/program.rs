//! Whether the program of a server is there at all. It is looked for where the kernel and the C
//! library would look, before anything is started: then a missing one costs its server alone, no
//! time, and the message says what to install.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

use super::Command;

/// Where programs are if there is no `PATH` (execvp(3)).
const PATH: &str = "/bin:/usr/bin";

/// What to install for the programs that servers are commonly started with.
const PACKAGES: [(&[&str], &str); 9] = [
    (&["uvx", "uv"], "install uv"),
    (&["npx", "npm", "node"], "install Node.js"),
    (&["bunx", "bun"], "install Bun"),
    (&["pnpm", "pnpx"], "install pnpm"),
    (&["deno"], "install Deno"),
    (&["python", "python3"], "install Python"),
    (&["pipx"], "install pipx"),
    (&["docker"], "install Docker"),
    (&["podman"], "install Podman"),
];

/// Why the program cannot be run and what to do, in one short line; `None` if it is there.
pub(super) fn missing(command: &Command) -> Option<String> {
    let program = command.program.as_str();
    if program.contains('/') {
        let path = command.cwd.as_deref().unwrap_or(Path::new("")).join(program);
        return match () {
            () if is_executable(&path) => None,
            () if path.exists() => Some(format!("{program} is not an executable file")),
            () => Some(format!("{program} not found; `command` must be the path of a program")),
        };
    }
    let path = command.env.get("PATH").map(|path| OsString::from(path.reveal())).or_else(|| std::env::var_os("PATH"));
    let path = path.unwrap_or_else(|| PATH.into());
    let has = |program: &str| {
        let directories = std::env::split_paths(&path);
        // An empty one is the current one.
        let mut candidates = directories.map(|directory| in_cwd(command, &directory).join(program));
        candidates.any(|path| is_executable(&path))
    };
    if has(program) {
        return None;
    }
    let cure = match PACKAGES.iter().find(|(programs, _)| programs.contains(&program)) {
        _ if program == "python" && has("python3") => "write python3",
        Some((_, cure)) => cure,
        None => "install it, or give its whole path",
    };
    Some(format!("{program} not found; {cure}"))
}

fn in_cwd(command: &Command, directory: &Path) -> PathBuf {
    command.cwd.as_deref().unwrap_or(Path::new("")).join(directory)
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::secret::Secret;

    fn command(program: &str, path: &str, cwd: Option<&Path>) -> Command {
        let env = BTreeMap::from([("PATH".to_owned(), Secret::new(path))]);
        Command { program: program.to_owned(), args: Vec::new(), env, cwd: cwd.map(Path::to_owned) }
    }

    #[test]
    fn a_missing_program_is_named_with_what_to_install() {
        let empty = tempfile::tempdir().unwrap();
        let path = empty.path().to_str().unwrap();
        let said = |program: &str| missing(&command(program, path, None)).unwrap();
        assert_eq!(said("uvx"), "uvx not found; install uv");
        assert_eq!(said("npx"), "npx not found; install Node.js");
        assert_eq!(said("other"), "other not found; install it, or give its whole path");
        assert_eq!(said("/no/such"), "/no/such not found; `command` must be the path of a program");
    }

    #[test]
    fn a_program_is_looked_for_where_it_would_be_run() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().to_str().unwrap();
        let program = |name: &str, mode: u32| {
            fs::write(here.path().join(name), "").unwrap();
            fs::set_permissions(here.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        program("python3", 0o755);
        fs::create_dir(here.path().join("bin")).unwrap();
        program("bin/mine", 0o755);
        assert_eq!(missing(&command("python3", &format!("/no/such:{path}"), None)), None);
        assert_eq!(missing(&command("python", path, None)).unwrap(), "python not found; write python3");
        assert_eq!(missing(&command("bin/mine", "", Some(here.path()))), None);
        assert_eq!(missing(&command("mine", "bin", Some(here.path()))), None);
        assert!(missing(&command("bin", path, None)).is_some(), "a directory is no program");
        program("notes", 0o644);
        assert!(missing(&command("./notes", "", Some(here.path()))).unwrap().contains("not an executable file"));
    }
}
