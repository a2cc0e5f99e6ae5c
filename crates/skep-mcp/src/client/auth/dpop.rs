//! Tokens that are bound to a key (DPoP, RFC 9449): each request proves that its sender has the key, so that a token that was stolen is
//! of no use. They are got where the server asks for them, by the scheme of its challenge, and the authorization server gives such.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use axum::http::{HeaderName, HeaderValue, Method};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use reqwest::Url;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{AuthError, unguessable};

/// Carries a proof.
pub(super) const DPOP: HeaderName = HeaderName::from_static("dpop");
/// Carries what the next proof must contain.
pub(super) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
/// The error that asks for that (RFC 9449, 8 and 9).
pub(super) const USE_NONCE: &str = "use_dpop_nonce";
/// The algorithm of the proofs.
pub(super) const ALGORITHM: &str = "ES256";

/// A key that tokens are bound to. It is never shown; clones share it.
#[derive(Clone)]
pub struct ProofKey(Arc<Pair>);

struct Pair {
    pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
    jwk: Value,
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProofKey")
    }
}

fn broken(_: impl fmt::Debug) -> AuthError {
    AuthError::Unconfigured("the key that the token is bound to cannot be used".to_owned())
}

impl ProofKey {
    /// A new one.
    pub fn generate() -> Result<ProofKey, AuthError> {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).map_err(broken)?;
        ProofKey::from_pkcs8(pkcs8.as_ref().to_vec())
    }

    /// One that was kept.
    pub fn from_text(text: &str) -> Result<ProofKey, AuthError> {
        ProofKey::from_pkcs8(BASE64_URL_SAFE_NO_PAD.decode(text).map_err(broken)?)
    }

    /// To be kept as other secrets are.
    pub fn to_text(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(&self.0.pkcs8)
    }

    fn from_pkcs8(pkcs8: Vec<u8>) -> Result<ProofKey, AuthError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8).map_err(broken)?;
        // A point that is not compressed: 4, x, y (SEC 1, 2.3.3).
        let point = pair.public_key().as_ref();
        let (x, y) = point.get(1..33).zip(point.get(33..65)).ok_or(()).map_err(broken)?;
        let [x, y] = [x, y].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
        let jwk = json!({ "crv": "P-256", "kty": "EC", "x": x, "y": y });
        Ok(ProofKey(Arc::new(Pair { pair, pkcs8, jwk })))
    }

    /// What names the key (RFC 7638); its members are in the order that this wants.
    pub(super) fn thumbprint(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(self.0.jwk.to_string()))
    }

    /// The proof for one request (RFC 9449, 4.2), with the token if it has one. `now` is in seconds since 1970.
    pub(super) fn proof(
        &self,
        method: &Method,
        url: &Url,
        token: Option<&[u8]>,
        nonce: Option<&str>,
        now: u64,
    ) -> Result<HeaderValue, AuthError> {
        let mut bare = url.clone();
        bare.set_query(None);
        bare.set_fragment(None);
        let head = json!({ "typ": "dpop+jwt", "alg": ALGORITHM, "jwk": self.0.jwk });
        let mut claims = json!({ "jti": unguessable(), "htm": method.as_str(), "htu": bare.as_str(), "iat": now });
        if let Some(token) = token {
            claims["ath"] = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(token)).into();
        }
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        let [head, claims] = [head, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{head}.{claims}");
        let signature = self.0.pair.sign(&SystemRandom::new(), signed.as_bytes()).map_err(broken)?;
        HeaderValue::try_from(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))).map_err(broken)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_proof_is_signed_by_the_key_that_was_kept_and_names_request_and_token() {
        let key = ProofKey::from_text(&ProofKey::generate().unwrap().to_text()).unwrap();
        let url = "https://a.test/mcp?key=x#y".parse().unwrap();
        let proof = key.proof(&Method::POST, &url, Some(b"token"), Some("n"), 17).unwrap();
        let (signed, signature) = proof.to_str().unwrap().rsplit_once('.').unwrap();
        let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.0.pair.public_key().as_ref());
        public.verify(signed.as_bytes(), &decode(signature)).unwrap();
        let (head, claims) = signed.split_once('.').unwrap();
        let [head, claims] = [head, claims].map(|part| serde_json::from_slice::<Value>(&decode(part)).unwrap());
        assert_eq!((&head["typ"], &head["jwk"], head["jwk"].get("d")), (&json!("dpop+jwt"), &key.0.jwk, None));
        let ath = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest("token"));
        let expected = json!({ "htm": "POST", "htu": "https://a.test/mcp", "iat": 17, "ath": ath, "nonce": "n" });
        expected.as_object().unwrap().iter().for_each(|(name, value)| assert_eq!(claims[name], *value));
        assert_eq!(key.thumbprint().len(), 43);
    }
}
