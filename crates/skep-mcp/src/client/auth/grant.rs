//! Tokens for something: for a code, for a token that is about to end, for what a client is (RFC 6749; RFC 7521 to 7523).

use axum::http::{HeaderMap, HeaderValue, Method, header};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::{
    AuthError, ProofKey, Web,
    discovery::AuthorizationServer,
    dpop::{DPOP, DPOP_NONCE, USE_NONCE},
    unguessable,
    web::{Request, plain, refused, send},
};

/// How long a signed statement of who the client is may be used.
const ASSERTION_SECONDS: u64 = 60;
const IDENTITY_ASSERTION: &str = "urn:ietf:params:oauth:token-type:id-jag";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// This client as an authorization server knows it.
pub struct Client {
    /// Its name there.
    pub id: String,
    /// How it proves that it is itself.
    pub proof: Proof,
}

/// How a client proves that it is itself.
pub enum Proof {
    /// It does not: its name is public.
    None,
    /// By a secret, as HTTP Basic.
    Basic(String),
    /// By a secret in the request.
    Post(String),
    /// By a signature.
    Key(Key),
}

impl Proof {
    /// A secret, in the way that the server takes it.
    pub fn secret(secret: String, server: &AuthorizationServer) -> Proof {
        let takes = |method| {
            server.token_endpoint_auth_methods_supported.as_ref().is_none_or(|all| all.iter().any(|one| one == method))
        };
        if takes("client_secret_basic") || !takes("client_secret_post") {
            Proof::Basic(secret)
        } else {
            Proof::Post(secret)
        }
    }
}

/// A private key that signs for a client.
pub struct Key {
    key: EncodingKey,
    algorithm: Algorithm,
}

impl Key {
    /// A key in PEM (PKCS #8), of P-256, RSA or Ed25519.
    pub fn from_pem(pem: &[u8]) -> Result<Key, AuthError> {
        type Read = fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>;
        let kinds: [(Read, Algorithm); 3] = [
            (EncodingKey::from_ec_pem, Algorithm::ES256),
            (EncodingKey::from_rsa_pem, Algorithm::RS256),
            (EncodingKey::from_ed_pem, Algorithm::EdDSA),
        ];
        let found = kinds.into_iter().find_map(|(read, algorithm)| Some(Key { key: read(pem).ok()?, algorithm }));
        found.ok_or_else(|| AuthError::Unconfigured("the private key is no PEM of P-256, RSA or Ed25519".to_owned()))
    }

    /// A statement for one use that the client is itself (RFC 7523, 3), good from `now`, in seconds since 1970.
    fn assertion(&self, client: &str, issuer: &str, now: u64) -> Result<String, AuthError> {
        #[derive(Serialize)]
        struct Claims<'a> {
            iss: &'a str,
            sub: &'a str,
            aud: &'a str,
            iat: u64,
            exp: u64,
            jti: String,
        }
        let (iss, sub, aud) = (client, client, issuer);
        let claims = Claims { iss, sub, aud, iat: now, exp: now + ASSERTION_SECONDS, jti: unguessable() };
        jsonwebtoken::encode(&Header::new(self.algorithm), &claims, &self.key)
            .map_err(|error| AuthError::Unconfigured(format!("the private key does not sign: {error}")))
    }
}

/// What a token is got for.
pub enum Grant<'a> {
    /// What a user's login brought.
    Code {
        /// The code.
        code: &'a str,
        /// Where it was sent.
        redirect_uri: &'a str,
        /// What only the one who began the login knows.
        verifier: &'a str,
    },
    /// A refresh token.
    Refresh(&'a str),
    /// That the client is itself.
    ClientCredentials,
    /// A statement of somebody whom the authorization server trusts, such as the platform that a workload runs on.
    Assertion(&'a str),
}

/// What was got.
pub struct Granted {
    /// The token.
    pub access_token: String,
    /// Whether it is bound to the key.
    pub is_bound: bool,
    /// For how many seconds it is good, if that was said.
    pub expires_in: Option<u64>,
    /// For another one.
    pub refresh_token: Option<String>,
}

/// What a request to a token endpoint says beside what the token is got for.
pub struct TokenRequest<'a> {
    /// The server that is asked for the token.
    pub server: &'a AuthorizationServer,
    /// The client that asks for it.
    pub client: &'a Client,
    /// Where the token will be sent.
    pub resource: &'a str,
    /// What it should be good for.
    pub scopes: &'a [String],
    /// What it should be bound to.
    pub key: Option<&'a ProofKey>,
    /// In seconds since 1970.
    pub now: u64,
}

impl TokenRequest<'_> {
    /// Get a token.
    pub async fn token(&self, web: &dyn Web, grant: Grant<'_>) -> Result<Granted, AuthError> {
        let mut form = Form::default();
        match grant {
            Grant::Code { code, redirect_uri, verifier } => form
                .add("grant_type", "authorization_code")
                .add("code", code)
                .add("redirect_uri", redirect_uri)
                .add("code_verifier", verifier),
            Grant::Refresh(token) => form.add("grant_type", "refresh_token").add("refresh_token", token),
            Grant::ClientCredentials => form.add("grant_type", "client_credentials"),
            Grant::Assertion(assertion) => {
                form.add("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer").add("assertion", assertion)
            }
        };
        granted(&self.send(web, form).await?, self.key.is_some())
    }

    /// What an identity provider says of a user to an authorization server: exchanged for his ID token (RFC 8693; identity assertion
    /// authorization grant, 4.3). It is the assertion of the next request, to that authorization server.
    pub async fn identity_assertion(&self, web: &dyn Web, id_token: &str, audience: &str) -> Result<String, AuthError> {
        #[derive(Deserialize)]
        struct Answer {
            access_token: String, // RFC 8693, 2.2.1: whatever kind it is of
            issued_token_type: String,
        }
        let mut form = Form::default();
        form.add("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
            .add("requested_token_type", IDENTITY_ASSERTION)
            .add("subject_token_type", "urn:ietf:params:oauth:token-type:id_token")
            .add("subject_token", id_token)
            .add("audience", audience);
        let unreadable = |_| AuthError::Unreachable("the identity provider's answer cannot be read".to_owned());
        let answer: Answer = serde_json::from_slice(&self.send(web, form).await?).map_err(unreadable)?;
        if answer.issued_token_type != IDENTITY_ASSERTION {
            let message = "the identity provider gives something else than was asked for";
            return Err(AuthError::Untrusted(message.to_owned()));
        }
        Ok(answer.access_token)
    }

    /// Take a token back before it ends (RFC 7009); with a refresh token goes what was got for it. Returns whether the server does
    /// such a thing. `kind` is `access_token` or `refresh_token`.
    pub async fn revoke(&self, web: &dyn Web, token: &str, kind: &str) -> Result<bool, AuthError> {
        let Some(url) = self.server.revocation_endpoint()? else { return Ok(false) };
        let mut form = Form::default();
        form.add("token", token).add("token_type_hint", kind);
        self.ask(web, &url, form).await.map(|_| true)
    }

    /// Ask for a token.
    async fn send(&self, web: &dyn Web, mut form: Form) -> Result<Vec<u8>, AuthError> {
        form.add("resource", self.resource);
        if !self.scopes.is_empty() {
            form.add("scope", &self.scopes.join(" "));
        }
        self.ask(web, &self.server.token_endpoint()?, form).await
    }

    /// Ask; once more if the proof of the key must contain something. Returns the body of an answer that is no refusal.
    async fn ask(&self, web: &dyn Web, url: &Url, form: Form) -> Result<Vec<u8>, AuthError> {
        let answer = send(web, self.request(url, form.clone(), None)?).await?;
        let nonce = answer.headers.get(DPOP_NONCE).and_then(|nonce| nonce.to_str().ok());
        let answer = match (refused(&answer), nonce, self.key) {
            _ if answer.status.is_success() => answer,
            (AuthError::Refused { error, .. }, Some(nonce), Some(_)) if error == USE_NONCE => {
                send(web, self.request(url, form, Some(nonce))?).await?
            }
            (error, ..) => return Err(error),
        };
        if answer.status.is_success() { Ok(answer.body) } else { Err(refused(&answer)) }
    }

    fn request(&self, url: &Url, mut form: Form, nonce: Option<&str>) -> Result<Request, AuthError> {
        let (server, client) = (self.server, self.client);
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        match &client.proof {
            Proof::Basic(secret) => drop(headers.insert(header::AUTHORIZATION, basic(&client.id, secret)?)),
            Proof::None => drop(form.add("client_id", &client.id)),
            Proof::Post(secret) => drop(form.add("client_id", &client.id).add("client_secret", secret)),
            Proof::Key(key) => {
                let assertion = key.assertion(&client.id, &server.issuer, self.now)?;
                form.add("client_id", &client.id)
                    .add("client_assertion_type", ASSERTION_TYPE)
                    .add("client_assertion", &assertion);
            }
        }
        if let Some(key) = self.key {
            headers.insert(DPOP, key.proof(&Method::POST, url, None, nonce, self.now)?);
        }
        Ok(Request { method: Method::POST, url: url.clone(), headers, body: form.0.into_bytes() })
    }
}

/// The token in an answer, which may be bound to a key if it was asked for so.
fn granted(body: &[u8], may_be_bound: bool) -> Result<Granted, AuthError> {
    #[derive(Deserialize)]
    struct Answer {
        access_token: String,
        token_type: String,
        expires_in: Option<f64>,
        refresh_token: Option<String>,
    }
    // What is wrong with it is not said: it holds secrets.
    let unreadable = |_| AuthError::Unreachable("the answer to the request for a token cannot be read".to_owned());
    let Answer { access_token, token_type, expires_in, refresh_token } =
        serde_json::from_slice(body).map_err(unreadable)?;
    let is_bound = may_be_bound && token_type.eq_ignore_ascii_case("DPoP");
    if !is_bound && !token_type.eq_ignore_ascii_case("bearer") {
        let message = format!("the token is of the type {:?}, which was not asked for", plain(&token_type));
        return Err(AuthError::Unconfigured(message));
    }
    let expires_in = expires_in.filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64);
    Ok(Granted { access_token, is_bound, expires_in, refresh_token })
}

/// Name and secret as HTTP Basic has them (RFC 6749, 2.3.1).
fn basic(id: &str, secret: &str) -> Result<HeaderValue, AuthError> {
    let both = format!("{}:{}", encoded(id), encoded(secret));
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(both)))
        .map_err(|_| AuthError::Unconfigured("the client's secret does not fit a header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `application/x-www-form-urlencoded`.
#[derive(Clone, Default)]
struct Form(String);

impl Form {
    fn add(&mut self, name: &str, value: &str) -> &mut Form {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(&format!("{name}={}", encoded(value)));
        self
    }
}

/// A value as forms have it. The library that knows how does it for a URL's query.
fn encoded(text: &str) -> String {
    let Ok(mut url) = Url::parse("about:blank") else { return String::new() };
    url.query_pairs_mut().append_key_only(text);
    url.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_secrets_are_encoded_as_forms_before_they_are_basic() {
        let value = basic("a b:c", "ü&+").unwrap();
        let text = value.to_str().unwrap().strip_prefix("Basic ").unwrap();
        assert_eq!(BASE64_STANDARD.decode(text).unwrap(), b"a+b%3Ac:%C3%BC%26%2B");
        assert!(value.is_sensitive());
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_not_repeated_in_the_error() {
        let error = granted(br#"{"access_token": 17, "refresh_token": "s3cret"}"#, true).err().unwrap().to_string();
        assert!(!error.contains("s3cret") && !error.contains("17"), "{error}");
        let bound = br#"{"access_token": "x", "token_type": "DPoP"}"#;
        assert!(granted(bound, false).is_err() && granted(bound, true).unwrap().is_bound);
    }
}
