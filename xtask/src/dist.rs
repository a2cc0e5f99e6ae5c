//! What a release consists of: a tarball and a Debian package with the program, its completions and man pages, and their
//! checksums.
//!
//! The same program gives the same bytes, whoever packs it and when: files are sorted, belong to nobody, and have the time of
//! `SOURCE_DATE_EPOCH` or of the last commit.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{cargo, run};

/// Where it all goes.
const DIRECTORY: &str = "target/dist";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Shells, the file of their completions in the tarball, and its place in a Debian system, if it has one there.
const SHELLS: [(&str, &str, Option<&str>); 5] = [
    ("bash", "skep.bash", Some("usr/share/bash-completion/completions/skep")),
    ("zsh", "_skep", Some("usr/share/zsh/vendor-completions/_skep")),
    ("fish", "skep.fish", Some("usr/share/fish/vendor_completions.d/skep.fish")),
    ("elvish", "skep.elv", None),
    ("powershell", "_skep.ps1", None),
];
/// What Debian calls the machines that Rust names otherwise.
const ARCHITECTURES: [(&str, &str); 4] =
    [("x86_64", "amd64"), ("aarch64", "arm64"), ("riscv64gc", "riscv64"), ("powerpc64le", "ppc64el")];

/// Build for release and pack; or pack this program, which runs on this machine.
pub(crate) fn dist(program: Option<&str>) -> Result<(), String> {
    let program = match program {
        Some(program) => PathBuf::from(program),
        None => {
            run(cargo().args(["build", "--workspace", "--release", "--locked"]))?;
            PathBuf::from("target/release/skep")
        }
    };
    let time = match env::var("SOURCE_DATE_EPOCH") {
        Ok(time) => time,
        Err(_) => output(Command::new("git").args(["log", "-1", "--format=%ct"]))
            .map_err(|cause| format!("{cause}\nset SOURCE_DATE_EPOCH to the time that files are to have"))?,
    };
    let target = output(Command::new("rustc").args(["--version", "--verbose"]))?;
    let target = target.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc does not name its host")?;
    let directory = Path::new(DIRECTORY);
    if directory.exists() {
        fs::remove_dir_all(directory).map_err(at(directory))?;
    }
    let packages = Release { program: &program, sources: Path::new("."), target, time: &time }.pack(directory)?;
    for package in packages {
        println!("{}", directory.join(package).display());
    }
    Ok(())
}

/// What is packed.
struct Release<'a> {
    program: &'a Path,
    /// The directory with the licence and the documents.
    sources: &'a Path,
    target: &'a str,
    /// Seconds since 1970.
    time: &'a str,
}

impl Release<'_> {
    /// Put everything into this directory; gives the names of the files.
    fn pack(&self, directory: &Path) -> Result<Vec<String>, String> {
        let work = directory.join("work");
        let packages = vec![self.tarball(directory, &work)?, self.debian_package(directory, &work)?];
        fs::remove_dir_all(&work).map_err(at(&work))?;
        let sums = output(Command::new("sha256sum").args(&packages).current_dir(directory))?;
        write(&directory.join("SHA256SUMS"), &(sums + "\n"))?;
        Ok([packages, vec!["SHA256SUMS".to_owned()]].concat())
    }

    /// `skep-VERSION-TARGET.tar.gz`, with a directory of that name in it.
    fn tarball(&self, directory: &Path, work: &Path) -> Result<String, String> {
        let name = format!("skep-{VERSION}-{}", self.target);
        let root = work.join(&name);
        self.install(&root, "skep")?;
        for (shell, file, _) in SHELLS {
            self.completions(shell, &root.join("completions").join(file))?;
        }
        self.man_pages(&root.join("man/man1"))?;
        for document in ["LICENSE", "README.md", "CHANGELOG.md", "docs", "examples"] {
            copy(&self.sources.join(document), &root.join(document))?;
        }
        let archive = format!("{name}.tar");
        let mut tar = Command::new("tar");
        tar.args(["--create", "--format=ustar", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
        tar.args(["--mode=u=rwX,go=rX", &format!("--mtime=@{}", self.time), "--directory"]).arg(work);
        run(tar.arg("--file").arg(directory.join(&archive)).arg(&name))?;
        run(Command::new("gzip").args(["--no-name", "--best", &archive]).current_dir(directory))?;
        Ok(archive + ".gz")
    }

    /// `skep_VERSION_ARCHITECTURE.deb`.
    fn debian_package(&self, directory: &Path, work: &Path) -> Result<String, String> {
        let machine = self.target.split('-').next().unwrap_or_default();
        let architecture =
            ARCHITECTURES.iter().find(|(rust, _)| *rust == machine).map_or(machine, |(_, debian)| debian);
        let root = work.join("deb");
        self.install(&root, "usr/bin/skep")?;
        for (shell, _, place) in SHELLS {
            if let Some(place) = place {
                self.completions(shell, &root.join(place))?;
            }
        }
        let pages = root.join("usr/share/man/man1");
        self.man_pages(&pages)?;
        for page in files_below(&pages)? {
            run(Command::new("gzip").args(["--no-name", "--best"]).arg(page))?;
        }
        let documents = root.join("usr/share/doc/skep");
        copy(&self.sources.join("CHANGELOG.md"), &documents.join("CHANGELOG.md"))?;
        write(&documents.join("changelog"), &self.debian_changelog()?)?;
        for document in ["CHANGELOG.md", "changelog"] {
            run(Command::new("gzip").args(["--no-name", "--best"]).arg(documents.join(document)))?;
        }
        copy(&self.sources.join("README.md"), &documents.join("README.md"))?;
        write(&documents.join("copyright"), COPYRIGHT)?;

        let mut files = files_below(&root)?;
        files.sort();
        let bytes: u64 = files.iter().filter_map(|file| fs::metadata(file).ok()).map(|file| file.len()).sum();
        let mut md5sum = Command::new("md5sum");
        md5sum.args(files.iter().filter_map(|file| file.strip_prefix(&root).ok())).current_dir(&root);
        let sums = output(&mut md5sum)?;
        write(&root.join("DEBIAN/md5sums"), &(sums + "\n"))?;
        write(&root.join("DEBIAN/control"), &control(architecture, &least_glibc()?, bytes.div_ceil(1024)))?;
        run(Command::new("chmod").args(["--recursive", "u=rwX,go=rX"]).arg(&root))?;

        let name = format!("skep_{VERSION}_{architecture}.deb");
        let mut build = Command::new("dpkg-deb");
        build.env("SOURCE_DATE_EPOCH", self.time).args(["--root-owner-group", "-Zxz", "--build"]);
        run(build.arg(&root).arg(directory.join(&name)).stdout(Stdio::null()))?;
        Ok(name)
    }

    /// What Debian's tools want to read; the changes themselves are in `CHANGELOG.md`.
    fn debian_changelog(&self) -> Result<String, String> {
        let date = output(Command::new("date").args(["--utc", "--rfc-email", &format!("--date=@{}", self.time)]))?;
        Ok(format!(
            "skep ({VERSION}) unstable; urgency=medium\n\n  * Release {VERSION}; CHANGELOG.md.gz has what changed.\n\n -- {}  \
             {date}\n",
            maintainer()
        ))
    }

    fn install(&self, root: &Path, place: &str) -> Result<(), String> {
        let place = root.join(place);
        copy(self.program, &place)?;
        run(Command::new("chmod").arg("755").arg(place))
    }

    fn completions(&self, shell: &str, place: &Path) -> Result<(), String> {
        write(place, &(output(self.skep().args(["completions", shell]))? + "\n"))
    }

    fn man_pages(&self, directory: &Path) -> Result<(), String> {
        run(self.skep().arg("man").arg(directory))
    }

    /// The program, which needs to know nothing of this user.
    fn skep(&self) -> Command {
        let mut skep = Command::new(fs::canonicalize(self.program).unwrap_or_else(|_| self.program.to_owned()));
        skep.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
        skep
    }
}

/// Who answers for the package, as Debian's own tools are told.
fn maintainer() -> String {
    let variable = |name: &str, otherwise: &str| env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    format!("{} <{}>", variable("DEBFULLNAME", "The Skep project"), variable("DEBEMAIL", "root@localhost"))
}

fn control(architecture: &str, glibc: &str, kibibytes: u64) -> String {
    format!(
        "Package: skep\nVersion: {VERSION}\nArchitecture: {architecture}\nMaintainer: {}\n\
         Installed-Size: {kibibytes}\nDepends: libc6 (>= {glibc})\nSuggests: python3, nodejs, tesseract-ocr\nSection: devel\n\
         Priority: optional\nDescription: hub for AI agents, in one binary\n Teams of agents get one place to work together: \
         shared tools and MCP servers\n behind one endpoint, a fresh sandbox for every command, durable tasks that\n survive a \
         crash, and a log of what happened.\n",
        maintainer()
    )
}

const COPYRIGHT: &str = "\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: Skep

Files: *
Copyright: 2026 The Skep project
License: Apache-2.0
 On Debian systems, the text of the Apache License, Version 2.0, is in
 /usr/share/common-licenses/Apache-2.0.
";

/// The version of this machine's C library: the program asks for no newer one.
fn least_glibc() -> Result<String, String> {
    let version = output(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    version.strip_prefix("glibc ").map(str::to_owned).ok_or_else(|| format!("{version} is no version of glibc"))
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> String {
    let path = path.display().to_string();
    move |error| format!("{path}: {error}")
}

/// Every file below the directory.
fn files_below(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let path = entry.map_err(at(directory))?.path();
        if path.is_dir() { files.extend(files_below(&path)?) } else { files.push(path) }
    }
    Ok(files)
}

/// A file, or a directory with all that is in it.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let files = if from.is_dir() { files_below(from)? } else { vec![from.to_owned()] };
    for file in files {
        let rest = file.strip_prefix(from).unwrap_or(Path::new(""));
        let place = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
        make_parent(&place)?;
        fs::copy(&file, &place).map_err(at(&file))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    make_parent(path)?;
    fs::write(path, text).map_err(at(path))
}

fn make_parent(path: &Path) -> Result<(), String> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(at(parent)),
        None => Ok(()),
    }
}

/// What a command prints, without the last line's end.
fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().display().to_string();
    let output =
        command.stderr(Stdio::inherit()).output().map_err(|error| format!("{name} cannot be started: {error}"))?;
    let text = String::from_utf8(output.stdout).map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        Ok(text.trim_end().to_owned())
    } else {
        Err(format!("{name} ended with {}", output.status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says what the program would be asked for.
    const PROGRAM: &str = "#!/bin/sh\ncase $1 in\n  completions) echo \"completions for $2\" ;;\n  man) mkdir -p \"$2\"; \
                           echo page > \"$2/skep.1\"; echo page > \"$2/skep-run.1\" ;;\nesac\n";

    /// A directory that goes away.
    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_packages_have_everything_in_its_place_and_are_the_same_twice() {
        if !Command::new("dpkg-deb").arg("--version").stdout(Stdio::null()).status().is_ok_and(|done| done.success()) {
            return println!("left out: there is no dpkg-deb");
        }
        let scratch = Scratch(env::temp_dir().join(format!("skep-dist-{}", std::process::id())));
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let program = scratch.0.join("program");
        write(&program, PROGRAM).unwrap();
        run(Command::new("chmod").arg("700").arg(&program)).unwrap();
        let target = "x86_64-unknown-linux-gnu";
        let release = Release { program: &program, sources: &sources, target, time: "1700000000" };
        let (one, two) = (scratch.0.join("one"), scratch.0.join("two"));
        let packages = release.pack(&one).unwrap();
        assert_eq!(release.pack(&two).as_ref(), Ok(&packages));
        for package in &packages {
            assert!(fs::read(one.join(package)).unwrap() == fs::read(two.join(package)).unwrap(), "{package}");
        }
        let tarball = format!("skep-{VERSION}-{target}.tar.gz");
        let list = output(Command::new("tar").args(["-tvzf", &tarball, "--numeric-owner"]).current_dir(&one)).unwrap();
        for part in ["/skep\n", "/LICENSE\n", "/README.md\n", "completions/_skep\n", "man/man1/skep-run.1\n"] {
            assert!((list.clone() + "\n").contains(part), "{part:?} in {list}");
        }
        assert!(list.lines().all(|line| line.contains(" 0/0 ") && line.contains("2023-11-14")), "{list}");
        let deb = format!("skep_{VERSION}_amd64.deb");
        let list = output(Command::new("dpkg-deb").args(["--contents", &deb]).current_dir(&one)).unwrap();
        for part in
            ["-rwxr-xr-x root/root", "./usr/bin/skep", "./usr/share/man/man1/skep-run.1.gz", "doc/skep/copyright"]
        {
            assert!(list.contains(part), "{part} in {list}");
        }
        let says = output(Command::new("dpkg-deb").args(["--field", &deb, "Package", "Version"]).current_dir(&one));
        assert_eq!(says, Ok(format!("Package: skep\nVersion: {VERSION}")));
        run(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&one)).unwrap();
    }
}
