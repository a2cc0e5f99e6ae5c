//! An MCP server and the authorization server that it trusts, both at one address, as their specifications have them; and the ways in
//! which they may be wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Form, Json, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Redirect, Response},
    routing::{get, post},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

/// What is wrong with it, and how it is set up.
#[derive(Clone, Default)]
pub(crate) struct Setup {
    /// Members of the authorization server's document that are other than they should be; `null` takes one out.
    pub(crate) metadata: Value,
    /// The same for the MCP server's.
    pub(crate) resource: Value,
    /// Where the MCP server's document redirects to.
    pub(crate) redirects_to: Option<&'static str>,
    /// What `iss` says in answers instead of the issuer; empty for nothing.
    pub(crate) iss: Option<&'static str>,
    /// How long tokens are good.
    pub(crate) expires_in: Option<u64>,
    /// So many requests must have been refused before a token is renewed.
    pub(crate) refusals_before_renewal: usize,
}

/// What has happened.
#[derive(Default)]
pub(crate) struct Happened {
    /// The scopes that each token is good for.
    pub(crate) tokens: BTreeMap<String, BTreeSet<String>>,
    refresh_tokens: BTreeMap<String, String>,
    /// The code, the challenge that its verifier must fit, and what was asked for.
    codes: BTreeMap<String, BTreeMap<String, String>>,
    /// What was asked of users.
    pub(crate) authorizations: Vec<BTreeMap<String, String>>,
    /// Requests for tokens, by the kind of the grant.
    pub(crate) grants: Vec<String>,
    pub(crate) registrations: Vec<Value>,
    /// Tokens that were revoked.
    pub(crate) revocations: usize,
    /// Another authorization server that the MCP server trusts from now on.
    pub(crate) moved_to: Option<String>,
    made: usize,
}

impl Happened {
    fn make(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}-of-the-test-{}", self.made)
    }

    /// Every secret that there was.
    pub(crate) fn secrets(&self) -> Vec<String> {
        self.tokens.keys().chain(self.refresh_tokens.keys()).chain(self.codes.keys()).cloned().collect()
    }
}

#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) url: String,
    setup: Arc<Setup>,
    happened: Arc<Mutex<Happened>>,
    /// Requests that were refused with a token.
    refusals: watch::Sender<usize>,
    _serving: Arc<JoinSet<()>>,
}

impl Place {
    pub(crate) async fn open(setup: Setup) -> Place {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (setup, refusals) = (setup.into(), watch::Sender::default());
        let mut place = Place { url, setup, happened: Arc::default(), refusals, _serving: Arc::default() };
        let router = Router::new()
            .route("/mcp", post(mcp))
            .route("/.well-known/oauth-protected-resource/mcp", get(resource))
            .route("/.well-known/oauth-authorization-server", get(metadata))
            .route("/register", post(register))
            .route("/authorize", get(authorize))
            .route("/token", post(token))
            .route("/revoke", post(revoke))
            .with_state(place.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        place._serving = Arc::new(serving);
        place
    }

    pub(crate) fn happened(&self) -> MutexGuard<'_, Happened> {
        self.happened.lock().unwrap()
    }

    /// No token that was given is good any more; refresh tokens are.
    pub(crate) fn forget_tokens(&self) {
        for scopes in self.happened().tokens.values_mut() {
            scopes.insert("(revoked)".to_owned());
        }
    }

    /// Nor are refresh tokens.
    pub(crate) fn forget_logins(&self) {
        self.forget_tokens();
        self.happened().refresh_tokens.clear();
    }

    fn challenge(&self, status: StatusCode, more: &str) -> Response {
        let metadata = format!("{}/.well-known/oauth-protected-resource/mcp", self.url);
        let challenge = format!("Bearer resource_metadata=\"{metadata}\", {more}");
        (status, [(header::WWW_AUTHENTICATE, challenge)]).into_response()
    }
}

/// Put these members over others.
fn with(mut document: Value, other: &Value) -> Json<Value> {
    for (name, value) in other.as_object().into_iter().flatten() {
        match value {
            Value::Null => drop(document.as_object_mut().unwrap().remove(name)),
            value => document[name] = value.clone(),
        }
    }
    Json(document)
}

async fn resource(State(place): State<Place>) -> Response {
    if let Some(elsewhere) = place.setup.redirects_to {
        return Redirect::temporary(elsewhere).into_response();
    }
    let url = &place.url;
    let issuer = place.happened().moved_to.clone().unwrap_or(url.clone());
    let document =
        json!({ "resource": format!("{url}/mcp"), "authorization_servers": [issuer], "scopes_supported": ["read"] });
    with(document, &place.setup.resource).into_response()
}

async fn metadata(State(place): State<Place>) -> Json<Value> {
    let url = &place.url;
    let document = json!({
        "issuer": url,
        "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/token"),
        "registration_endpoint": format!("{url}/register"),
        "revocation_endpoint": format!("{url}/revoke"),
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "authorization_response_iss_parameter_supported": true,
    });
    with(document, &place.setup.metadata)
}

async fn register(State(place): State<Place>, Json(client): Json<Value>) -> (StatusCode, Json<Value>) {
    let mut happened = place.happened();
    happened.registrations.push(client);
    let id = happened.make("client");
    (StatusCode::CREATED, Json(json!({ "client_id": id, "token_endpoint_auth_method": "none" })))
}

/// Its user agrees to everything.
async fn authorize(State(place): State<Place>, Query(asked): Query<BTreeMap<String, String>>) -> Redirect {
    let mut happened = place.happened();
    happened.authorizations.push(asked.clone());
    let code = happened.make("code");
    let iss = place.setup.iss.unwrap_or(&place.url);
    let iss = if iss.is_empty() { String::new() } else { format!("&iss={iss}") };
    let to = format!("{}?code={code}&state={}{iss}", asked["redirect_uri"], asked["state"]);
    happened.codes.insert(code, asked);
    Redirect::temporary(&to)
}

async fn token(State(place): State<Place>, Form(form): Form<BTreeMap<String, String>>) -> Response {
    if form["grant_type"] == "refresh_token" {
        let enough = |refusals: &usize| *refusals >= place.setup.refusals_before_renewal;
        drop(place.refusals.subscribe().wait_for(enough).await.unwrap());
    }
    let mut happened = place.happened();
    happened.grants.push(form["grant_type"].clone());
    let refused = |error: &str| (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response();
    assert_eq!(form["resource"], format!("{}/mcp", place.url));
    let scopes = match form["grant_type"].as_str() {
        "authorization_code" => {
            let Some(asked) = happened.codes.get(&form["code"]).cloned() else { return refused("invalid_grant") };
            let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&form["code_verifier"]));
            let fits = ["redirect_uri", "client_id", "resource"].iter().all(|name| asked[*name] == form[*name]);
            if !fits || challenge != asked["code_challenge"] {
                return refused("invalid_grant");
            }
            asked.get("scope").cloned().unwrap_or_default()
        }
        // Each is good once: who comes with it again may be a thief.
        "refresh_token" => match happened.refresh_tokens.remove(&form["refresh_token"]) {
            Some(scopes) => scopes,
            None => return refused("invalid_grant"),
        },
        _ => return refused("unsupported_grant_type"),
    };
    let (access, refresh) = (happened.make("access"), happened.make("refresh"));
    happened.tokens.insert(access.clone(), scopes.split(' ').map(str::to_owned).collect());
    happened.refresh_tokens.insert(refresh.clone(), scopes);
    let answer = json!({ "access_token": access, "token_type": "Bearer", "refresh_token": refresh });
    with(answer, &json!({ "expires_in": place.setup.expires_in })).into_response()
}

/// RFC 7009: a token that nobody knows is revoked already.
async fn revoke(State(place): State<Place>, Form(form): Form<BTreeMap<String, String>>) -> StatusCode {
    assert!(form["client_id"].starts_with("client"));
    let mut happened = place.happened();
    let token = &form["token"];
    let is_revoked = match form["token_type_hint"].as_str() {
        "access_token" => happened.tokens.get_mut(token).map(|scopes| scopes.insert("(revoked)".to_owned())).is_some(),
        _ => happened.refresh_tokens.remove(token).is_some(),
    };
    happened.revocations += usize::from(is_revoked);
    StatusCode::OK
}

/// A server of 2025-06-18 with two tools, one of which needs more than to read.
async fn mcp(State(place): State<Place>, headers: HeaderMap, Json(message): Json<Value>) -> Response {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let scopes = token.and_then(|token| place.happened().tokens.get(token).cloned());
    let Some(scopes) = scopes.filter(|scopes| !scopes.contains("(revoked)")) else {
        place.refusals.send_modify(|refusals| *refusals += usize::from(token.is_some()));
        return place.challenge(StatusCode::UNAUTHORIZED, "scope=\"read\", error=\"invalid_token\"");
    };
    if message["params"]["name"] == "write" && !scopes.contains("write") {
        return place.challenge(StatusCode::FORBIDDEN, "error=\"insufficient_scope\", scope=\"write\"");
    }
    let tool = |name: &str| json!({ "name": name, "inputSchema": { "type": "object" } });
    let answer = match message["method"].as_str().unwrap_or_default() {
        _ if message.get("id").is_none() => return StatusCode::ACCEPTED.into_response(),
        "initialize" => json!({ "result": {
            "protocolVersion": "2025-06-18", "capabilities": { "tools": {} }, "serverInfo": { "name": "place", "version": "1" },
        } }),
        "tools/list" => json!({ "result": { "tools": [tool("read"), tool("write")] } }),
        "tools/call" => json!({ "result": { "content": [{ "type": "text", "text": "done" }] } }),
        _ => json!({ "error": { "code": -32601, "message": "unknown" } }),
    };
    Json(with(answer, &json!({ "jsonrpc": "2.0", "id": message["id"] })).0).into_response()
}
