//! What a server that refuses a request says it wants: `WWW-Authenticate` (RFC 9110, 11.6.1; RFC 6750, 3; RFC 9728, 5.1).

use axum::http::{HeaderName, StatusCode, header::WWW_AUTHENTICATE};

use super::{
    dpop::{DPOP_NONCE, USE_NONCE},
    scopes,
};

/// Bytes of a header that are read.
const HEADER_BYTES_MAX: usize = 8 << 10;
/// Scopes that are taken from it.
const SCOPES_MAX: usize = 100;

/// A challenge of the scheme `DPoP`, or else of the scheme `Bearer`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenge {
    /// Where the resource describes itself.
    pub resource_metadata: Option<String>,
    /// The scopes that the request needs.
    pub scopes: Vec<String>,
    /// What was wrong with the token, such as `invalid_token` or `insufficient_scope`.
    pub error: Option<String>,
    /// Whether the token has to be bound to a key (`DPoP`).
    pub is_bound: bool,
    /// What the next proof of that key must contain.
    pub nonce: Option<String>,
}

impl Challenge {
    /// What an answer of this status, with these values of a header, challenges its request to. A server may refuse (401)
    /// without saying more; that a request is forbidden (403) is for good, unless it says that a scope is missing.
    pub fn of<'a>(status: StatusCode, values: impl Fn(HeaderName) -> Vec<&'a [u8]>) -> Option<Challenge> {
        if !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return None;
        }
        let all = values(WWW_AUTHENTICATE);
        let find = |scheme: &str| all.iter().find_map(|value| Challenge::parse(value, scheme));
        let bound = find("DPoP").map(|challenge| {
            let nonce = values(DPOP_NONCE).first().and_then(|nonce| str::from_utf8(nonce).ok()).map(str::to_owned);
            Challenge { is_bound: true, nonce, ..challenge }
        });
        let said = bound.or_else(|| find("Bearer"));
        match status {
            StatusCode::UNAUTHORIZED => Some(said.unwrap_or_default()),
            _ => said.filter(Challenge::wants_scope),
        }
    }

    /// Whether the token is good, but not for this request.
    pub fn wants_scope(&self) -> bool {
        self.error.as_deref() == Some("insufficient_scope")
    }

    /// Whether the token is good, and its proof was without the right nonce.
    pub(super) fn wants_nonce(&self) -> bool {
        self.nonce.is_some() && self.error.as_deref() == Some(USE_NONCE)
    }

    /// The challenge of this scheme in a header's value, which may have several challenges.
    fn parse(value: &[u8], scheme: &str) -> Option<Challenge> {
        let value = str::from_utf8(value.get(..value.len().min(HEADER_BYTES_MAX))?).ok()?;
        let mut found: Option<Challenge> = None;
        for element in elements(value) {
            let (word, rest) = word(element);
            let is_parameter = rest.trim_start().starts_with('=');
            let parameter = if is_parameter {
                element
            } else {
                if found.is_some() {
                    break; // the next challenge
                }
                found = word.eq_ignore_ascii_case(scheme).then(Challenge::default);
                rest.trim_start()
            };
            if let Some(challenge) = &mut found
                && let Some((name, value)) = parameter.split_once('=')
            {
                challenge.take(name.trim(), &unquoted(value.trim()));
            }
        }
        found
    }

    fn take(&mut self, name: &str, value: &str) {
        if name.eq_ignore_ascii_case("resource_metadata") {
            self.resource_metadata = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("scope") {
            self.scopes = scopes(value);
            self.scopes.truncate(SCOPES_MAX);
        } else if name.eq_ignore_ascii_case("error") {
            self.error = Some(value.to_owned());
        }
    }
}

/// The elements of a list (RFC 9110, 5.6.1): what is between commas that are in no quoted string. Empty ones are left out.
fn elements(value: &str) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = value.split(move |c: char| {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ',' => return !is_quoted,
            _ => {}
        }
        false
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}

/// The token (RFC 9110, 5.6.2) at the beginning, and what follows.
fn word(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

/// A value without its quotes (RFC 9110, 5.6.4).
fn unquoted(value: &str) -> String {
    let Some(inside) = value.strip_prefix('"') else { return value.to_owned() };
    let mut text = String::new();
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => text.extend(chars.next()),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(value: &str) -> Option<Challenge> {
        Challenge::parse(value.as_bytes(), "Bearer")
    }

    #[test]
    fn the_challenge_for_bearer_tokens_is_found_among_others() {
        let wanted = Challenge {
            resource_metadata: Some("https://a.test/x,y".into()),
            scopes: vec!["read".into(), "write".into()],
            error: Some("insufficient_scope".into()),
            ..Challenge::default()
        };
        let said = r#"resource_metadata="https://a.test/x,y", scope="read  write",error=insufficient_scope"#;
        for value in [
            format!("Bearer {said}"),
            format!("bearer  {said}, Basic realm=\"x\", scope=\"not this\""),
            format!("Negotiate, Basic realm=\"Bearer scope=no\", BEARER {said}"),
            format!("Newauth YWJj==, , Bearer realm=\"\\\"a, b\", {said}"),
        ] {
            assert_eq!(parse(&value), Some(wanted.clone()), "{value}");
        }
        assert_eq!(parse("Bearer"), Some(Challenge::default()));
        assert_eq!(parse("Basic realm=\"x\""), None);
        assert_eq!(parse("Bearerish scope=x"), None);
    }

    #[test]
    fn what_is_forbidden_for_good_is_no_challenge() {
        let of = |status, said: &[&'static str]| {
            let all: Vec<&[u8]> = said.iter().map(|value| value.as_bytes()).collect();
            Challenge::of(status, |name| if name == WWW_AUTHENTICATE { all.clone() } else { Vec::new() })
        };
        let (unauthorized, forbidden) = (StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN);
        assert_eq!(of(unauthorized, &[]), Some(Challenge::default()));
        assert_eq!(of(forbidden, &[]), None);
        assert_eq!(of(forbidden, &["Bearer error=\"invalid_token\""]), None);
        assert!(of(forbidden, &["Basic realm=x", "Bearer error=\"insufficient_scope\""]).is_some());
        assert_eq!(of(StatusCode::OK, &["Bearer scope=x"]), None);
        let both = of(unauthorized, &["Bearer scope=a, DPoP scope=b, algs=\"ES256\""]).unwrap();
        assert!(both.is_bound && both.scopes == ["b"], "what is bound to a key is worth more");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(value in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Challenge::parse(&value, "Bearer");
        }

        #[test]
        fn any_text_of_the_grammars_own_signs_is_read_without_harm(value in "[Bearer =,\"\\\\a]{0,60}") {
            let _ = parse(&value);
        }

        #[test]
        fn a_value_comes_out_as_it_was_quoted(text in "[ -~]{0,40}") {
            let quoted: String = text.chars().flat_map(|c| ['\\', c]).collect();
            let challenge = parse(&format!("Bearer a=b , resource_metadata = \"{quoted}\" , scope=s")).unwrap();
            prop_assert_eq!(challenge.resource_metadata, Some(text));
            prop_assert_eq!(challenge.scopes, vec!["s".to_owned()]);
        }
    }
}
