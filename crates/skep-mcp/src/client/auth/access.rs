//! The token that one connection sends, and its exchange for another one.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::http::{HeaderName, HeaderValue, Method, header::AUTHORIZATION};
use jiff::Timestamp;
use reqwest::Url;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{Authorization, Challenge, Denied, Refusal, Token, dpop::DPOP};
use crate::client::CallError;

/// How often one request is sent again with another token: somebody may have logged in meanwhile, with too few scopes, and again.
const RETRIES_MAX: usize = 2;

/// Tokens as a connection holds them. A server that never wanted one costs a look at a counter for each request.
pub(in crate::client) struct Access {
    source: Arc<dyn Authorization>,
    held: RwLock<Option<Token>>,
    /// How often `held` has changed: whoever was refused sees whether somebody else has got another one since.
    changes: AtomicU64,
    /// What the server wants in the proofs of a token that is bound to a key.
    nonce: Mutex<Option<String>>,
    /// Held by the one who asks for another one.
    changing: tokio::sync::Mutex<()>,
}

impl Access {
    pub(in crate::client) fn new(source: Arc<dyn Authorization>) -> Access {
        let (held, nonce, changing) = (RwLock::default(), Mutex::default(), tokio::sync::Mutex::default());
        Access { source, held, changes: AtomicU64::new(0), nonce, changing }
    }

    /// How often there was another token. Whoever is refused must have looked before he sent the request.
    pub(in crate::client) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The headers that carry the token to this address, if there is one.
    pub(in crate::client) fn headers(&self, method: &Method, url: &Url) -> Option<Vec<(HeaderName, HeaderValue)>> {
        let token = if self.changes() == 0 { None } else { self.held() }?;
        let mut headers = vec![(AUTHORIZATION, token.header.clone())];
        if let Some(key) = &token.key {
            let nonce = self.nonce.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
            match key.proof(method, url, Some(token.bare()), nonce.as_deref(), now) {
                Ok(proof) => headers.push((DPOP, proof)),
                Err(error) => tracing::warn!(%error, "a request goes without proof of its token"),
            }
        }
        Some(headers)
    }

    fn held(&self) -> Option<Token> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the token should be renewed before it is sent.
    pub(in crate::client) fn is_stale(&self) -> bool {
        if self.changes() == 0 {
            return false;
        }
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().and_then(|token| token.stale_at).is_some_and(|at| at <= Instant::now())
    }

    /// Get the token that there is before anything is sent.
    pub(in crate::client) async fn begin(&self, tasks: &TaskTracker) -> Result<(), CallError> {
        self.renew(tasks, self.changes(), None).await
    }

    /// What `send` brings with the token that this challenge wants, if there is one. The request that was challenged was sent
    /// after so many changes.
    pub(in crate::client) async fn again<R, F: Future<Output = Result<R, CallError>>>(
        &self,
        tasks: &TaskTracker,
        mut seen: u64,
        mut challenge: Challenge,
        challenge_of: impl Fn(&R) -> Option<Challenge>,
        send: impl Fn() -> F,
    ) -> Result<R, CallError> {
        for _ in 0..RETRIES_MAX {
            if challenge.wants_nonce() {
                *self.nonce.lock().unwrap_or_else(PoisonError::into_inner) = challenge.nonce;
            } else {
                self.renew(tasks, seen, Some(challenge)).await?;
            }
            seen = self.changes();
            let answer = send().await?;
            match challenge_of(&answer) {
                None => return Ok(answer),
                Some(next) => challenge = next,
            }
        }
        Err(failed("the server refuses even the token that was just got for it".to_owned()))
    }

    /// Get another token, unless somebody has got one since. To its end, also if the call is withdrawn meanwhile.
    async fn renew(&self, tasks: &TaskTracker, seen: u64, challenge: Option<Challenge>) -> Result<(), CallError> {
        let _changing = self.changing.lock().await;
        if self.changes() != seen {
            return Ok(());
        }
        let refusal = challenge.map(|challenge| Refusal { token: self.held(), challenge });
        let asked = tasks.spawn(self.source.token(refusal)).await;
        let token = asked.map_err(|error| failed(error.to_string()))?;
        let token = token.map_err(CallError::Unauthorized)?;
        if token.is_some() || seen > 0 {
            *self.held.write().unwrap_or_else(PoisonError::into_inner) = token;
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }
}

fn failed(why: String) -> CallError {
    CallError::Unauthorized(Denied::Failed(why))
}
