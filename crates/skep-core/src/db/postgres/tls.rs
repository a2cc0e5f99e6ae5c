//! TLS to the server: our certificate, how the server's is verified, and what to do if it fails.
//!
//! The files are read for each connection, so that certificates can be replaced while a hub runs.

use std::{error::Error, fs, io, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem, pem::PemObject},
    server::ParsedCertificate,
};

use super::address::{Mode, Roots, Target, Tls};
use crate::db::DbError;

/// Bytes of a file with certificates or with a key.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// The TLS connector for an address. Reads files, so it may block for a moment.
pub(super) fn connector(tls: &Tls) -> Result<MakeRustlsConnect, DbError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(tls, &provider)?;
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let config = config.map_err(|error| DbError::Address(error.to_string()))?;
    let config = config.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match &tls.client {
        Some((certificate, key)) => {
            let mismatch = |error| {
                let (certificate, key) = (certificate.display(), key.display());
                DbError::Address(format!(
                    "the key in {key} does not fit the first certificate in {certificate}: {error}"
                ))
            };
            config.with_client_auth_cert(certificates(certificate)?, private_key(key)?).map_err(mismatch)?
        }
        None => config.with_no_client_auth(),
    };
    if tls.direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(config))
}

fn verifier(tls: &Tls, provider: &Arc<CryptoProvider>) -> Result<Arc<Verifier>, DbError> {
    let algorithms = provider.signature_verification_algorithms;
    let (roots, trusted) = match &tls.roots {
        None => return Ok(Arc::new(Verifier { chain: None, trusted: Vec::new(), names_count: false, algorithms })),
        Some(Roots::System) => (system_roots()?, Vec::new()),
        Some(Roots::File(file)) => {
            let (mut roots, trusted) = (RootCertStore::empty(), certificates(file)?);
            for certificate in &trusted {
                roots.add(certificate.clone()).map_err(|error| unusable(file, "certificates", &error))?;
            }
            (roots, trusted)
        }
    };
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    let chain = Some(chain.map_err(|error| DbError::Address(error.to_string()))?);
    Ok(Arc::new(Verifier { chain, trusted, names_count: tls.mode == Mode::VerifyFull, algorithms }))
}

fn system_roots() -> Result<RootCertStore, DbError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(DbError::Address(
            "this machine trusts no certificate authority; install its list (the package ca-certificates), or name \
             the one that issued the server's certificate: sslrootcert=FILE"
                .to_owned(),
        ));
    }
    Ok(roots)
}

/// The text of a file with certificates, which has been found to be one.
pub(in crate::db) fn pem_of_certificates(file: &Path) -> Result<Vec<u8>, DbError> {
    certificates(file)?;
    read(file, "certificates in PEM form")
}

/// The same of a file with a private key, which nobody else may read.
pub(in crate::db) fn pem_of_key(file: &Path) -> Result<Vec<u8>, DbError> {
    private_key(file)?;
    read(file, "a private key in PEM form")
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, DbError> {
    let what = "certificates in PEM form";
    let text = read(file, what)?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable(file, what, &"there is none in it; one begins with `-----BEGIN CERTIFICATE-----`")),
        Err(error) => Err(unusable(file, what, &error)),
    }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, DbError> {
    let what = "a private key in PEM form";
    let text = read(file, what)?;
    let status = fs::metadata(file).map_err(|error| unusable(file, what, &error))?;
    // As strict as libpq: nobody but us, and root's group if root hands it out.
    let forbidden = if status.uid() == 0 { 0o037 } else { 0o077 };
    if status.mode() & forbidden != 0 {
        return Err(unusable(file, what, &"others may read or write it; take that away: chmod 0600"));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound if text.windows(9).any(|part| part == b"ENCRYPTED") => {
            unusable(file, what, &"it is encrypted; make an unencrypted copy: openssl pkey -in FILE -out COPY")
        }
        error => unusable(file, what, &error),
    })
}

fn read(file: &Path, what: &str) -> Result<Vec<u8>, DbError> {
    let read = fs::metadata(file).and_then(|status| match status.len() {
        0..=PEM_BYTES_MAX if status.is_file() => fs::read(file),
        0..=PEM_BYTES_MAX => Err(io::Error::other("it is not a file")),
        _ => Err(io::Error::other("it is larger than 1 MiB")),
    });
    read.map_err(|error| unusable(file, what, &error))
}

fn unusable(file: &Path, what: &str, why: &dyn std::fmt::Display) -> DbError {
    DbError::Address(format!("{} cannot be used for {what}: {why}", file.display()))
}

/// Verifies a server as `sslmode` says. That it has the key of its certificate is verified in any case.
#[derive(Debug)]
struct Verifier {
    /// The accepted authorities. `None`: any certificate.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// The certificates in the file of authorities. One of them may be the server's own.
    trusted: Vec<CertificateDer<'static>>,
    /// Whether it must be the host that was named.
    names_count: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        let verified = match chain.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // `openssl req -x509` makes certificates that may issue others, and many a server uses such a one. That is
            // looked at when it is known that it has not expired; and if it is in the file itself, nobody need vouch
            // for it.
            Err(error) if is_authority(&error) && self.trusted.contains(certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)
                    .map(|()| ServerCertVerified::assertion())
            }
            verified => verified,
        };
        match verified {
            // The name is looked at when all else is well.
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
                if !self.names_count =>
            {
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether a certificate was refused because it is one that may issue others.
fn is_authority(error: &rustls::Error) -> bool {
    // The type of that error belongs to a crate below rustls.
    matches!(error, rustls::Error::InvalidCertificate(CertificateError::Other(other))
        if other.to_string() == "CaUsedAsEndEntity")
}

/// What is wrong with TLS, if that is why a connection failed.
pub(super) fn failure(error: &tokio_postgres::Error, target: &Target, tls: &Tls) -> Option<String> {
    let source = error.source()?;
    match source.downcast_ref::<io::Error>() {
        Some(error) => Some(explain(error.get_ref()?.downcast_ref()?, target, tls)),
        // The one thing that tokio-postgres itself has to say of TLS; it has no type for it.
        None if source.to_string() == "server does not support TLS" => Some(
            "it does not offer TLS; set `ssl = on` in its postgresql.conf, or if the network between is safe, say \
             sslmode=disable in the address"
                .to_owned(),
        ),
        None => None,
    }
}

fn explain(error: &rustls::Error, target: &Target, tls: &Tls) -> String {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext,
        UnknownIssuer,
    };
    let roots = match &tls.roots {
        Some(Roots::File(file)) => file.display().to_string(),
        _ => "the system's list".to_owned(),
    };
    match error {
        rustls::Error::InvalidCertificate(UnknownIssuer) => format!(
            "no authority in {roots} has issued its certificate; name the file with the right authority's: \
             sslrootcert=FILE"
        ),
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            let names = match error {
                rustls::Error::InvalidCertificate(NotValidForNameContext { presented, .. })
                    if !presented.is_empty() =>
                {
                    format!(" (it names {})", presented.join(", "))
                }
                _ => String::new(),
            };
            format!(
                "its certificate does not name {target} as a subjectAltName{names}; use a name that it has in the \
                 address, or issue another certificate"
            )
        }
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            "its certificate has expired; renew it, or set this machine's clock".to_owned()
        }
        rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            "its certificate is not valid yet; set the clocks of both machines".to_owned()
        }
        error if is_authority(error) => format!(
            "its certificate is that of an authority, and is not itself in {roots}; add it there (sslrootcert=FILE), or \
             have the authority issue one for the server"
        ),
        rustls::Error::AlertReceived(alert) => match &tls.client {
            Some((file, _)) => format!(
                "it refuses the certificate in {}, it says {alert:?}; use one from an authority in its ssl_ca_file",
                file.display()
            ),
            None => format!("it refuses, it says {alert:?}; see its log"),
        },
        other => other.to_string(),
    }
}
