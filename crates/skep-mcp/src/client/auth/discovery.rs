//! Who gives tokens for a server: its own description (RFC 9728), and that of the authorization server (RFC 8414; OpenID
//! Connect Discovery 1.0).

use reqwest::Url;
use serde::Deserialize;

use super::{
    AuthError, Challenge, Web, dpop,
    web::{address, document, plain, shown},
};

/// Authorization servers that a server may name; more are passed over.
const ISSUERS_MAX: usize = 10;

/// A server as the authorization server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its identifier, as it wrote it: what `resource` says in requests for tokens (RFC 8707).
    pub resource: String,
    /// Who gives tokens for it.
    pub issuers: Vec<String>,
    /// The scopes that its basic functions need; `None` if it does not say.
    pub scopes: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct ResourceDocument {
    resource: String,
    #[serde(default)]
    authorization_servers: Vec<String>,
    scopes_supported: Option<Vec<String>>,
}

/// What the server says about itself: where its challenge says, or else at the two places where such is known to be. A server
/// that says nothing, as those of 2025-03-26, gives its tokens itself.
pub async fn resource(web: &dyn Web, server: &Url, challenge: &Challenge) -> Result<Resource, AuthError> {
    let mut found = None;
    if let Some(named) = &challenge.resource_metadata {
        let url = address(named)?;
        found = document::<ResourceDocument>(web, &url).await?;
        if found.is_none() {
            return Err(AuthError::Unreachable(format!("there is nothing at {}, which the server named", shown(&url))));
        }
    } else {
        for url in well_known(server, "oauth-protected-resource") {
            found = document(web, &url).await?;
            if found.is_some() {
                break;
            }
        }
    }
    let Some(ResourceDocument { resource, mut authorization_servers, scopes_supported }) = found else {
        let issuers = vec![server.origin().ascii_serialization()];
        return Ok(Resource { resource: canonical(server), issuers, scopes: None });
    };
    if !covers(&resource, server) {
        let message = format!("the server describes itself as {:?}, which it is not", plain(&resource));
        return Err(AuthError::Untrusted(message));
    }
    authorization_servers.truncate(ISSUERS_MAX);
    if authorization_servers.is_empty() {
        return Err(AuthError::Untrusted("the server names no authorization server".to_owned()));
    }
    Ok(Resource { resource, issuers: authorization_servers, scopes: scopes_supported })
}

/// A server's own URI (MCP, canonical server URI).
fn canonical(server: &Url) -> String {
    let path = if server.path() == "/" { "" } else { server.path() };
    format!("{}{path}", server.origin().ascii_serialization())
}

/// Whether this identifier is the server's: its address, or what the address is below (RFC 9728, 3.3 and 7.3).
fn covers(resource: &str, server: &Url) -> bool {
    let Ok(resource) = Url::parse(resource) else { return false };
    let (path, below) = (resource.path().trim_end_matches('/'), server.path());
    let is_below = below.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    resource.fragment().is_none() && resource.origin() == server.origin() && is_below
}

/// Where a description of this kind is: before the path, and then without the path.
fn well_known(server: &Url, kind: &str) -> Vec<Url> {
    let at = |path: &str| {
        let mut url = server.clone();
        url.set_path(&format!("/.well-known/{kind}{path}"));
        url.set_query(None);
        url.set_fragment(None);
        url
    };
    match server.path().trim_end_matches('/') {
        "" => vec![at("")],
        path => vec![at(path), at("")],
    }
}

/// An authorization server.
#[derive(Clone, Debug, Deserialize)]
pub struct AuthorizationServer {
    /// Its name, as it was asked for: everything of it is kept under this name.
    pub issuer: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    registration_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    /// How clients may say who they are; `None` means by HTTP Basic (RFC 8414, 2).
    pub token_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// The scopes that it knows.
    #[serde(default)]
    pub scopes_supported: Vec<String>,
    #[serde(default)]
    code_challenge_methods_supported: Vec<String>,
    #[serde(default)]
    dpop_signing_alg_values_supported: Vec<String>,
    /// Whether the address of a document about a client may be its name.
    #[serde(default)]
    pub client_id_metadata_document_supported: bool,
    /// Whether its answers name it (RFC 9207).
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
}

impl AuthorizationServer {
    /// Where users are sent; only to one that keeps codes from being used by others (PKCE).
    pub fn authorization_endpoint(&self) -> Result<Url, AuthError> {
        if !self.code_challenge_methods_supported.iter().any(|method| method == "S256") {
            let message = format!("{} does not offer PKCE with S256, without which codes may be stolen", self.issuer);
            return Err(AuthError::Untrusted(message));
        }
        self.endpoint("authorization_endpoint", self.authorization_endpoint.as_deref())
    }

    /// Where tokens are got.
    pub fn token_endpoint(&self) -> Result<Url, AuthError> {
        self.endpoint("token_endpoint", self.token_endpoint.as_deref())
    }

    /// Where clients make themselves known, if they may.
    pub fn registration_endpoint(&self) -> Result<Option<Url>, AuthError> {
        self.registration_endpoint.as_deref().map(address).transpose()
    }

    /// Where tokens are revoked, if they can be.
    pub fn revocation_endpoint(&self) -> Result<Option<Url>, AuthError> {
        self.revocation_endpoint.as_deref().map(address).transpose()
    }

    /// Whether its tokens can be bound to a key of ours (RFC 9449, 5.1).
    pub fn binds_tokens(&self) -> bool {
        self.dpop_signing_alg_values_supported.iter().any(|algorithm| algorithm == dpop::ALGORITHM)
    }

    fn endpoint(&self, name: &str, value: Option<&str>) -> Result<Url, AuthError> {
        address(value.ok_or_else(|| AuthError::Untrusted(format!("{} has no {name}", self.issuer)))?)
    }
}

/// What an authorization server says about itself. Its name must be the one that it was asked by, letter for letter.
pub async fn authorization_server(web: &dyn Web, issuer: &str) -> Result<AuthorizationServer, AuthError> {
    let url = address(issuer)?;
    let inserted = |kind| well_known(&url, kind).into_iter().next();
    let mut appended = url.clone();
    appended.set_path(&format!("{}/.well-known/openid-configuration", url.path().trim_end_matches('/')));
    let mut places: Vec<Url> =
        ["oauth-authorization-server", "openid-configuration"].into_iter().filter_map(inserted).collect();
    if !places.contains(&appended) {
        places.push(appended);
    }
    for place in places {
        let Some(server) = document::<AuthorizationServer>(web, &place).await? else { continue };
        if server.issuer != issuer {
            let message = format!("{issuer} calls itself {:?}; somebody else may be behind it", plain(&server.issuer));
            return Err(AuthError::Untrusted(message));
        }
        return Ok(server);
    }
    Err(AuthError::Unreachable(format!("{issuer} does not say how tokens are got from it (RFC 8414)")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_a_servers_own_only_at_its_origin_and_above_its_path() {
        let server: Url = "https://a.test/mcp/v1".parse().unwrap();
        for own in ["https://a.test/mcp/v1", "https://a.test/mcp", "https://a.test", "https://A.test:443/"] {
            assert!(covers(own, &server), "{own}");
        }
        for other in ["https://a.test/mcp/v", "https://b.test/mcp/v1", "http://a.test/", "https://a.test/mcp/v1/x", "x"]
        {
            assert!(!covers(other, &server), "{other}");
        }
    }

    #[test]
    fn a_servers_identifier_has_no_slash_at_its_end_if_it_has_no_path() {
        assert_eq!(canonical(&"https://a.test/".parse().unwrap()), "https://a.test");
        assert_eq!(canonical(&"https://a.test:8443/mcp?key=x".parse().unwrap()), "https://a.test:8443/mcp");
    }
}
