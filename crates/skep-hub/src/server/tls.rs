//! TLS at the listeners, for callers on other machines (contract S2).
//!
//! One certificate for HTTP and for lines, which may be replaced by its successor while the hub runs. Who may call is told by tokens, not by certificates of
//! callers.

use std::{
    io,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use skep_tools::document;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{error::Elapsed, timeout},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject as _},
        },
    },
    server::TlsStream,
};

/// Bytes of a file with certificates or with a key.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// A certificate and its key, ready for callers. Clones show the same one, also when it is replaced.
#[derive(Clone)]
pub struct Tls(Arc<RwLock<Acceptors>>);

#[derive(Clone)]
struct Acceptors {
    http: TlsAcceptor,
    lines: TlsAcceptor,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// Why a certificate or its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadTls {
    /// One of the files is not what it should be.
    #[error("{file} cannot be used as {what}: {why}")]
    File {
        /// The file.
        file: String,
        /// What it was to be: the setting, and in which form.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Both are good, but not together.
    #[error(
        "the key in {key} does not belong to the first certificate in {certificate}, which must be the hub's own: {why}"
    )]
    Mismatch {
        /// The file of the certificate.
        certificate: String,
        /// The file of the key.
        key: String,
        /// What the library says.
        why: rustls::Error,
    },
}

impl Tls {
    /// The certificate, with those above it, and its key: two files in PEM form, as certificate authorities hand them out.
    pub fn read(certificate: &Path, key: &Path) -> Result<Tls, BadTls> {
        let bad = |file: &Path, what, why| BadTls::File { file: file.display().to_string(), what, why };
        let of_certificate = |why| bad(certificate, "serve.tls_cert (certificates in PEM form)", why);
        let of_key = |why| bad(key, "serve.tls_key (an unencrypted private key in PEM form)", why);
        let pem = document::read_bytes(certificate, PEM_BYTES_MAX).map_err(of_certificate)?;
        let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| of_certificate(explain(&error)))?;
        if chain.is_empty() {
            return Err(of_certificate(explain(&pem::Error::NoItemsFound)));
        }
        let pem = document::read_bytes(key, PEM_BYTES_MAX).map_err(of_key)?;
        let secret = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| of_key(explain(&error)))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map(|config| config.with_no_client_auth().with_single_cert(chain, secret));
        let mismatch = |why| BadTls::Mismatch {
            certificate: certificate.display().to_string(),
            key: key.display().to_string(),
            why,
        };
        let lines = config.and_then(|config| config).map_err(mismatch)?;
        let mut http = lines.clone();
        http.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptors = Acceptors { http: Arc::new(http).into(), lines: Arc::new(lines).into() };
        Ok(Tls(Arc::new(RwLock::new(acceptors))))
    }

    /// Show callers another certificate from now on. Connections that are open keep theirs.
    pub(super) fn replace(&self, with: &Tls) {
        let acceptors = with.acceptors();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = acceptors;
    }

    fn acceptors(&self) -> Acceptors {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Greet a caller of HTTP, within this time.
    pub(super) async fn accept_http<S>(&self, stream: S, time_max: Duration) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        timeout(time_max, self.acceptors().http.accept(stream)).await.unwrap_or_else(slow)
    }

    /// Greet a caller with lines, within this time.
    pub(super) async fn accept_lines(&self, stream: TcpStream, time_max: Duration) -> io::Result<TlsStream<TcpStream>> {
        timeout(time_max, self.acceptors().lines.accept(stream)).await.unwrap_or_else(slow)
    }
}

fn slow<T>(_: Elapsed) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::TimedOut, "the caller did not finish its greeting"))
}

fn explain(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "there is none in it; one begins with `-----BEGIN`".to_owned(),
        pem::Error::Io(error) => error.to_string(),
        error => format!("it is damaged ({error})"),
    }
}
