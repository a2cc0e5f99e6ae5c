//! Whose outputs are where.
//!
//! The operator, and everybody at a hub without tokens, has the whole directory. Each principal with a name has a directory of
//! its own below it, and each of its sessions one below that: what a call reads and writes as `outputs/…`, lists, searches and
//! sees in a sandbox as `/inputs` is in there and nowhere else. Those of sessions are kept when these have ended, as files that
//! an answer named may be asked for later, but only so many of each principal.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use sha2::{Digest as _, Sha256};
use skep_core::hex::hex;
use skep_mcp::server::LOCAL;
use skep_tools::{
    error::ToolError,
    workspace::{Dir, OUTPUTS},
};

/// Where those of principals are, below the outputs of the hub.
const PRINCIPALS: &str = "principals";
/// Where those of sessions are, below those of their principal.
const SESSIONS: &str = "sessions";
/// Sessions of one principal whose outputs are kept; of more, those that were used longest ago lose them.
const SESSIONS_KEPT_MAX: usize = 256;
/// Characters of a principal's name that show in that of its directory.
const NAME_CHARS_SHOWN: usize = 32;
/// Bytes of the digest that tells directories apart.
const DIGEST_BYTES: usize = 16;

/// The outputs of a call for this principal, in this session if it belongs to one.
pub(super) fn of(hub: &Dir, principal: &str, session: Option<&str>) -> Result<Dir, ToolError> {
    if principal == LOCAL {
        return Ok(hub.clone());
    }
    let path = Path::new(PRINCIPALS).join(directory_of(principal));
    let opened = match session {
        None => hub.below(&path).map(|(own, _)| own),
        Some(session) => of_session(hub, &path, session),
    };
    opened.map_err(|error| ToolError::failed(format!("the directory for {OUTPUTS} cannot be made: {error}")))
}

fn of_session(hub: &Dir, principal: &Path, session: &str) -> io::Result<Dir> {
    let sessions = principal.join(SESSIONS);
    let (own, is_new) = hub.below(&sessions.join(digest(session)))?;
    if is_new {
        make_room(&hub.path().join(sessions), own.path());
    } else {
        own.touch()?;
    }
    Ok(own)
}

/// Remove those that were used longest ago, if there are too many.
fn make_room(sessions: &Path, new: &Path) {
    let Ok(entries) = std::fs::read_dir(sessions) else { return };
    let mut all: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .filter(|(_, path)| path != new)
        .collect();
    all.sort();
    let surplus = (all.len() + 1).saturating_sub(SESSIONS_KEPT_MAX);
    for (_, path) in &all[..surplus.min(all.len())] {
        if let Err(error) = std::fs::remove_dir_all(path) {
            tracing::warn!(path = %path.display(), %error, "the outputs of a former session cannot be removed");
        }
    }
}

/// A name that no other principal has, and that leads nowhere else.
fn directory_of(principal: &str) -> OsString {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let shown: String = principal.chars().take(NAME_CHARS_SHOWN).map(plain).collect();
    format!("{shown}-{}", digest(principal)).into()
}

fn digest(name: &str) -> String {
    hex(&Sha256::digest(name)[..DIGEST_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> (tempfile::TempDir, Dir) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open(temporary.path()).unwrap();
        (temporary, dir)
    }

    #[test]
    fn names_of_principals_lead_nowhere_else_and_to_no_other() {
        let (_temporary, hub) = hub();
        let long = "x".repeat(64);
        let names = ["ann", "Ann", "a.b", "a_b", "..", ".", &long, &format!("{long}y")];
        let paths: std::collections::BTreeSet<PathBuf> =
            names.iter().map(|name| of(&hub, name, None).unwrap().path().to_owned()).collect();
        assert_eq!(paths.len(), names.len());
        assert!(paths.iter().all(|path| path.parent() == Some(&hub.path().join(PRINCIPALS))), "{paths:?}");
        assert_eq!(of(&hub, LOCAL, Some("s")).unwrap().path(), hub.path());
    }

    #[test]
    fn of_more_sessions_than_are_kept_those_used_longest_ago_lose_their_outputs() {
        let (_temporary, hub) = hub();
        let session = |name: &str| of(&hub, "ann", Some(name)).unwrap();
        let old = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        for n in 0..SESSIONS_KEPT_MAX {
            let dir = session(&n.to_string());
            dir.write(Path::new("a"), b"1").unwrap();
            std::fs::File::open(dir.path()).unwrap().set_modified(old).unwrap();
        }
        session("0"); // it is used again
        std::fs::File::open(session("1").path())
            .unwrap()
            .set_modified(old - std::time::Duration::from_secs(1))
            .unwrap();
        session("new");
        let has_file = |name: &str| session(name).read(Path::new("a"), 1).is_ok();
        assert!(has_file("0") && has_file("2") && !has_file("1"));
        of(&hub, "bob", Some("0")).unwrap();
        assert!(has_file("0"), "sessions of others are others'");
    }
}
