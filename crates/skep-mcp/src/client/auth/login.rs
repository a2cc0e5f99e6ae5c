//! A user's login: the authorization code grant with PKCE (OAuth 2.1, 4.1; RFC 7636), from the address that the user is sent to until
//! the token.
//!
//! How the user gets there and how the answer gets back is outside. An answer counts only if it has the state of this login,
//! and a login takes one answer.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use reqwest::Url;
use sha2::{Digest as _, Sha256};

use super::{
    AuthError, ProofKey, Web,
    discovery::AuthorizationServer,
    grant::{Client, Grant, Granted, TokenRequest},
    unguessable,
    web::plain,
};

/// A login that has begun.
pub struct Login {
    server: AuthorizationServer,
    client: Client,
    resource: String,
    redirect_uri: String,
    key: Option<ProofKey>,
    state: String,
    verifier: String,
    url: Url,
}

impl Login {
    /// Begin: where is the user sent? The token is bound to the key, if there is one.
    pub fn begin(
        server: AuthorizationServer,
        client: Client,
        resource: String,
        redirect_uri: String,
        scopes: &[String],
        key: Option<ProofKey>,
    ) -> Result<Login, AuthError> {
        let (state, verifier) = (unguessable(), unguessable());
        let mut url = server.authorization_endpoint()?;
        {
            let mut query = url.query_pairs_mut();
            query
                .append_pair("response_type", "code")
                .append_pair("client_id", &client.id)
                .append_pair("redirect_uri", &redirect_uri)
                .append_pair("state", &state)
                .append_pair("code_challenge", &BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&verifier)))
                .append_pair("code_challenge_method", "S256")
                .append_pair("resource", &resource);
            if !scopes.is_empty() {
                query.append_pair("scope", &scopes.join(" "));
            }
            if let Some(key) = &key {
                query.append_pair("dpop_jkt", &key.thumbprint()); // RFC 9449, 10: so is the code
            }
            if scopes.iter().any(|scope| scope == OFFLINE_ACCESS) {
                query.append_pair("prompt", "consent"); // OpenID Connect Core 1.0, 11: else it is passed over
            }
        }
        Ok(Login { server, client, resource, redirect_uri, key, state, verifier, url })
    }

    /// Where the user goes.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Whether this query of the redirect URI is an answer to this login. Any page may send a browser there.
    pub fn is_answered_by(&self, query: &str) -> bool {
        Response::parse(query).state.as_deref() == Some(&self.state)
    }

    /// Take the answer, and get the token. `now` is in seconds since 1970.
    pub async fn finish(self, web: &dyn Web, query: &str, now: u64) -> Result<Granted, AuthError> {
        let code = self.code(query)?;
        let grant = Grant::Code { code: &code, redirect_uri: &self.redirect_uri, verifier: &self.verifier };
        let Login { server, client, resource, key, .. } = &self;
        TokenRequest { server, client, resource, scopes: &[], key: key.as_ref(), now }.token(web, grant).await
    }

    /// The code, if it is our authorization server's (RFC 9207, 2.4). What another one says is not even shown.
    fn code(&self, query: &str) -> Result<String, AuthError> {
        let Response { state, iss, code, error, error_description } = Response::parse(query);
        let untrusted = |message: &str| Err(AuthError::Untrusted(message.to_owned()));
        if state.as_deref() != Some(&self.state) {
            return untrusted("the answer is not to this login");
        }
        match iss {
            Some(iss) if iss != self.server.issuer => {
                return untrusted("the answer is of another authorization server than the one that was asked");
            }
            None if self.server.authorization_response_iss_parameter_supported => {
                return untrusted("the answer does not say which authorization server it is of, as that server's do");
            }
            _ => {}
        }
        match (error, code) {
            (Some(error), _) => {
                let description = error_description.map(|text| plain(&text));
                Err(AuthError::Refused { error: plain(&error), description })
            }
            (None, Some(code)) => Ok(code),
            (None, None) => untrusted("the answer has neither a code nor an error"),
        }
    }
}

/// The scope that asks for a refresh token, where an authorization server has such a scope (OpenID Connect Core 1.0, 11).
pub const OFFLINE_ACCESS: &str = "offline_access";

/// What the redirect URI is told.
#[derive(Default)]
struct Response {
    state: Option<String>,
    iss: Option<String>,
    code: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

impl Response {
    /// Said twice, the first counts.
    fn parse(query: &str) -> Response {
        let mut response = Response::default();
        let Ok(mut url) = Url::parse("http://localhost/") else { return response };
        url.set_query(Some(query));
        for (name, value) in url.query_pairs() {
            let place = match name.as_ref() {
                "state" => &mut response.state,
                "iss" => &mut response.iss,
                "code" => &mut response.code,
                "error" => &mut response.error,
                "error_description" => &mut response.error_description,
                _ => continue,
            };
            place.get_or_insert_with(|| value.into_owned());
        }
        response
    }
}
