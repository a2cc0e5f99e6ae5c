//! What of the hub's environment a server gets.
//!
//! A server is somebody else's program: tokens of the hub and of its user are not for it. So what
//! is passed on is listed by name, and an address with a name or a password in it is not passed on
//! either. Whatever else a server needs stands in its `env`, where `${NAME}` takes it from the
//! hub's environment.

use std::ffi::{OsStr, OsString};

/// What programs need to find their files, to speak the user's language, and to be fetched by
/// package runners.
const PLAIN: [&str; 62] = [
    "HOME",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TERM",
    "USER",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_DIRS",
    "XDG_CONFIG_HOME",
    "XDG_DATA_DIRS",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "NO_PROXY",
    "no_proxy",
    "npm_config_cache",
    "npm_config_cafile",
    "npm_config_globalconfig",
    "npm_config_noproxy",
    "npm_config_offline",
    "npm_config_prefer_offline",
    "npm_config_prefix",
    "npm_config_strict_ssl",
    "npm_config_userconfig",
    "npm_config_yes",
    "PIP_CACHE_DIR",
    "PIP_CERT",
    "PIP_CONFIG_FILE",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_DISABLE_PIP_VERSION_CHECK",
    "PIP_NO_CACHE_DIR",
    "PIP_NO_INDEX",
    "PIP_TRUSTED_HOST",
    "UV_CACHE_DIR",
    "UV_CONFIG_FILE",
    "UV_HTTP_TIMEOUT",
    "UV_INDEX_STRATEGY",
    "UV_INSECURE_HOST",
    "UV_KEYRING_PROVIDER",
    "UV_LINK_MODE",
    "UV_NATIVE_TLS",
    "UV_NO_CACHE",
    "UV_NO_CONFIG",
    "UV_OFFLINE",
    "UV_PYTHON",
    "UV_PYTHON_BIN_DIR",
    "UV_PYTHON_DOWNLOADS",
    "UV_PYTHON_INSTALL_DIR",
    "UV_PYTHON_PREFERENCE",
    "UV_SYSTEM_CERTS",
    "UV_SYSTEM_PYTHON",
    "UV_TOOL_BIN_DIR",
    "UV_TOOL_DIR",
    "UV_VENV_CLEAR",
];
/// Addresses, of proxies and of where packages are. They may hold passwords.
const ADDRESSES: [&str; 21] = [
    "ALL_PROXY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "npm_config_https_proxy",
    "npm_config_proxy",
    "npm_config_registry",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_INDEX_URL",
    "PIP_PROXY",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_PYPY_INSTALL_MIRROR",
    "UV_PYTHON_INSTALL_MIRROR",
    "UV_PYTHON_DOWNLOADS_JSON_URL",
];
/// Locales (locale(7)).
const LOCALES: &str = "LC_";
/// npm reads its variables in either case.
const NPM: &str = "NPM_CONFIG_";

/// The variables that the server of this name gets.
pub(super) fn inherited(server: &str) -> impl Iterator<Item = (OsString, OsString)> + use<'_> {
    std::env::vars_os().filter(move |(name, value)| {
        let Some(name) = name.to_str() else { return false };
        match judge(name, value) {
            Judged::Passed => true,
            Judged::Unknown => false,
            Judged::Secret => {
                tracing::warn!(
                    server,
                    name,
                    "not passed on to the server, since it holds a password; its `env` may name it"
                );
                false
            }
        }
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Passed,
    /// It is an address with a name or a password in it.
    Secret,
    Unknown,
}

fn judge(name: &str, value: &OsStr) -> Judged {
    let lower;
    let name = match name.starts_with(NPM) {
        true => {
            lower = name.to_ascii_lowercase();
            lower.as_str()
        }
        false => name,
    };
    if PLAIN.contains(&name) || name.starts_with(LOCALES) {
        return Judged::Passed;
    }
    if !ADDRESSES.contains(&name) {
        return Judged::Unknown;
    }
    // In no part of an address is an @ needed, except behind a name or a password.
    if value.as_encoded_bytes().contains(&b'@') { Judged::Secret } else { Judged::Passed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(name: &str, value: &str) -> Judged {
        judge(name, OsStr::new(value))
    }

    #[test]
    fn no_token_is_passed_on_whatever_tool_it_belongs_to() {
        for name in [
            "npm_config__authToken",
            "npm_config__auth",
            "NPM_CONFIG__AUTH",
            "npm_config_//registry.npmjs.org/:_authToken",
            "NPM_TOKEN",
            "UV_PUBLISH_TOKEN",
            "UV_PUBLISH_PASSWORD",
            "UV_INDEX_PRIVATE_PASSWORD",
            "UV_INDEX_PRIVATE_USERNAME",
            "PIP_PASSWORD",
            "TWINE_PASSWORD",
            "XDG_ACTIVATION_TOKEN",
            "SKEP_TOKEN",
            "GITHUB_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
        ] {
            assert_eq!(judged(name, "x"), Judged::Unknown, "{name}");
        }
    }

    #[test]
    fn addresses_are_passed_on_unless_there_is_a_password_in_them() {
        for name in ["UV_INDEX_URL", "PIP_EXTRA_INDEX_URL", "npm_config_registry", "NPM_CONFIG_REGISTRY", "HTTPS_PROXY"]
        {
            assert_eq!(judged(name, "https://packages.example/simple"), Judged::Passed, "{name}");
            assert_eq!(
                judged(name, "https://packages.example/simple https://me:pw@b.example/"),
                Judged::Secret,
                "{name}"
            );
        }
        assert_eq!(judged("http_proxy", "me:pw@proxy:8080"), Judged::Secret);
        for name in ["PATH", "LC_ALL", "UV_CACHE_DIR", "npm_config_cache", "NPM_CONFIG_CACHE", "XDG_CACHE_HOME"] {
            assert_eq!(judged(name, "/a@b"), Judged::Passed, "{name}");
        }
    }
}
