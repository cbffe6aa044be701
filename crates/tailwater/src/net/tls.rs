//! rustls (ring) for PostgreSQL, RabbitMQ and HTTP alike: one connector, one root store.
//!
//! Not here: when a protocol asks for TLS (PostgreSQL's `SSLRequest`, `amqps://`). This module only says which peers are
//! believed, and wraps a connected socket.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256, Sha384, Sha512};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;

/// How far the peer's certificate is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Encryption only: anybody who can stand in between is believed.
    Nobody,
    /// Signed by a trusted authority, for whatever name.
    Authority,
    /// Signed by a trusted authority for the name that was asked for.
    #[default]
    Full,
}

/// What a TLS connection needs beside the socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    pub verify: Verify,
    /// Trusted authorities (PEM); `None`: those of the operating system.
    pub root_cert: Option<PathBuf>,
    /// Certificate chain and key (PEM) to show to the peer; both or neither.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, unreadable or not what it should be: an operator must act.
    #[error("read {what} {path}: {reason}")]
    File { what: &'static str, path: String, reason: String },
    /// The operating system offers no trusted authority.
    #[error("no trusted certificate authority found on this system: name a file with the authority's certificate")]
    NoRoots,
    /// Certificate and key do not belong together, or only one was given.
    #[error("client certificate: {0}")]
    ClientCertificate(String),
    /// The name cannot stand in a certificate.
    #[error("`{0}` is not a host name that a certificate can be issued for")]
    Name(String),
    /// The peer's certificate was refused.
    #[error("the server's certificate was refused: {0}")]
    Refused(String),
    /// The connection broke during the handshake.
    #[error("TLS handshake: {0}")]
    Handshake(#[source] std::io::Error),
}

impl TlsError {
    /// Waiting does not help.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, TlsError::Handshake(_))
    }
}

/// Wraps `stream`; `host` is the name or address the peer's certificate must be for.
pub async fn connect<S>(options: &TlsOptions, host: &str, stream: S) -> Result<TlsStream<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = client_config(options)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
    tokio_rustls::TlsConnector::from(config).connect(name, stream).await.map_err(handshake_error)
}

fn handshake_error(error: std::io::Error) -> TlsError {
    let refused = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .filter(|inner| matches!(inner, rustls::Error::InvalidCertificate(_)))
        .map(ToString::to_string);
    match refused {
        Some(reason) => TlsError::Refused(reason),
        None => TlsError::Handshake(error),
    }
}

/// The rustls configuration for these options. Files are read at each call, so a renewed certificate is picked up.
pub fn client_config(options: &TlsOptions) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match options.verify {
        Verify::Nobody => Arc::new(Encryption { provider: provider.clone() }),
        Verify::Authority => Arc::new(AnyName { inner: web_pki(options, &provider)? }),
        Verify::Full => web_pki(options, &provider)?,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring offers TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match (&options.cert, &options.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = read_certificates("client certificate", cert)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| file_error("client key", key, &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| TlsError::ClientCertificate(error.to_string()))?
        }
        _ => return Err(TlsError::ClientCertificate("give the certificate and its key, or neither".into())),
    };
    Ok(Arc::new(config))
}

fn web_pki(options: &TlsOptions, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let roots = Arc::new(roots(options.root_cert.as_deref())?);
    WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build().map_err(|_| TlsError::NoRoots)
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    match file {
        Some(path) => {
            for certificate in read_certificates("trusted certificates", path)? {
                store.add(certificate).map_err(|error| file_error("trusted certificates", path, &error))?;
            }
        }
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() { Err(TlsError::NoRoots) } else { Ok(store) }
}

fn read_certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| file_error(what, path, &error))?;
    if certificates.is_empty() {
        return Err(file_error(what, path, &"the file holds no certificate in PEM form"));
    }
    Ok(certificates)
}

fn file_error(what: &'static str, path: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::File { what, path: path.display().to_string(), reason: reason.to_string() }
}

/// Channel binding data `tls-server-end-point` (RFC 5929, section 4.1): the certificate's hash by the hash function of its own
/// signature, MD5 and SHA-1 replaced by SHA-256. `None` where that is not defined (e.g. Ed25519).
pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    match parsed.signature_algorithm.algorithm.to_id_string().as_str() {
        // md5, sha1 and sha256 with RSA; sha1 and sha256 with ECDSA
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Some(Sha256::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(Sha384::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}

/// Believes every certificate, but only from somebody who holds its key.
#[derive(Debug)]
struct Encryption {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Encryption {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Believes what a trusted authority signed, for any name.
#[derive(Debug)]
struct AnyName {
    inner: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The name is checked last, after the chain (rustls, `WebPkiServerVerifier`): only that verdict is overruled.
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_binding_hashes_the_certificate_by_its_own_signature() {
        let key = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let der = key.cert.der();
        // rcgen signs by ECDSA with SHA-256
        assert_eq!(server_end_point(der).unwrap(), Sha256::digest(der).to_vec());
        assert_eq!(server_end_point(b"not a certificate"), None);
    }

    #[test]
    fn a_missing_file_is_named() {
        let options = TlsOptions { root_cert: Some("/nowhere/ca.pem".into()), ..TlsOptions::default() };
        let error = client_config(&options).unwrap_err();
        assert!(error.is_permanent());
        assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let options =
            TlsOptions { verify: Verify::Nobody, cert: Some("/some/cert.pem".into()), ..TlsOptions::default() };
        assert!(matches!(client_config(&options), Err(TlsError::ClientCertificate(_))));
    }
}
