//! Making this client known to an authorization server that does not know it (RFC 7591). It is the last resort: a client that was
//! registered by hand comes first, then one whose name is the address of a document about it.

use axum::http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    AuthError, Web,
    discovery::AuthorizationServer,
    web::{Request, refused, send},
};

/// A client that an authorization server has just got to know. It has a secret, unless it is public.
pub struct Registered {
    /// Its name there.
    pub id: String,
    /// Its secret there.
    pub secret: Option<String>,
    /// How it is to prove that it is itself; `None` if that was not said.
    pub method: Option<String>,
}

/// What this client is: a program on somebody's machine.
fn description(name: &str, redirect_uri: &str) -> Value {
    json!({
        "client_name": name,
        "application_type": "native",
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    })
}

/// Register.
pub async fn register(
    web: &dyn Web,
    server: &AuthorizationServer,
    name: &str,
    redirect_uri: &str,
) -> Result<Registered, AuthError> {
    #[derive(Deserialize)]
    struct Answer {
        client_id: String,
        client_secret: Option<String>,
        token_endpoint_auth_method: Option<String>,
    }
    let Some(url) = server.registration_endpoint()? else {
        let message = format!(
            "{} knows only clients that were registered there; register one, and put its clientId into `oauth`",
            server.issuer
        );
        return Err(AuthError::Unconfigured(message));
    };
    let mut description = description(name, redirect_uri);
    if let Some(method) = method(server) {
        description["token_endpoint_auth_method"] = method.into();
    }
    let headers = HeaderMap::from_iter([
        (header::ACCEPT, HeaderValue::from_static("application/json")),
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
    ]);
    let body = description.to_string().into_bytes();
    let answer = send(web, Request { method: Method::POST, url, headers, body }).await?;
    if !answer.status.is_success() {
        return Err(refused(&answer));
    }
    // What is wrong with it is not said: it may hold a secret.
    let unreadable = |_| AuthError::Unreachable("the answer to the registration cannot be read".to_owned());
    let Answer { client_id, client_secret, token_endpoint_auth_method } =
        serde_json::from_slice(&answer.body).map_err(unreadable)?;
    Ok(Registered { id: client_id, secret: client_secret, method: token_endpoint_auth_method })
}

/// How to ask to prove who we are: not at all if that is allowed, since a secret on a user's machine proves little.
fn method(server: &AuthorizationServer) -> Option<&'static str> {
    let supported = server.token_endpoint_auth_methods_supported.as_ref()?;
    ["none", "client_secret_basic", "client_secret_post"]
        .into_iter()
        .find(|method| supported.iter().any(|one| one == method))
}
