//! The cluster's certificates, new for every instance: one authority, P-256 everywhere (cheap in an emulated guest).

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::network;

/// Names by which pods reach the API server.
const API_SERVER_NAMES: [&str; 5] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Certificate.
    pub certificate: String,
    /// Private key.
    pub key: String,
}

impl Identity {
    /// Writes `<stem>.crt` and `<stem>.key`.
    pub fn write(&self, folder: &Path, stem: &str) -> Result<()> {
        for (extension, content) in [("crt", &self.certificate), ("key", &self.key)] {
            let path = folder.join(stem).with_extension(extension);
            fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// The cluster's certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Certificate and key; the controller manager signs requests with it.
    pub identity: Identity,
}

impl Authority {
    /// A new authority.
    pub fn new() -> Result<Self> {
        let mut params = params("lab-ca", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.self_signed(&key).context("cannot sign the authority")?;
        let identity = Identity { certificate: certificate.pem(), key: key.serialize_pem() };
        Ok(Self { issuer: Issuer::new(params, key), identity })
    }

    /// A leaf for client and server use: Kubernetes reads user and group from common name and organisation.
    pub fn issue(
        &self,
        name: &str,
        group: Option<&str>,
        names: &[&str],
        addresses: &[IpAddr],
    ) -> Result<Identity> {
        let mut params = params(name, group);
        let alternatives = names.iter().map(|&name| name.to_owned());
        let alternatives = alternatives.chain(addresses.iter().map(IpAddr::to_string)).collect::<Vec<_>>();
        params.subject_alt_names =
            CertificateParams::new(alternatives).context("bad subject name")?.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate =
            params.signed_by(&key, &self.issuer).with_context(|| format!("cannot sign {name}"))?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// The API server's own certificate.
    pub fn api_server(&self) -> Result<Identity> {
        let addresses = [network::HOST, network::LOOPBACK, network::KUBERNETES_SERVICE].map(IpAddr::V4);
        self.issue("kube-apiserver", None, &API_SERVER_NAMES, &addresses)
    }

    /// A kubelet's certificate, as the Node authorizer expects it.
    pub fn node(&self, name: &str, address: IpAddr) -> Result<Identity> {
        self.issue(&format!("system:node:{name}"), Some("system:nodes"), &[name], &[address])
    }
}

/// Writes the key pair that signs service account tokens: `sa.key` and `sa.pub`.
pub fn write_service_account_key(folder: &Path) -> Result<()> {
    let key = KeyPair::generate().context("cannot make a key")?;
    fs::write(folder.join("sa.key"), key.serialize_pem()).context("cannot write sa.key")?;
    fs::write(folder.join("sa.pub"), key.public_key_pem()).context("cannot write sa.pub")
}

fn params(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    // Wide, so that neither a wrong clock nor an old instance matters; the key never leaves the run folder.
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2050, 1, 1));
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaf_and_authority_are_pem_with_their_own_keys() {
        let authority = Authority::new().unwrap();
        let node = authority.node("n1", IpAddr::V4(network::node(1))).unwrap();
        for pem in [&authority.identity.certificate, &node.certificate] {
            assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"));
        }
        assert!(node.key.starts_with("-----BEGIN PRIVATE KEY-----"));
        assert_ne!(node.key, authority.identity.key);
    }
}
