//! A throw-away certificate authority, for tests of verified connections.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::{Path, PathBuf};

/// A certificate authority that lives in memory; its certificate is a file.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    ca_path: PathBuf,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("ca_path", &self.ca_path).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes one and writes `ca.pem` into `dir`.
    pub fn new(dir: &Path) -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "testbed authority");
        let key = KeyPair::generate().expect("ring makes keys");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate can be signed");
        let ca_path = dir.join("ca.pem");
        std::fs::write(&ca_path, issuer.pem()).expect("the private directory is writable");
        Authority { issuer, ca_path }
    }

    /// File with the authority's certificate, for `sslrootcert` and the like.
    pub fn ca_path(&self) -> &Path {
        &self.ca_path
    }

    /// Certificate and key (PEM) for these host names or addresses.
    pub fn certificate(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).expect("valid host names");
        params.distinguished_name.push(rcgen::DnType::CommonName, names.first().cloned().unwrap_or_default());
        let key = KeyPair::generate().expect("ring makes keys");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate can be signed");
        (certificate.pem(), key.serialize_pem())
    }
}
