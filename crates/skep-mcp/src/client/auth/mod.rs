//! Access to a server that requires its callers to be authorized (authorization, 2026-07-28; OAuth 2.1 and its family).
//!
//! A connection knows two things only: the token that it sends, and where to get another one when the server refuses it
//! ([`Authorization`]). What a token is got for is outside: a user's login, which somebody keeps, or a client's own key.
//! The protocol that either of them needs is in the parts of this module, each of them one step, so that whoever keeps logins
//! decides what happens between them: [`Challenge`] is what a server says, [`discovery`] finds out who gives tokens for it,
//! [`registration`] makes this client known there, [`login`] asks the user, [`grant`] gets tokens.
//!
//! A server chooses the addresses that are asked here, so each must be https or on this machine, is read within limits, and its
//! redirects are judged as it was. Which addresses may be reached at all is for [`Web`] to say.

mod access;
mod challenge;
pub mod discovery;
mod dpop;
pub mod grant;
pub mod login;
pub mod registration;
mod web;

use std::fmt;

use axum::http::{HeaderValue, header::InvalidHeaderValue};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use futures_util::future::BoxFuture;
use tokio::time::Instant;

pub(super) use self::access::Access;
pub use self::{
    challenge::Challenge,
    dpop::ProofKey,
    web::{Answer, Request, Web},
};
use crate::server::random;

/// Where the tokens of one server come from.
pub trait Authorization: fmt::Debug + Send + Sync + 'static {
    /// A token. Without a refusal, the one that there is, renewed if it is about to end; `None` if there is none yet. With a
    /// refusal, another one. What is returned is driven to its end even if nobody
    /// waits for it any more: a refresh token that was sent may be used up.
    fn token(&self, refusal: Option<Refusal>) -> BoxFuture<'static, Result<Option<Token>, Denied>>;
}

/// Why a connection gets no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A user has to log in, and is told how.
    #[error("{0}")]
    NeedsLogin(String),
    /// It may be tried again later.
    #[error("there is no token for it: {0}")]
    Failed(String),
}

/// A request that was refused for want of a right.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The token that it had.
    pub token: Option<Token>,
    /// What the server wants.
    pub challenge: Challenge,
}

/// An access token. It is never shown.
#[derive(Clone, Debug)]
pub struct Token {
    header: HeaderValue,
    /// What it is bound to.
    key: Option<ProofKey>,
    /// When it should be renewed.
    stale_at: Option<Instant>,
}

impl Token {
    /// A token that should be renewed at that time: a bearer token (RFC 6750), or one that is bound to this key (RFC 9449). It fails
    /// if it has characters that no header carries.
    pub fn new(token: &str, key: Option<ProofKey>, stale_at: Option<Instant>) -> Result<Token, InvalidHeaderValue> {
        let scheme = if key.is_some() { "DPoP" } else { "Bearer" };
        let mut header = HeaderValue::try_from(format!("{scheme} {token}"))?;
        header.set_sensitive(true);
        Ok(Token { header, key, stale_at })
    }

    /// The same token, to be renewed at another time.
    pub fn renewed_at(self, stale_at: Option<Instant>) -> Token {
        Token { stale_at, ..self }
    }

    /// Whether it is this token.
    pub fn is(&self, token: &str) -> bool {
        self.bare() == token.as_bytes()
    }

    /// Without the scheme.
    fn bare(&self) -> &[u8] {
        let header = self.header.as_bytes();
        let scheme = header.iter().position(|byte| *byte == b' ').map_or(0, |space| space + 1);
        &header[scheme..]
    }
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Somebody did not answer, or not as HTTP: it may be tried again.
    #[error("{0}")]
    Unreachable(String),
    /// What was said breaks a rule that keeps codes and tokens from others: the operators of the servers have to mend it.
    #[error("{0}")]
    Untrusted(String),
    /// The authorization server said no (RFC 6749, 5.2).
    #[error("the authorization server refuses: {error}{}", .description.as_ref().map_or(String::new(), |text| format!(" ({text})")))]
    Refused {
        /// Its code, such as `invalid_grant`.
        error: String,
        /// Its words.
        description: Option<String>,
    },
    /// This client lacks something: whoever configures it has to add it.
    #[error("{0}")]
    Unconfigured(String),
}

/// An unguessable text for one use: 256 bits, as RFC 7636 (4.1) wants them for a verifier.
fn unguessable() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(random::<32>())
}

/// Scopes, which are a list in one text (RFC 6749, 3.3).
fn scopes(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}
