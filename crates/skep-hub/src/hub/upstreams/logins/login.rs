//! A user logs in: his browser goes to the authorization server, and comes back to an address of this machine, where this waits.

use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use reqwest::Url;
use serde_json::json;
use skep_mcp::client::{
    CallError, Connection, Limits, Setup, Target,
    auth::{
        AuthError, Authorization, Challenge, Denied, ProofKey, Refusal, Token,
        discovery::{self, AuthorizationServer},
        grant::Client,
        login::{Login, OFFLINE_ACCESS},
        registration,
    },
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    super::open::{has_proxy, http_client},
    Account, Logins, key_for, now_ms,
    store::{KeptLogin, Registered, StoreError, Used},
    union,
    web::Guarded,
};
use crate::config::servers::{Grant, Transport, Upstream, header_map};

/// How long a user may take to log in.
pub const LOGIN_TIME_MAX: Duration = Duration::from_secs(600);
/// For the browser to take the last page.
const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// Time for asking the server what it wants.
const PROBE_TIME_MAX: Duration = Duration::from_secs(30);
const CLIENT_NAME: &str = "Skep";
const CALLBACK: &str = "/callback";

/// Why there is no login.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// An authorization server, or what is said of it.
    #[error("{0}")]
    Auth(#[from] AuthError),
    /// The file that logins are kept in.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The server cannot be asked what it wants.
    #[error("the server does not say what it wants: {0}")]
    Server(CallError),
    /// It wants nothing, or something that no login gives.
    #[error("{0}")]
    NotWanted(String),
    /// No address of this machine can be listened on for the answer.
    #[error("127.0.0.1:{port} cannot be listened on for the answer: {error}{}", if *.port == 0 { "" } else { " (oauth.callbackPort)" })]
    Callback {
        /// The port; 0 for any.
        port: u16,
        /// Why.
        error: io::Error,
    },
    /// The user did not come back.
    #[error("nobody logged in within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The token has ended, and cannot be renewed.
    #[error("it has ended")]
    Ended,
    /// The user has logged out.
    #[error("it was logged out")]
    LoggedOut,
}

/// A login that waits for its user.
pub struct Begun {
    account: Account,
    web: Guarded,
    login: Login,
    listener: TcpListener,
    /// What is kept of it, without the token.
    kept: KeptLogin,
}

/// A login that was made.
pub struct LoggedIn {
    /// Who gave the token.
    pub issuer: String,
    /// What was asked for.
    pub scopes: Vec<String>,
    /// Until when the token is good, if that was said.
    pub expires_at: Option<Timestamp>,
    /// Whether it will be renewed by itself.
    pub is_renewed: bool,
}

impl Logins {
    /// Begin a login: find out what the server wants and who gives it, and where the user has to go.
    pub async fn begin(&self, upstream: &Upstream) -> Result<Begun, LoginError> {
        let not_wanted = |why: &str| LoginError::NotWanted(why.to_owned());
        let account = self.account(upstream).ok_or_else(|| {
            not_wanted(
                "a login is for servers with an http address; this one is a command, or has a header Authorization",
            )
        })?;
        if account.oauth.grant != Grant::AuthorizationCode {
            return Err(not_wanted(
                "nobody logs in to this server: oauth.grant says that the hub gets its tokens by itself",
            ));
        }
        let contents = self.store.read()?;
        let wanted = contents.wanted(&account.name, &account.url).cloned();
        let challenge = match (probe(upstream).await?, &wanted) {
            (Some(challenge), _) => challenge,
            (None, Some(wanted)) => wanted.challenge(),
            (None, None) => return Err(not_wanted("the server answers without a login")),
        };
        let web = account.web().await;
        let resource = discovery::resource(&web, &account.url, &challenge).await?;
        let server = discovery::authorization_server(&web, account.issuer(&resource, &contents)?).await?;
        let last = contents.kept(&account.name, &account.url).filter(|kept| kept.issuer == server.issuer);
        let asked = last.map(|kept| kept.scopes.clone()).unwrap_or_default();
        let more = wanted.filter(|wanted| wanted.is_more).map(|wanted| wanted.scopes).unwrap_or_default();
        let mut scopes = union(union(asked, account.scopes(&challenge, &resource)), more);
        if !scopes.is_empty() && server.scopes_supported.iter().any(|scope| scope == OFFLINE_ACCESS) {
            scopes = union(scopes, vec![OFFLINE_ACCESS.to_owned()]);
        }
        let known = contents.clients.get(&server.issuer);
        let (listener, redirect_uri) = listen(&account, known).await?;
        let (client, registered) = account.known(&web, &server, known, &redirect_uri).await?;
        let key = key_for(&challenge, &server)?;
        let kept = KeptLogin {
            issuer: server.issuer.clone(),
            resource: resource.resource.clone(),
            client_id: client.id.clone(),
            client: registered,
            scopes: scopes.clone(),
            access_token: String::new(),
            key: key.as_ref().map(ProofKey::to_text),
            refresh_token: None,
            expires_at_ms: None,
            renew_at_ms: None,
        };
        let login = Login::begin(server, client, resource.resource, redirect_uri, &scopes, key)?;
        Ok(Begun { account, web, login, listener, kept })
    }
}

/// What the server wants of somebody who has no token; `None` if it does not mind.
async fn probe(upstream: &Upstream) -> Result<Option<Challenge>, LoginError> {
    let Transport::Http { url, headers, is_sse, .. } = &upstream.transport else {
        return Err(LoginError::NotWanted("the server is not reached over HTTP".to_owned()));
    };
    let unfit = |why: String| LoginError::NotWanted(why);
    let heard = Arc::new(Probe::default());
    let target = Target {
        url: Url::parse(url.reveal()).map_err(|error| unfit(error.to_string()))?,
        headers: header_map(headers).map_err(unfit)?,
        client: http_client().map_err(unfit)?,
        authorization: Some(Arc::clone(&heard) as Arc<dyn Authorization>),
        is_sse: *is_sse,
        is_direct: !has_proxy(),
    };
    let setup = Setup {
        info: json!({ "name": "skep", "version": env!("CARGO_PKG_VERSION") }),
        capabilities: json!({}),
        handler: Arc::new(()),
        limits: Limits { start_time_max: PROBE_TIME_MAX, ..Limits::default() },
        revision: None,
    };
    let connected = Connection::over_http(target, setup).await;
    let challenge = heard.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (challenge, connected) {
        (Some(challenge), _) => Ok(Some(challenge)),
        (None, Err(error)) => Err(LoginError::Server(error)),
        (None, Ok(connection)) => {
            connection.close("it was only asked what it wants").await;
            Ok(None)
        }
    }
}

/// Hears what a server wants, and has nothing to give.
#[derive(Debug, Default)]
struct Probe(Mutex<Option<Challenge>>);

impl Authorization for Probe {
    fn token(&self, refusal: Option<Refusal>) -> BoxFuture<'static, Result<Option<Token>, Denied>> {
        let is_refused = refusal.is_some();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = refusal.map(|refusal| refusal.challenge);
        let denied = || Denied::NeedsLogin("it wants a login".to_owned());
        Box::pin(async move { if is_refused { Err(denied()) } else { Ok(None) } })
    }
}

/// Where the answer comes to: the port that is configured, or the one that a registered client has said, or any.
async fn listen(account: &Account, registered: Option<&Registered>) -> Result<(TcpListener, String), LoginError> {
    let bind = async |port: u16| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = listener.map_err(|error| LoginError::Callback { port, error })?;
        let port = listener.local_addr().map_err(|error| LoginError::Callback { port, error })?.port();
        Ok((listener, format!("http://127.0.0.1:{port}{CALLBACK}")))
    };
    if let Some(port) = account.oauth.callback_port {
        return bind(port).await;
    }
    let last = registered.and_then(|client| Url::parse(&client.redirect_uri).ok()?.port());
    if let Some(port) = last
        && let Ok(bound) = bind(port).await
    {
        return Ok(bound);
    }
    bind(0).await
}

impl Account {
    /// Who we are to this authorization server; the one whose login came off last, or registered now, if need be.
    async fn known(
        &self,
        web: &Guarded,
        server: &AuthorizationServer,
        last: Option<&Registered>,
        redirect_uri: &str,
    ) -> Result<(Client, Option<Registered>), LoginError> {
        if let Some(client) = self.client(server, None)? {
            return Ok((client, None));
        }
        let registered = match last.filter(|last| last.redirect_uri == redirect_uri) {
            Some(last) => last.clone(),
            None => {
                let registration::Registered { id, secret, method } =
                    registration::register(web, server, CLIENT_NAME, redirect_uri).await?;
                Registered { id, secret, method, redirect_uri: redirect_uri.to_owned() }
            }
        };
        let client = self.client(server, Some(&registered))?;
        let client = client.ok_or_else(|| AuthError::Unconfigured("this client is not known there".to_owned()))?;
        Ok((client, Some(registered)))
    }
}

impl Begun {
    /// Where the user has to go.
    pub fn url(&self) -> &Url {
        self.login.url()
    }

    /// The authorization server that asks the user there.
    pub fn issuer(&self) -> &str {
        &self.kept.issuer
    }

    /// Wait until he comes back, and keep the login. Dropping the future ends the wait, and changes nothing.
    pub async fn finish(self, time_max: Duration) -> Result<LoggedIn, LoginError> {
        let Begun { account, web, login, listener, kept } = self;
        let (tell, mut answers) = mpsc::channel(1);
        let router = Router::new().route(CALLBACK, get(came_back)).with_state(tell);
        let done = CancellationToken::new();
        let serving = axum::serve(listener, router).with_graceful_shutdown(done.clone().cancelled_owned());
        let finishing = async {
            let Callback { query, reply } = timeout(time_max, answer_to(&login, &mut answers))
                .await
                .map_err(|_| LoginError::TimedOut(time_max))?
                .ok_or(LoginError::TimedOut(time_max))?;
            let made = keep(&account, &web, login, &query, kept).await;
            let _ = reply.send(made.as_ref().map(drop).map_err(ToString::to_string)); // he may have closed the page
            made
        };
        let mut serving = Box::pin(async move { serving.await });
        let made = tokio::select! {
            made = finishing => made,
            ended = &mut serving => Err(LoginError::Callback { port: 0, error: ended.err().unwrap_or(io::ErrorKind::BrokenPipe.into()) }),
        };
        done.cancel();
        let _ = timeout(FAREWELL_MAX, serving).await; // until the browser has the page
        made
    }
}

/// Get the token for the answer, and keep it.
async fn keep(
    account: &Account,
    web: &Guarded,
    login: Login,
    query: &str,
    mut kept: KeptLogin,
) -> Result<LoggedIn, LoginError> {
    let now_ms = now_ms();
    let granted = login.finish(web, query, now_ms / 1000).await?;
    kept.take(granted, now_ms);
    let made = LoggedIn {
        issuer: kept.issuer.clone(),
        scopes: kept.scopes.clone(),
        expires_at: kept.expires_at_ms.and_then(|at_ms| Timestamp::from_millisecond(at_ms.try_into().ok()?).ok()),
        is_renewed: kept.refresh_token.is_some(),
    };
    let mut held = account.logins.store.lock().await?;
    if let Some(client) = &kept.client {
        held.contents.clients.insert(kept.issuer.clone(), client.clone());
    }
    let entry = held.contents.entry(&account.name, &account.url);
    if account.oauth.client_id.is_some() {
        entry.used = Some(Used { client_id: kept.client_id.clone(), issuer: kept.issuer.clone() });
    }
    (entry.kept, entry.wanted) = (Some(kept), None);
    held.save()?;
    Ok(made)
}

/// Somebody who came to the redirect URI, and waits for a page.
struct Callback {
    query: String,
    reply: oneshot::Sender<Result<(), String>>,
}

/// The answer to this login. What else comes is turned away: any page may send a browser here.
async fn answer_to(login: &Login, answers: &mut mpsc::Receiver<Callback>) -> Option<Callback> {
    loop {
        let came = answers.recv().await?;
        if login.is_answered_by(&came.query) {
            return Some(came);
        }
        let _ = came.reply.send(Err("this is not the login that Skep waits for".to_owned()));
    }
}

async fn came_back(State(tell): State<mpsc::Sender<Callback>>, RawQuery(query): RawQuery) -> Response {
    let (reply, replied) = oneshot::channel();
    let over = || Err("the login is over".to_owned());
    let outcome = match tell.send(Callback { query: query.unwrap_or_default(), reply }).await {
        Ok(()) => replied.await.unwrap_or_else(|_| over()),
        Err(_) => over(),
    };
    match outcome {
        Ok(()) => {
            Html("<!doctype html><title>Skep</title><p>You are logged in. This page can be closed.</p>").into_response()
        }
        // As plain text: the words may be somebody else's.
        Err(why) => (StatusCode::BAD_REQUEST, format!("There is no login: {why}\n")).into_response(),
    }
}
