//! The file that logins are kept in: for its owner alone, replaced as a whole, and changed by one process at a time. What takes
//! longer than a change, because others are asked, has locks of its own, so that one who does not answer holds up nobody else.
//!
//! A login belongs to the name and the address of its server: whoever gives a server another address has not logged in there.
//! Clients that registered themselves belong to the authorization server that knows them.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::Url;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use skep_core::hex::hex;
use skep_mcp::client::auth::Challenge;
use tokio::time::{Instant, sleep};

const DIRECTORY: &str = "logins";
const FILE: &str = "logins.json";
const LOCK: &str = "lock";
/// Bytes of the file: what a hub's servers need is far less.
const BYTES_MAX: u64 = 4 << 20;
/// How long others may take to change the file.
const LOCK_TIME_MAX: Duration = Duration::from_secs(10);
/// How long another one may ask for what is asked for here: some requests, one after the other.
const TURN_TIME_MAX: Duration = Duration::from_secs(90);
/// Between two looks whether it still does.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be read or written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is not what it should be. What is wrong is not said: it holds tokens.
    #[error("{} is damaged; remove it, and log in again", .0.display())]
    Damaged(PathBuf),
    /// Another process holds it.
    #[error("{} is held by another process", .0.display())]
    Held(PathBuf),
}

/// The file.
pub(super) struct Store {
    directory: PathBuf,
    path: PathBuf,
}

/// What is in it. It has no `Debug`, because it must not be shown.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Contents {
    pub(super) servers: BTreeMap<String, Entry>,
    /// The clients that registered themselves, and whose logins came off last, by issuer; the next login there is theirs, too.
    pub(super) clients: BTreeMap<String, Registered>,
}

/// A server.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kept: Option<KeptLogin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) wanted: Option<Wanted>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) used: Option<Used>,
}

/// A client that was registered by hand, and the authorization server that it was first used with: it is shown to no other.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Used {
    pub(super) client_id: String,
    pub(super) issuer: String,
}

/// A login as it is kept: what was got, for whom, and until when.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct KeptLogin {
    pub(super) issuer: String,
    pub(super) resource: String,
    pub(super) client_id: String,
    /// The client, if it registered itself.
    pub(super) client: Option<Registered>,
    /// What was asked for.
    pub(super) scopes: Vec<String>,
    pub(super) access_token: String,
    /// What the token is bound to.
    pub(super) key: Option<String>,
    pub(super) refresh_token: Option<String>,
    /// When the token ends, and when it should be renewed, since 1970.
    pub(super) expires_at_ms: Option<u64>,
    pub(super) renew_at_ms: Option<u64>,
}

/// What the server asked for last and did not get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    pub(super) resource_metadata: Option<String>,
    pub(super) scopes: Vec<String>,
    /// Whether there was a token, and it was not good for so much.
    pub(super) is_more: bool,
    /// Whether the token has to be bound to a key.
    pub(super) is_bound: bool,
}

impl Wanted {
    /// As the server said it, as far as that was kept.
    pub(super) fn challenge(&self) -> Challenge {
        let Wanted { resource_metadata, scopes, is_bound, .. } = self.clone();
        Challenge { resource_metadata, scopes, is_bound, ..Challenge::default() }
    }
}

/// This client as an authorization server got to know it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Registered {
    pub(super) id: String,
    pub(super) secret: Option<String>,
    pub(super) method: Option<String>,
    pub(super) redirect_uri: String,
}

impl Contents {
    /// What is kept for this server.
    pub(super) fn kept(&self, name: &str, url: &Url) -> Option<&KeptLogin> {
        self.of(name, url)?.kept.as_ref()
    }

    /// What this server asked for last and did not get.
    pub(super) fn wanted(&self, name: &str, url: &Url) -> Option<&Wanted> {
        self.of(name, url)?.wanted.as_ref()
    }

    /// The authorization server that this client was first used with for this server.
    pub(super) fn issuer_of(&self, name: &str, url: &Url, client_id: &str) -> Option<&str> {
        let used = self.of(name, url)?.used.as_ref().filter(|used| used.client_id == client_id);
        used.map(|used| used.issuer.as_str())
    }

    fn of(&self, name: &str, url: &Url) -> Option<&Entry> {
        self.servers.get(name).filter(|entry| entry.url == url.as_str())
    }

    /// The place of this server. One of the same name at another address is forgotten.
    pub(super) fn entry(&mut self, name: &str, url: &Url) -> &mut Entry {
        let new = || Entry { url: url.to_string(), kept: None, wanted: None, used: None };
        let entry = self.servers.entry(name.to_owned()).or_insert_with(new);
        if entry.url != url.as_str() {
            *entry = new();
        }
        entry
    }
}

/// The contents, while nobody else changes them.
pub(super) struct Held<'a> {
    store: &'a Store,
    pub(super) contents: Contents,
    /// Locked until it is closed.
    _lock: File,
}

impl Store {
    pub(super) fn new(home: &Path) -> Store {
        let directory = home.join(DIRECTORY);
        Store { path: directory.join(FILE), directory }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn fault(path: &Path) -> impl Fn(io::Error) -> StoreError {
        move |error| StoreError::Io { path: path.to_owned(), error }
    }

    /// What is in it now. Without a file that is nothing.
    pub(super) fn read(&self) -> Result<Contents, StoreError> {
        let mut text = String::new();
        match File::open(&self.path) {
            Ok(file) => drop(file.take(BYTES_MAX).read_to_string(&mut text).map_err(Store::fault(&self.path))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::default()),
            Err(error) => return Err(Store::fault(&self.path)(error)),
        }
        serde_json::from_str(&text).map_err(|_| StoreError::Damaged(self.path.clone()))
    }

    /// Keep all others from changing it.
    pub(super) async fn lock(&self) -> Result<Held<'_>, StoreError> {
        let lock = self.locked(LOCK, LOCK_TIME_MAX).await?;
        Ok(Held { store: self, contents: self.read()?, _lock: lock })
    }

    /// Wait until nobody else asks for the same. The turn is over when the file is closed.
    pub(super) async fn turn(&self, what: &str) -> Result<File, StoreError> {
        let digest = hex(&Sha256::digest(what)[..8]);
        self.locked(&format!("{LOCK}.{digest}"), TURN_TIME_MAX).await
    }

    async fn locked(&self, name: &str, time_max: Duration) -> Result<File, StoreError> {
        let path = self.directory.join(name);
        let mut all = fs::DirBuilder::new();
        all.recursive(true).mode(0o700).create(&self.directory).map_err(Store::fault(&self.directory))?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(Store::fault(&path))?;
        let end = Instant::now() + time_max;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < end => sleep(LOCK_PAUSE).await,
                Err(TryLockError::WouldBlock) => return Err(StoreError::Held(path)),
                Err(TryLockError::Error(error)) => return Err(Store::fault(&path)(error)),
            }
        }
    }
}

impl Held<'_> {
    /// Put the contents in place of the old ones: a crash leaves the one or the other.
    pub(super) fn save(&self) -> Result<(), StoreError> {
        let path = &self.store.path;
        let aside = path.with_extension("new");
        let text = serde_json::to_string_pretty(&self.contents).map_err(|_| StoreError::Damaged(path.clone()))?;
        let write = || {
            let _ = fs::remove_file(&aside); // one that a crash has left may have other rights
            let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&aside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, path)?;
            File::open(&self.store.directory)?.sync_all()
        };
        write().map_err(Store::fault(path))
    }
}
