//! What a workspace does not show: keys, tokens, and Skep's own state.
//!
//! A workspace may be a home directory, and what tools read there may go to a model, to whoever calls the hub, or into a
//! command's output. So the places in [`IN_HOME`], [`ANYWHERE`] and [`NAMED_BY`] are left out of every workspace, unless the
//! workspace is one of them or lies within it, or the user's configuration names it (`workspace_show`).
//!
//! A place is known by where it really is and by its identity (device and inode), which are looked up anew at each use: a
//! link that leads there, another name, or a place that is made while a hub runs does not get around it. What does get
//! around it: a hard link to a single file, and a copy.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

/// Places in a home directory.
const IN_HOME: &[&str] = &[
    // keys with which one logs in elsewhere, signs and decrypts
    ".ssh",
    ".gnupg",
    ".pki",
    ".putty",
    ".age",
    ".config/age",
    ".config/sops",
    ".password-store",
    ".local/share/keyrings",
    ".local/share/kwalletd",
    ".config/op",
    ".config/Bitwarden",
    ".config/Bitwarden CLI",
    ".vault-token",
    ".krb5",
    // cloud providers and clusters
    ".aws",
    ".azure",
    ".oci",
    ".aliyun",
    ".config/gcloud",
    ".config/doctl",
    ".config/hcloud",
    ".config/scw",
    ".config/rclone",
    ".config/heroku",
    ".config/netlify",
    ".config/vercel",
    ".local/share/com.vercel.cli",
    ".fly",
    ".wrangler",
    ".config/.wrangler",
    ".boto",
    ".s3cfg",
    ".kube",
    ".databrickscfg",
    ".snowflake",
    ".terraformrc",
    ".terraform.d",
    ".pulumi",
    // registries of containers: `auths` in their configuration, and what signs for them
    ".docker",
    ".config/containers",
    ".config/helm",
    // forges and version control
    ".config/gh",
    ".config/glab-cli",
    ".config/hub",
    ".config/tea",
    ".git-credentials",
    ".config/git/credentials",
    ".netrc",
    "_netrc",
    ".authinfo",
    ".authinfo.gpg",
    // registries of packages
    ".npmrc",
    ".config/npm",
    ".yarnrc",
    ".yarnrc.yml",
    ".bunfig.toml",
    ".pypirc",
    ".pip",
    ".config/pip",
    ".config/uv",
    ".local/share/uv/credentials",
    ".config/pypoetry",
    ".config/hatch",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".gem/credentials",
    ".local/share/gem/credentials",
    ".bundle/config",
    ".composer/auth.json",
    ".config/composer/auth.json",
    ".m2/settings.xml",
    ".m2/settings-security.xml",
    ".gradle/gradle.properties",
    ".nuget",
    ".config/NuGet",
    ".hex",
    ".sbt/credentials",
    ".ivy2/.credentials",
    // databases
    ".pgpass",
    ".my.cnf",
    ".mylogin.cnf",
    ".dbshell",
    ".config/dbeaver",
    ".local/share/DBeaverData",
    // models, agents and data sets: keys, and what was said to them
    ".anthropic",
    ".claude",
    ".claude.json",
    ".config/claude",
    ".config/Claude",
    ".codex",
    ".gemini",
    ".qwen",
    ".cursor",
    ".config/Cursor",
    ".config/github-copilot",
    ".config/opencode",
    ".local/share/opencode",
    ".config/openai",
    ".continue",
    ".aider.conf.yml",
    ".cache/huggingface/token",
    ".cache/huggingface/stored_tokens",
    ".huggingface",
    ".kaggle",
    ".config/kaggle",
    ".config/wandb",
    // profiles of browsers and mail programs: passwords and sessions
    ".mozilla",
    ".thunderbird",
    ".config/google-chrome",
    ".config/chromium",
    ".config/BraveSoftware",
    ".config/microsoft-edge",
    ".config/vivaldi",
    ".config/Slack",
    ".config/discord",
    ".config/Signal",
    ".local/share/TelegramDesktop",
    "snap/firefox",
    "snap/chromium",
    ".var/app",
    ".msmtprc",
    ".mbsyncrc",
    ".fetchmailrc",
    // what was typed, tokens among it
    ".bash_history",
    ".zsh_history",
    ".local/share/fish/fish_history",
    ".python_history",
    ".node_repl_history",
    ".psql_history",
    ".mysql_history",
    ".sqlite_history",
    ".rediscli_history",
    ".local/share/atuin",
    ".Xauthority",
    ".ICEauthority",
    // Skep's own, where they are unless somebody says otherwise: tokens, logins, what other runs have made
    ".config/skep",
    ".local/share/skep",
];

/// Places that are no user's.
const ANYWHERE: &[&str] = &[
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/ssh",
    "/etc/ssl/private",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/krb5.keytab",
    "/etc/kubernetes",
    "/etc/rancher",
    "/etc/wireguard",
    "/etc/openvpn",
    "/etc/NetworkManager/system-connections",
    "/var/lib/kubelet",
    "/var/lib/docker",
    "/var/lib/containers",
    "/var/spool/cron",
    // what is handed to containers and services
    "/run/secrets",
    "/run/credentials",
    "/var/run/secrets",
    // environment and memory of other processes, and of the hub
    "/proc",
];

/// Variables that say where a program keeps such things, if not where it does as a rule.
const NAMED_BY: &[&str] = &[
    "GNUPGHOME",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AZURE_CONFIG_DIR",
    "CLOUDSDK_CONFIG",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "DOCKER_CONFIG",
    "REGISTRY_AUTH_FILE",
    "GH_CONFIG_DIR",
    "NETRC",
    "NPM_CONFIG_USERCONFIG",
    "npm_config_userconfig",
    "PIP_CONFIG_FILE",
    "PGPASSFILE",
    "PASSWORD_STORE_DIR",
    "CLAUDE_CONFIG_DIR",
    "CODEX_HOME",
    "HF_TOKEN_PATH",
    "KAGGLE_CONFIG_DIR",
    "SSL_KEY_FILE",
    "XAUTHORITY",
];
/// The same, where several may be named, separated by colons.
const LISTED_BY: &[&str] = &["KUBECONFIG"];

/// Where home directories are, beside those in [`PASSWD`].
const HOMES: &str = "/home";
/// Users of this machine, as far as they are listed.
const PASSWD: &str = "/etc/passwd";
/// Bytes of that list.
const PASSWD_BYTES_MAX: u64 = 4 << 20;
/// Home directories within one workspace. One with more has to be narrowed: each place in each home is looked at whenever
/// something is opened.
const HOMES_MAX: usize = 256;

/// The places of this machine and user that are hidden.
#[derive(Clone, Debug)]
pub struct Secrets {
    own_home: Option<PathBuf>,
    /// Those that are named one by one, where they really are if they are there.
    named: Vec<PathBuf>,
    /// What is shown all the same.
    shown: Vec<PathBuf>,
}

/// Why it cannot be said what to hide.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPlaces {
    /// There would be too much to look at.
    #[error(
        "there are more than {HOMES_MAX} home directories in {}, whose keys would have to be hidden; choose a directory with fewer",
        .0.display()
    )]
    TooMany(PathBuf),
    /// Something that is shown must be shown as a whole.
    #[error(
        "workspace_show: {} lies in {}, which is shown as a whole or not at all; name that one", .part.display(), .whole.display()
    )]
    PartOnly {
        /// What was named.
        part: PathBuf,
        /// The place that it is a part of.
        whole: PathBuf,
    },
}

/// The places that a workspace must not show, because they are in it.
#[derive(Debug)]
pub(crate) struct Hidden {
    /// The workspace, where it really is.
    root: PathBuf,
    places: Vec<PathBuf>,
}

/// Where the places are at the moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    /// Relative to the workspace, by the names that they have and by where they really are, whether they exist or not.
    paths: HashSet<PathBuf>,
    /// Device and inode of those that exist.
    identities: HashSet<(u64, u64)>,
}

/// What a tool hears that is led to such a place.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "it is hidden from tools, because keys, tokens or Skep's own state are kept there; workspace_show in the user's own \
     skep.toml names what may be seen all the same"
)]
pub(crate) struct IsHidden;

impl From<IsHidden> for io::Error {
    fn from(hidden: IsHidden) -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, hidden)
    }
}

impl Secrets {
    /// What is hidden for this user: the lists of this module, and `own`, which are files and directories of Skep itself.
    /// What `shown` names, or is above, is not.
    ///
    /// # Errors
    ///
    /// `shown` names a part of what is hidden as a whole.
    pub fn new(
        variable: impl Fn(&str) -> Option<String>,
        own: impl IntoIterator<Item = PathBuf>,
        shown: &[PathBuf],
    ) -> Result<Secrets, BadPlaces> {
        let own_home = variable("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let tilde = |path: &PathBuf| match (path.strip_prefix("~"), &own_home) {
            (Ok(inside), Some(home)) => home.join(inside),
            _ => path.clone(),
        };
        let shown: Vec<PathBuf> = shown.iter().map(|path| real(&tilde(path))).collect();
        let by_variable = NAMED_BY.iter().filter_map(|name| variable(name)).map(PathBuf::from);
        let lists: Vec<String> = LISTED_BY.iter().filter_map(|name| variable(name)).collect();
        let listed = lists.iter().flat_map(std::env::split_paths).collect::<Vec<_>>();
        let skep = ["XDG_CONFIG_HOME", "XDG_DATA_HOME"].into_iter().filter_map(&variable);
        let skep = skep.map(|above| Path::new(&above).join("skep"));
        let all = own.into_iter().chain(by_variable).chain(listed).chain(skep);
        // A variable may be empty or a mistake; hiding the root would hide everything.
        let named = all.filter(|path| path.parent().is_some()).map(|path| real(&path)).collect();
        let secrets = Secrets { own_home, named, shown };
        if secrets.shown.is_empty() {
            return Ok(secrets); // to follow every place takes hundreds of system calls
        }
        let all_named = secrets.named.iter().cloned().chain(secrets.own_home.iter().flat_map(|home| places_in(home)));
        let places: Vec<PathBuf> =
            all_named.chain(ANYWHERE.iter().map(PathBuf::from)).map(|place| real(&place)).collect();
        for part in &secrets.shown {
            if let Some(whole) = places.iter().find(|place| part.starts_with(place) && part != *place) {
                return Err(BadPlaces::PartOnly { part: part.clone(), whole: whole.clone() });
            }
        }
        Ok(secrets)
    }

    /// What of it is in this directory; `None` if there is nothing.
    pub(super) fn within(&self, root: &Path) -> Result<Option<Hidden>, BadPlaces> {
        let below: Vec<PathBuf> = homes().filter(|home| home.starts_with(root)).collect();
        if below.len() > HOMES_MAX {
            return Err(BadPlaces::TooMany(root.to_owned()));
        }
        let homes = below.into_iter().chain(self.own_home.iter().map(|home| real(home))).collect::<HashSet<_>>();
        let in_homes = homes.iter().flat_map(|home| places_in(home));
        let all = in_homes.chain(ANYWHERE.iter().map(PathBuf::from)).chain(self.named.iter().cloned());
        // What leads into the workspace counts as well as what is there by its name.
        let matters = |place: &PathBuf| {
            let real = real(place);
            let is_within = place.starts_with(root) || real.starts_with(root);
            let is_named = root.starts_with(&real) || root.starts_with(place);
            let is_shown = self.shown.iter().any(|shown| place.starts_with(shown) || real.starts_with(shown));
            is_within && !is_named && !is_shown
        };
        let places: Vec<PathBuf> = all.filter(matters).collect::<HashSet<_>>().into_iter().collect();
        Ok((!places.is_empty()).then(|| Hidden { root: root.to_owned(), places }))
    }
}

impl Hidden {
    /// Where the places are now.
    pub(super) fn look(&self) -> Looked {
        let mut looked = Looked::default();
        for place in &self.places {
            if let Ok(inside) = place.strip_prefix(&self.root) {
                looked.paths.insert(inside.to_owned());
            }
            let Ok(found) = fs::metadata(place) else { continue };
            looked.identities.insert((found.dev(), found.ino()));
            if let Ok(inside) = real(place).strip_prefix(&self.root)
                && !inside.as_os_str().is_empty()
            {
                looked.paths.insert(inside.to_owned());
            }
        }
        looked
    }

    /// The places that exist, relative to the workspace and where they really are, without those within another one; and a
    /// sign of them that changes when one of them is made, replaced or moved, or becomes reachable for others.
    pub(super) fn existing(&self) -> (Vec<PathBuf>, Vec<(PathBuf, [u64; 4])>) {
        let mut found = Vec::new();
        for place in &self.places {
            let Ok(real) = place.canonicalize() else { continue };
            let Ok(inside) = real.strip_prefix(&self.root) else { continue };
            if !inside.as_os_str().is_empty() {
                found.push(inside.to_owned());
            }
        }
        found.sort();
        found.dedup();
        let mut outermost: Vec<PathBuf> = Vec::new();
        for place in found {
            // In this order, what lies within another one comes right behind it.
            if !outermost.last().is_some_and(|above| place.starts_with(above)) {
                outermost.push(place);
            }
        }
        let on_the_way: HashSet<&Path> = outermost.iter().flat_map(|place| place.ancestors()).collect();
        let sign = |inside: &Path| {
            let about = fs::symlink_metadata(self.root.join(inside)).ok();
            // The number of an inode is soon used again, so the time at which it was made belongs to it.
            let made = |about: &fs::Metadata| about.created().ok()?.duration_since(UNIX_EPOCH).ok();
            let made_ns = |about: &fs::Metadata| made(about).map_or(0, |time| time.as_nanos() as u64);
            let about =
                about.map_or([0; 4], |about| [about.dev(), about.ino(), u64::from(about.mode()), made_ns(&about)]);
            (inside.to_owned(), about)
        };
        let mut signs: Vec<_> = on_the_way.into_iter().map(sign).collect();
        signs.sort();
        (outermost, signs)
    }
}

impl Looked {
    /// Whether something is hidden that lies at `inside`, with every link resolved. `identity` gives device and inode of
    /// what is at a path of the workspace.
    pub(super) fn hides(&self, inside: &Path, identity: impl Fn(&Path) -> Option<(u64, u64)>) -> bool {
        let on_the_way = inside.ancestors().filter(|part| !part.as_os_str().is_empty());
        on_the_way.into_iter().any(|part| {
            self.paths.contains(part) || identity(part).is_some_and(|found| self.identities.contains(&found))
        })
    }

    /// The same for one entry of a directory that is not hidden itself.
    pub(super) fn hides_entry(&self, inside: &Path, identity: Option<(u64, u64)>) -> bool {
        self.paths.contains(inside) || identity.is_some_and(|found| self.identities.contains(&found))
    }
}

/// Whether a directory is a home directory, of this user or of another one.
pub fn is_home(directory: &Path) -> bool {
    let own = std::env::var_os("HOME").map(PathBuf::from);
    own.into_iter().map(|home| real(&home)).chain(homes()).any(|home| home == directory && home != Path::new("/"))
}

/// The home directories of this machine, where they really are.
fn homes() -> impl Iterator<Item = PathBuf> {
    use io::Read as _;
    let mut passwd = Vec::new();
    if let Ok(file) = fs::File::open(PASSWD) {
        // What can be read of it counts.
        let _ = file.take(PASSWD_BYTES_MAX).read_to_end(&mut passwd);
    }
    let passwd = String::from_utf8_lossy(&passwd).into_owned();
    let listed: Vec<PathBuf> = passwd.lines().filter_map(|line| line.split(':').nth(5)).map(PathBuf::from).collect();
    let others = fs::read_dir(HOMES).into_iter().flatten().flatten().map(|entry| entry.path());
    // Accounts of services are often given a directory of the system.
    let is_one = |home: &PathBuf| home.is_absolute() && home.components().count() > 1 && home.is_dir();
    let all: HashSet<PathBuf> = listed.into_iter().chain(others).filter(is_one).map(|home| real(&home)).collect();
    all.into_iter()
}

fn places_in(home: &Path) -> impl Iterator<Item = PathBuf> {
    IN_HOME.iter().map(|place| home.join(place))
}

/// Where a path leads, with links resolved as far as it exists.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for above in path.ancestors() {
        if let Ok(real) = above.canonicalize() {
            let rest = path.strip_prefix(above).unwrap_or(Path::new(""));
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(home: &Path, shown: &[&str]) -> Result<Secrets, BadPlaces> {
        let variable = |name: &str| match name {
            "HOME" => Some(home.display().to_string()),
            "KUBECONFIG" => Some(format!("{0}/a:{0}/project/b", home.display())),
            _ => None,
        };
        let shown: Vec<PathBuf> = shown.iter().map(PathBuf::from).collect();
        Secrets::new(variable, [home.join("state")], &shown)
    }

    fn home() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().canonicalize().unwrap();
        fs::create_dir_all(home.join("project/ssh")).unwrap();
        fs::create_dir_all(home.join("state/outputs")).unwrap();
        fs::create_dir_all(home.join("elsewhere")).unwrap();
        (directory, home)
    }

    #[test]
    fn what_is_hidden_is_what_lies_in_a_workspace_by_its_name_or_where_a_link_leads() {
        let (_directory, home) = home();
        let all = secrets(&home, &[]).unwrap();
        assert!(all.within(&home.join("elsewhere")).unwrap().is_none(), "nothing to look at in a project");
        assert!(all.within(&home.join("state/outputs")).unwrap().is_none(), "within what is hidden");
        let in_home = all.within(&home).unwrap().unwrap().look();
        for (path, is_hidden) in
            [(".ssh/id", true), (".config/gh", true), ("state/skep.db", true), (".config", false), ("project", false)]
        {
            assert_eq!(in_home.hides(Path::new(path), |_| None), is_hidden, "{path}");
        }
        let project = all.within(&home.join("project")).unwrap().unwrap();
        assert!(project.look().hides(Path::new("b"), |_| None), "a variable names it");
        assert!(!project.look().hides(Path::new("ssh/id"), |_| None));
        std::os::unix::fs::symlink("project/ssh", home.join(".ssh")).unwrap();
        let project = all.within(&home.join("project")).unwrap().unwrap();
        assert!(project.look().hides(Path::new("ssh/id"), |_| None), "a link leads there");
    }

    #[test]
    fn the_sign_changes_with_the_places_that_there_are() {
        let (_directory, home) = home();
        let hidden = secrets(&home, &[]).unwrap().within(&home).unwrap().unwrap();
        let before = hidden.existing();
        assert_eq!(before.0, [PathBuf::from("state")]);
        assert_eq!(hidden.existing(), before);
        fs::create_dir_all(home.join(".aws/sso")).unwrap();
        let then = hidden.existing();
        assert_eq!(then.0, [PathBuf::from(".aws"), "state".into()]);
        fs::write(home.join(".netrc"), "1").unwrap();
        let with_file = hidden.existing();
        for _ in 0..2 {
            // Twice, so that the number of the first inode may come back.
            fs::write(home.join("new"), "2").unwrap();
            fs::rename(home.join("new"), home.join(".netrc")).unwrap();
        }
        let exchanged = hidden.existing();
        assert_eq!(with_file.0, exchanged.0);
        assert_ne!(with_file.1, exchanged.1, "another file has the name");
    }

    #[test]
    fn what_is_named_is_shown_as_a_whole_or_not_at_all() {
        let (_directory, home) = home();
        let shown = secrets(&home, &["~/.aws", "~/.config"]).unwrap();
        let looked = shown.within(&home).unwrap().unwrap().look();
        for (path, is_hidden) in [(".aws/config", false), (".config/gh", false), (".ssh", true)] {
            assert_eq!(looked.hides(Path::new(path), |_| None), is_hidden, "{path}");
        }
        let part = secrets(&home, &["~/elsewhere", "~/.ssh/config"]).unwrap_err();
        assert_eq!(part, BadPlaces::PartOnly { part: home.join(".ssh/config"), whole: home.join(".ssh") });
    }
}
