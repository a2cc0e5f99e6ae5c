//! The tokens that let callers in, and who they say the caller is.
//!
//! Who knows a token is a **principal**: sessions, tasks and questions of servers are one principal's and nobody else's. The
//! hub's own token is the operator's; others have names, one for each caller that is to be told from the others. Without any
//! token all callers are one principal, and so is who knows the operator's: it finds what it left before there was one.

use std::{collections::BTreeMap, sync::Arc};

use metrics::Counter;
use sha2::{Digest as _, Sha256};
use skep_core::policy::Actor;
use skep_mcp::server::{LOCAL, Principal};
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;

use crate::hub::{
    principals::{self, carried, local},
    shares::NAMED_PRINCIPALS_MAX,
};

/// A shorter token could be guessed.
pub const TOKEN_BYTES_MIN: usize = 16;
/// Tokens beside the operator's. Their names are labels of a metric, and each is compared with what a caller sends.
pub const NAMED_TOKENS_MAX: usize = NAMED_PRINCIPALS_MAX;
/// Characters of the name of a token.
const NAME_CHARS_MAX: usize = 64;

/// The secret that lets a caller in. Only its digest is kept, and it is never shown.
#[derive(Clone)]
pub struct Token {
    digest: [u8; 32],
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// Why a text cannot be a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the token must have at least {TOKEN_BYTES_MIN} characters, all of them visible ASCII; \
     `openssl rand -hex 32` makes a good one"
)]
pub struct UnfitToken;

/// Why tokens cannot be told apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTokens {
    /// A name that is none.
    #[error(
        "{0:?} cannot name a token: a name has at most {NAME_CHARS_MAX} letters, digits, _, - and ., and is not `local`, which \
         is who knows the hub's own token"
    )]
    Name(String),
    /// Nobody could say who the caller is.
    #[error("{0:?} and {1:?} have the same token; `openssl rand -hex 32` makes another one")]
    Same(String, String),
    /// There are more than can be looked through for each request.
    #[error("there are {0} tokens, and at most {NAMED_TOKENS_MAX} can be named")]
    TooMany(usize),
}

impl Token {
    /// A token as the operator wrote it.
    pub fn new(text: &str) -> Result<Token, UnfitToken> {
        if text.len() < TOKEN_BYTES_MIN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UnfitToken);
        }
        Ok(Token { digest: Sha256::digest(text).into() })
    }
}

/// A token that is known, and whose it is.
pub(super) struct Known {
    digest: [u8; 32],
    /// Who knows it.
    pub(super) actor: Arc<Actor>,
    /// The same, as `skep-mcp` carries it.
    pub(super) principal: Arc<dyn Principal>,
    /// Cancelled when it opens no more.
    pub(super) revoked: CancellationToken,
    /// Requests and connections that brought it.
    seen: Counter,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("actor", &self.actor).finish_non_exhaustive()
    }
}

/// What became of tokens when others took their place.
pub(super) struct Exchanged {
    /// Whether any is another one.
    pub(super) is_new: bool,
    /// Who has none any more.
    pub(super) gone: Vec<Arc<str>>,
}

/// All that are known.
#[derive(Debug, Default)]
pub(super) struct Tokens(Vec<Arc<Known>>);

impl Tokens {
    /// The hub's own token, and those with names.
    pub(super) fn new(own: Option<Token>, named: BTreeMap<String, Token>) -> Result<Tokens, BadTokens> {
        if named.len() > NAMED_TOKENS_MAX {
            return Err(BadTokens::TooMany(named.len()));
        }
        let mut tokens = Tokens::default();
        if let Some(own) = own {
            tokens.add(own, Arc::clone(local()))?;
        }
        for (name, token) in named {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            let fits = (1..=NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(is_plain) && name != LOCAL;
            if !fits {
                return Err(BadTokens::Name(name));
            }
            tokens.add(token, principals::named(name))?;
        }
        Ok(tokens)
    }

    pub(super) fn add(&mut self, token: Token, actor: Arc<Actor>) -> Result<(), BadTokens> {
        if let Some(same) = self.0.iter().find(|known| known.digest == token.digest) {
            return Err(BadTokens::Same(same.actor.principal.to_string(), actor.principal.to_string()));
        }
        let seen = metrics::counter!("skep_authenticated_total", "principal" => actor.principal.to_string());
        let revoked = CancellationToken::new();
        self.0.push(Arc::new(Known { digest: token.digest, principal: carried(&actor), actor, revoked, seen }));
        Ok(())
    }

    /// The same, with those of `before` that still open; the others of `before` are revoked.
    pub(super) fn instead_of(mut self, before: &Tokens) -> (Tokens, Exchanged) {
        let same = |one: &Known, other: &Known| one.digest == other.digest && one.actor == other.actor;
        let revoked = || before.0.iter().filter(|old| !self.0.iter().any(|new| same(old, new)));
        revoked().for_each(|revoked| revoked.revoked.cancel());
        let has_none = |principal: &Arc<str>| !self.0.iter().any(|new| new.actor.principal == *principal);
        let gone = revoked().map(|revoked| Arc::clone(&revoked.actor.principal)).filter(has_none).collect();
        let is_new = revoked().next().is_some() || self.0.len() != before.0.len();
        for new in &mut self.0 {
            if let Some(old) = before.0.iter().find(|old| same(old, new)) {
                *new = Arc::clone(old);
            }
        }
        (self, Exchanged { is_new, gone })
    }

    /// Whether callers need none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Which token this is. Compares digests, each in constant time, and all of them: neither the length nor a common
    /// beginning shows, nor which one was nearly right.
    pub(super) fn find(&self, text: &[u8]) -> Option<&Arc<Known>> {
        let digest: [u8; 32] = Sha256::digest(text).into();
        let found = self.0.iter().fold(None, |found, known| match bool::from(known.digest.ct_eq(&digest)) {
            true => Some(known),
            false => found,
        });
        found.inspect(|known| known.seen.increment(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Token {
        Token::new(&format!("{text}-correct-horse-battery")).unwrap()
    }

    fn named(names: &[&str]) -> BTreeMap<String, Token> {
        names.iter().map(|name| ((*name).to_owned(), token(&name.replace(' ', "-")))).collect()
    }

    #[test]
    fn a_token_that_could_be_guessed_or_not_be_sent_is_refused() {
        assert!(Token::new(&"x".repeat(TOKEN_BYTES_MIN)).is_ok());
        for text in ["", "short", "fifteen-bytes-x", "with a space in it", "with-an-umlaut-ä-in-it"] {
            assert!(Token::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn each_token_tells_who_knows_it() {
        let tokens = Tokens::new(Some(token("own")), named(&["ann", "bob"])).unwrap();
        let who = |text: &str| {
            let found = tokens.find(format!("{text}-correct-horse-battery").as_bytes());
            found.map(|known| (known.actor.principal.to_string(), known.actor.rights.operate))
        };
        assert_eq!(who("own"), Some(("local".to_owned(), true)));
        assert_eq!(who("ann"), Some(("ann".to_owned(), false)));
        assert_eq!(who("bob"), Some(("bob".to_owned(), false)));
        assert_eq!(who("eve"), None);
        assert!(Tokens::default().find(b"").is_none());
    }

    #[test]
    fn of_other_tokens_instead_those_that_stay_are_the_same_and_the_others_are_revoked() {
        let before = Tokens::new(Some(token("own")), named(&["ann", "bob"])).unwrap();
        let revoked = || before.0.iter().filter(|known| known.revoked.is_cancelled()).count();
        let (same, exchanged) = Tokens::new(Some(token("own")), named(&["ann", "bob"])).unwrap().instead_of(&before);
        assert!(
            !exchanged.is_new && same.0.iter().zip(&before.0).all(|(new, old)| Arc::ptr_eq(new, old)) && revoked() == 0
        );
        let other = BTreeMap::from([("ann".to_owned(), token("another")), ("carol".to_owned(), token("carol"))]);
        let (after, exchanged) = Tokens::new(Some(token("own")), other).unwrap().instead_of(&before);
        assert!(exchanged.is_new && Arc::ptr_eq(&after.0[0], &before.0[0]));
        assert_eq!(revoked(), 2, "bob's, and the one that ann had");
        assert_eq!(exchanged.gone, [Arc::from("bob")]);
    }

    #[test]
    fn tokens_that_cannot_be_told_apart_are_refused() {
        let why = |own, named| Tokens::new(own, named).map(|_| ()).unwrap_err();
        for name in ["", "local", "two words", "a/b", &"x".repeat(65)] {
            assert_eq!(why(None, named(&[name])), BadTokens::Name(name.to_owned()));
        }
        assert!(matches!(why(Some(token("ann")), named(&["ann"])), BadTokens::Same(..)));
        let many: Vec<String> = (0..=NAMED_TOKENS_MAX).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(why(None, named(&many)), BadTokens::TooMany(257));
        assert!(Tokens::new(None, named(&many[1..])).is_ok());
    }
}
