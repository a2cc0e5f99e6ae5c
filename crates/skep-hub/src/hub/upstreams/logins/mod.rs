//! Tokens for the servers that want some: what users have logged in to, and what this client is given for itself.
//!
//! A login is kept in a file of the state directory (`store`), not in a hub: a user logs in once, by a command of its own
//! (`login`), and whoever uses the server next finds the token there, also a hub that runs. A hub asks nobody to log in. What
//! a server wanted and did not get is noted in the same file, so that the next login asks for that.
//!
//! The protocol is `skep_mcp`'s; this decides what is kept, when it is renewed, and as which client.

mod login;
mod store;
mod web;

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use reqwest::Url;
use skep_mcp::client::auth::{
    AuthError, Authorization, Challenge, Denied, ProofKey, Refusal, Token,
    discovery::{self, AuthorizationServer, Resource},
    grant::{self, Client, Granted, Key, Proof, TokenRequest},
};
use skep_tools::net;
use tokio::time::Instant;

pub use self::login::{Begun, LOGIN_TIME_MAX, LoggedIn, LoginError};
use self::{
    store::{Contents, KeptLogin, Registered, Store, StoreError, Used, Wanted},
    web::Guarded,
};
use crate::config::servers::{Grant, IdentityProvider, OAuth, Transport, Upstream};

/// A token is renewed so long before its end, or when a quarter of its time is left if that is later.
const RENEW_BEFORE: Duration = Duration::from_secs(60);
/// If a token could not be renewed and is still good, it is tried again after so long.
const RENEW_AGAIN: Duration = Duration::from_secs(30);
/// Scopes that are kept for the next login.
const WANTED_MAX: usize = 100;
/// Bytes of a file with a key or a statement.
const KEY_FILE_BYTES_MAX: u64 = 64 << 10;

/// The logins of a state directory. Clones share them.
#[derive(Clone)]
pub struct Logins {
    store: Arc<Store>,
    web: net::Settings,
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Logins")
    }
}

impl Logins {
    /// Those of this directory. Authorization servers are asked as `web` allows.
    pub fn new(home: &Path, web: net::Settings) -> Logins {
        Logins { store: Arc::new(Store::new(home)), web }
    }

    /// The file that they are kept in.
    pub fn path(&self) -> &Path {
        self.store.path()
    }

    /// Where the tokens of a server come from; `None` if it is not reached over HTTP, or the user gives it a header of his own.
    pub(super) fn authorization(&self, upstream: &Upstream) -> Option<Arc<dyn Authorization>> {
        self.account(upstream).map(|account| Arc::new(account) as Arc<dyn Authorization>)
    }

    /// Forget the login to this server, and then have its authorization server revoke the tokens, for which it must be configured
    /// as it was. `None` if there was none.
    pub async fn log_out(&self, server: &str, upstream: Option<&Upstream>) -> Result<Option<Revoked>, StoreError> {
        let mut held = self.store.lock().await?;
        let account = upstream.and_then(|upstream| self.account(upstream));
        let account = account.filter(|account| held.contents.kept(server, &account.url).is_some());
        let Some(kept) = held.contents.servers.remove(server).and_then(|entry| entry.kept) else {
            held.save()?;
            return Ok(None);
        };
        held.contents.clients.remove(&kept.issuer); // it may be that which the authorization server does not know any more
        held.save()?;
        drop(held);
        Ok(Some(match account {
            None => Revoked::No("the server is not configured as it was at the login".to_owned()),
            Some(account) => match account.revoke(&kept).await {
                Ok(true) => Revoked::Yes,
                Ok(false) => Revoked::No(format!("{} revokes none", kept.issuer)),
                Err(error) => Revoked::No(error.to_string()),
            },
        }))
    }

    fn account(&self, upstream: &Upstream) -> Option<Account> {
        let Transport::Http { url, headers, oauth, .. } = &upstream.transport else { return None };
        let has_own = headers.keys().any(|name| name.eq_ignore_ascii_case("authorization"));
        if has_own {
            return None;
        }
        let url = Url::parse(url.reveal()).ok()?;
        let name = upstream.name.clone();
        let oauth = oauth.as_deref().cloned().unwrap_or_default();
        Some(Account { name, url, oauth, logins: self.clone(), own: Arc::default() })
    }
}

/// What became of the tokens of a login that was forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// They are good for nothing any more.
    Yes,
    /// Who has them may use them until they end; why.
    No(String),
}

/// One server, and how tokens for it are got.
#[derive(Clone)]
struct Account {
    name: String,
    url: Url,
    oauth: OAuth,
    logins: Logins,
    /// What this client was given for itself, to be asked for again.
    own: Arc<Mutex<Option<Own>>>,
}

/// A token that is nobody's login, and what it was asked for.
#[derive(Clone)]
struct Own {
    token: Token,
    expires_at_ms: Option<u64>,
    challenge: Challenge,
    scopes: Vec<String>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Account").field(&self.name).finish()
    }
}

impl Authorization for Account {
    fn token(&self, refusal: Option<Refusal>) -> BoxFuture<'static, Result<Option<Token>, Denied>> {
        let account = self.clone();
        Box::pin(async move {
            match (account.oauth.grant, refusal) {
                (Grant::AuthorizationCode, None) => account.kept().await,
                (Grant::AuthorizationCode, Some(refusal)) => account.other(refusal).await.map(Some),
                (_, None) => account.own_again().await,
                (_, Some(refusal)) => account.own_for(refusal).await.map(Some),
            }
        })
    }
}

/// A user's login.
impl Account {
    /// The token that is kept, renewed if it is about to end.
    async fn kept(&self) -> Result<Option<Token>, Denied> {
        let contents = self.logins.store.read().map_err(failed)?;
        let Some(kept) = contents.kept(&self.name, &self.url).cloned() else { return Ok(None) };
        let now_ms = now_ms();
        if kept.renew_at_ms.is_none_or(|at_ms| now_ms < at_ms) {
            return token(&kept, kept.renew_at_ms).map(Some);
        }
        let is_good = kept.expires_at_ms.is_none_or(|at_ms| now_ms < at_ms);
        match self.renew(&kept).await {
            Ok(renewed) => token(&renewed, renewed.renew_at_ms).map(Some),
            Err(error) if is_good => {
                tracing::warn!(server = self.name, %error, "a token that is about to end was not renewed");
                token(&kept, Some(now_ms + millis(RENEW_AGAIN))).map(Some)
            }
            Err(error @ LoginError::Auth(AuthError::Unreachable(_))) => Err(failed(error)),
            Err(_) => Ok(None), // the server will say what it wants
        }
    }

    /// Another token than the one that was refused: of a login since then, or renewed. Otherwise a user has to log in.
    async fn other(&self, Refusal { token: refused, challenge }: Refusal) -> Result<Token, Denied> {
        let contents = self.logins.store.read().map_err(failed)?;
        let kept = contents.kept(&self.name, &self.url);
        if let Some(kept) = kept {
            if !refused.as_ref().is_some_and(|refused| refused.is(&kept.access_token)) {
                return token(kept, kept.renew_at_ms);
            }
            if !challenge.wants_scope() {
                match self.renew(kept).await {
                    Ok(renewed) => return token(&renewed, renewed.renew_at_ms),
                    Err(error @ LoginError::Auth(AuthError::Unreachable(_))) => return Err(failed(error)),
                    Err(error) => tracing::info!(server = self.name, %error, "a login is of no use any more"),
                }
            }
        }
        let asked = kept.map(|kept| kept.scopes.as_slice()).unwrap_or_default();
        let missing: Vec<&str> =
            challenge.scopes.iter().filter(|scope| !asked.contains(scope)).map(String::as_str).collect();
        let why = match (kept, challenge.wants_scope(), missing.as_slice()) {
            (None, ..) => "it wants a login, or a key in its `headers`".to_owned(),
            (Some(_), false, _) => "the login is not good any more".to_owned(),
            (Some(_), true, []) => "the login is not allowed this, although it was asked for".to_owned(),
            (Some(_), true, missing) => format!("the login lacks {}", missing.join(" ")),
        };
        self.note(challenge).await.map_err(failed)?;
        Err(Denied::NeedsLogin(format!("{why}: run `skep servers login {}`", self.name)))
    }

    /// Keep what the server wants for the next login, with what it wanted of other tools before.
    async fn note(&self, challenge: Challenge) -> Result<(), StoreError> {
        let is_more = challenge.wants_scope();
        let Challenge { resource_metadata, mut scopes, is_bound, .. } = challenge;
        let contents = self.logins.store.read()?;
        let before = contents.wanted(&self.name, &self.url);
        if let Some(before) = before.filter(|before| before.is_more && is_more) {
            scopes = union(before.scopes.clone(), scopes);
            scopes.truncate(WANTED_MAX);
        }
        let wanted = Wanted { resource_metadata, scopes, is_more, is_bound };
        if before == Some(&wanted) {
            return Ok(());
        }
        let mut held = self.logins.store.lock().await?;
        held.contents.entry(&self.name, &self.url).wanted = Some(wanted);
        held.save()
    }

    /// Use the refresh token. One at a time, whoever does it: of two, the second may count as a thief's.
    async fn renew(&self, seen: &KeptLogin) -> Result<KeptLogin, LoginError> {
        let _turn = self.logins.store.turn(&self.name).await?;
        let Some(kept) = self.logins.store.read()?.kept(&self.name, &self.url).cloned() else {
            return Err(LoginError::LoggedOut);
        };
        if kept.access_token != seen.access_token {
            return Ok(kept); // somebody else has
        }
        let Some(refresh_token) = &kept.refresh_token else { return Err(LoginError::Ended) };
        let web = self.web().await;
        let (server, client) = self.client_of(&web, &kept).await?;
        let now_ms = now_ms();
        let key = kept.key.as_deref().map(ProofKey::from_text).transpose()?;
        let request = TokenRequest {
            server: &server,
            client: &client,
            resource: &kept.resource,
            scopes: &[],
            key: key.as_ref(),
            now: now_ms / 1000,
        };
        match request.token(&web, grant::Grant::Refresh(refresh_token)).await {
            Ok(granted) => self.replace(&kept, |kept| kept.take(granted, now_ms)).await,
            Err(error) => {
                // It will not get better.
                if matches!(&error, AuthError::Refused { error, .. } if error == "invalid_grant" || error == "invalid_client")
                {
                    self.replace(&kept, |kept| kept.refresh_token = None).await?;
                }
                Err(error.into())
            }
        }
    }

    /// Who gave the tokens of a login, and to whom.
    async fn client_of(&self, web: &Guarded, kept: &KeptLogin) -> Result<(AuthorizationServer, Client), LoginError> {
        let server = discovery::authorization_server(web, &kept.issuer).await?;
        let client = self.client(&server, kept.client.as_ref())?.filter(|client| client.id == kept.client_id);
        Ok((server, client.ok_or(LoginError::Ended)?))
    }

    /// Have the tokens of a login revoked; whether the authorization server does that.
    async fn revoke(&self, kept: &KeptLogin) -> Result<bool, LoginError> {
        let web = self.web().await;
        let (server, client) = self.client_of(&web, kept).await?;
        let request = TokenRequest {
            server: &server,
            client: &client,
            resource: &kept.resource,
            scopes: &[],
            key: None,
            now: now_ms() / 1000,
        };
        // What was got for a refresh token should go with it, but need not (RFC 7009, 2.1).
        if let Some(token) = &kept.refresh_token {
            request.revoke(&web, token, "refresh_token").await?;
        }
        Ok(request.revoke(&web, &kept.access_token, "access_token").await?)
    }

    /// Change this login, unless it is another one by now. Returns the one that there is then.
    async fn replace(&self, seen: &KeptLogin, change: impl FnOnce(&mut KeptLogin)) -> Result<KeptLogin, LoginError> {
        let mut held = self.logins.store.lock().await?;
        let Some(kept) = &mut held.contents.entry(&self.name, &self.url).kept else {
            return Err(LoginError::LoggedOut);
        };
        if kept.access_token == seen.access_token {
            change(kept);
        }
        let kept = kept.clone();
        held.save()?;
        Ok(kept)
    }
}

/// What this client is given for itself.
impl Account {
    fn own(&self) -> Option<Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The token that there is, or another one in its place.
    async fn own_again(&self) -> Result<Option<Token>, Denied> {
        let Some(own) = self.own() else { return Ok(None) }; // what the server wants is not known yet
        let is_good = own.expires_at_ms.is_none_or(|at_ms| now_ms() < at_ms);
        match self.own_token(own.challenge, own.scopes).await {
            Err(error) if is_good => {
                tracing::warn!(server = self.name, %error, "a token that is about to end was not renewed");
                Ok(Some(own.token.renewed_at(instant(Some(now_ms() + millis(RENEW_AGAIN))))))
            }
            got => got.map(Some).map_err(failed),
        }
    }

    async fn own_for(&self, Refusal { challenge, .. }: Refusal) -> Result<Token, Denied> {
        let asked = self.own().map(|own| own.scopes).unwrap_or_default();
        if challenge.wants_scope() && challenge.scopes.iter().all(|scope| asked.contains(scope)) {
            return Err(failed("the server wants scopes that the authorization server does not give"));
        }
        self.own_token(challenge, asked).await.map_err(failed)
    }

    async fn own_token(&self, challenge: Challenge, asked: Vec<String>) -> Result<Token, LoginError> {
        let web = self.web().await;
        let resource = discovery::resource(&web, &self.url, &challenge).await?;
        let contents = self.logins.store.read()?;
        let server = discovery::authorization_server(&web, self.issuer(&resource, &contents)?).await?;
        let client = self.client(&server, None)?;
        let client = client.ok_or_else(|| AuthError::Unconfigured("oauth.clientId is missing".to_owned()))?;
        let scopes = union(asked, self.scopes(&challenge, &resource));
        let assertion = match (self.oauth.grant, &self.oauth.assertion_file, &self.oauth.identity_provider) {
            (Grant::JwtBearer, Some(path), _) => Some(text(path)?),
            (Grant::JwtBearer, None, Some(provider)) => {
                Some(vouched_for(&web, provider, &server.issuer, &resource.resource, &scopes).await?)
            }
            _ => None,
        };
        let grant = assertion.as_deref().map_or(grant::Grant::ClientCredentials, grant::Grant::Assertion);
        let now_ms = now_ms();
        let key = key_for(&challenge, &server)?;
        let request = TokenRequest {
            server: &server,
            client: &client,
            resource: &resource.resource,
            scopes: &scopes,
            key: key.as_ref(),
            now: now_ms / 1000,
        };
        let granted = request.token(&web, grant).await?;
        let (expires_at_ms, renew_at_ms) = times_ms(granted.expires_in, now_ms);
        let key = key.filter(|_| granted.is_bound);
        let token = Token::new(&granted.access_token, key, instant(renew_at_ms)).map_err(|_| unfit())?;
        if contents.issuer_of(&self.name, &self.url, &client.id).is_none() {
            let mut held = self.logins.store.lock().await?;
            held.contents.entry(&self.name, &self.url).used =
                Some(Used { client_id: client.id, issuer: server.issuer });
            held.save()?;
        }
        let own = Own { token: token.clone(), expires_at_ms, challenge, scopes };
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = Some(own);
        Ok(token)
    }
}

/// What both need.
impl Account {
    async fn web(&self) -> Guarded {
        Guarded::new(&self.logins.web, &self.url).await
    }

    /// Whose tokens are used: the one that is configured, or else the one that gave the last, or else the first. A client that was
    /// registered by hand stays with the one that it was first used with: another one would be shown its secret.
    fn issuer<'a>(&self, resource: &'a Resource, contents: &Contents) -> Result<&'a str, AuthError> {
        let OAuth { issuer, client_id, .. } = &self.oauth;
        let find = |wanted: &str| resource.issuers.iter().find(|issuer| *issuer == wanted).map(String::as_str);
        let used = client_id.as_ref().and_then(|id| contents.issuer_of(&self.name, &self.url, id));
        if let Some(own) = issuer.as_deref().or(used) {
            let named = resource.issuers.join(", ");
            let message = format!(
                "the client is registered with {own}, but the server wants tokens of {named}; if that is right, register one \
                 there, and say so in `oauth` (clientId, issuer)"
            );
            return find(own).ok_or(AuthError::Untrusted(message));
        }
        let last = contents.kept(&self.name, &self.url).and_then(|kept| find(&kept.issuer));
        let first = resource.issuers.first().map(String::as_str);
        last.or(first).ok_or_else(|| AuthError::Untrusted("the server names no authorization server".to_owned()))
    }

    /// Who we are to this authorization server: who was registered there by hand, or what a document says, or who registered himself.
    fn client(
        &self,
        server: &AuthorizationServer,
        registered: Option<&Registered>,
    ) -> Result<Option<Client>, AuthError> {
        let OAuth { client_id, client_secret, private_key_file, client_metadata_url, .. } = &self.oauth;
        if let Some(id) = client_id {
            let proof = match (client_secret, private_key_file) {
                (Some(secret), _) => Proof::secret(secret.reveal().to_owned(), server),
                (None, Some(path)) => Proof::Key(Key::from_pem(text(path)?.as_bytes())?),
                (None, None) => Proof::None,
            };
            return Ok(Some(Client { id: id.clone(), proof }));
        }
        if let Some(url) = client_metadata_url.as_ref().filter(|_| server.client_id_metadata_document_supported) {
            return Ok(Some(Client { id: url.clone(), proof: Proof::None }));
        }
        Ok(registered.map(|registered| {
            let proof = match (&registered.secret, registered.method.as_deref()) {
                (None, _) | (_, Some("none")) => Proof::None,
                (Some(secret), Some("client_secret_post")) => Proof::Post(secret.clone()),
                (Some(secret), Some("client_secret_basic")) => Proof::Basic(secret.clone()),
                (Some(secret), _) => Proof::secret(secret.clone(), server),
            };
            Client { id: registered.id.clone(), proof }
        }))
    }

    /// What is asked for (MCP, scope selection): what is configured, or what the request needs, or what the server usually needs.
    /// What a token was not good for is always asked for.
    fn scopes(&self, challenge: &Challenge, resource: &Resource) -> Vec<String> {
        let configured = self.oauth.scopes.clone();
        match (configured.is_empty(), challenge.scopes.is_empty()) {
            (false, _) if challenge.wants_scope() => union(configured, challenge.scopes.clone()),
            (false, _) => configured,
            (true, false) => challenge.scopes.clone(),
            (true, true) => resource.scopes.clone().unwrap_or_default(),
        }
    }
}

/// A statement of the user's identity provider for this authorization server (the extension enterprise-managed authorization).
async fn vouched_for(
    web: &Guarded,
    provider: &IdentityProvider,
    audience: &str,
    resource: &str,
    scopes: &[String],
) -> Result<String, AuthError> {
    let server = discovery::authorization_server(web, &provider.issuer).await?;
    let proof = provider.client_secret.as_ref().map(|secret| Proof::secret(secret.reveal().to_owned(), &server));
    let client = Client { id: provider.client_id.clone(), proof: proof.unwrap_or(Proof::None) };
    let id_token = text(&provider.id_token_file)?;
    let request = TokenRequest { server: &server, client: &client, resource, scopes, key: None, now: now_ms() / 1000 };
    request.identity_assertion(web, &id_token, audience).await
}

/// A key for the token, if the server wants it bound and the authorization server binds tokens.
fn key_for(challenge: &Challenge, server: &AuthorizationServer) -> Result<Option<ProofKey>, AuthError> {
    (challenge.is_bound && server.binds_tokens()).then(ProofKey::generate).transpose()
}

impl KeptLogin {
    /// Take another token.
    fn take(&mut self, granted: Granted, now_ms: u64) {
        (self.expires_at_ms, self.renew_at_ms) = times_ms(granted.expires_in, now_ms);
        self.access_token = granted.access_token;
        self.refresh_token = granted.refresh_token.or(self.refresh_token.take());
        self.key = self.key.take().filter(|_| granted.is_bound);
    }
}

/// When a token ends that is good for so many seconds, and when it should be renewed.
fn times_ms(expires_in: Option<u64>, now_ms: u64) -> (Option<u64>, Option<u64>) {
    let Some(good_for_ms) = expires_in.map(|seconds| seconds.saturating_mul(1000)) else { return (None, None) };
    let renew_after_ms = good_for_ms - millis(RENEW_BEFORE).min(good_for_ms / 4);
    (Some(now_ms.saturating_add(good_for_ms)), Some(now_ms.saturating_add(renew_after_ms)))
}

fn token(kept: &KeptLogin, renew_at_ms: Option<u64>) -> Result<Token, Denied> {
    let stale_at = kept.refresh_token.as_ref().and_then(|_| instant(renew_at_ms));
    let key = kept.key.as_deref().map(ProofKey::from_text).transpose().map_err(failed)?;
    Token::new(&kept.access_token, key, stale_at).map_err(|_| failed(unfit()))
}

fn failed(why: impl ToString) -> Denied {
    Denied::Failed(why.to_string())
}

fn unfit() -> AuthError {
    AuthError::Untrusted("the token has characters that no header carries".to_owned())
}

/// The same moment on the clock that does not jump.
fn instant(at_ms: Option<u64>) -> Option<Instant> {
    Instant::now().checked_add(Duration::from_millis(at_ms?.saturating_sub(now_ms())))
}

/// Since 1970.
fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn union(mut scopes: Vec<String>, more: Vec<String>) -> Vec<String> {
    for scope in more {
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    scopes
}

/// A small file that the user named.
fn text(path: &Path) -> Result<String, AuthError> {
    let fault = |why: String| AuthError::Unconfigured(format!("{}: {why}", path.display()));
    let bytes = skep_tools::document::read_bytes(path, KEY_FILE_BYTES_MAX).map_err(fault)?;
    let text = String::from_utf8(bytes).map_err(|_| fault("is not text in UTF-8".to_owned()))?;
    Ok(text.trim().to_owned())
}
