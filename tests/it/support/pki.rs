//! Certificates, revocation lists and JWTs, made at test time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
    key: Vec<u8>,
}

impl Identity {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        Self::from(name, CertificateParams::new(Vec::new()).unwrap())
    }

    /// One that ended in 2001.
    pub(crate) fn of_old(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1));
        Self::from(name, params)
    }

    fn from(name: &str, mut params: CertificateParams) -> Self {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for this machine's own names.
    pub(crate) fn server(&self) -> Identity {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        self.sign(&CertificateParams::new(names).unwrap())
    }

    /// A certificate for another name, that begins and ends at these times.
    pub(crate) fn server_for(&self, name: &str, (begins, ends): (SystemTime, SystemTime)) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        let time = |at: SystemTime| date_time_ymd(1970, 1, 1) + at.duration_since(UNIX_EPOCH).unwrap();
        (params.not_before, params.not_after) = (time(begins), time(ends));
        self.sign(&params)
    }

    /// A client's certificate: `serial` to revoke it by, `uri` and `common_name` to know it by.
    pub(crate) fn client(&self, serial: u64, uri: Option<&str>, common_name: &str) -> Identity {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            key: key.serialize_der(),
        }
    }

    /// A list that revokes these serial numbers.
    pub(crate) fn revocations(&self, serials: &[u64]) -> String {
        let year = Duration::from_hours(24 * 365);
        self.revocations_within(serials, (UNIX_EPOCH + 54 * year, UNIX_EPOCH + 130 * year))
    }

    /// The same, from one time to the other.
    pub(crate) fn revocations_within(
        &self,
        serials: &[u64],
        (begins, ends): (SystemTime, SystemTime),
    ) -> String {
        let time = |at: SystemTime| date_time_ymd(1970, 1, 1) + at.duration_since(UNIX_EPOCH).unwrap();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: time(begins),
            next_update: time(ends),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// Who makes JWTs.
pub(crate) struct Issuer {
    id: String,
    key: EncodingKey,
}

impl Issuer {
    pub(crate) fn new(id: &str) -> Self {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        Self { id: id.to_owned(), key: EncodingKey::from_ec_der(pkcs8.unwrap().as_ref()) }
    }

    /// Its public key.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(self.id.clone());
        serde_json::to_value(jwk).unwrap()
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.clone());
        encode(&header, claims, &self.key).unwrap()
    }

    /// A token as a gateway of the tests wants it, for so many seconds, with these claims besides.
    pub(crate) fn token(&self, subject: &str, seconds: i64) -> String {
        self.sign(&claims(subject, seconds))
    }
}

/// The claims of a good token.
pub(crate) fn claims(subject: &str, seconds: i64) -> Value {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let now = i64::try_from(now).unwrap();
    json!({"iss": "https://issuer.test", "aud": ["exportgate"], "sub": subject, "iat": now, "exp": now + seconds})
}

/// A key set of these issuers.
pub(crate) fn key_set(issuers: &[&Issuer]) -> String {
    json!({"keys": issuers.iter().map(|issuer| issuer.jwk()).collect::<Vec<_>>()}).to_string()
}
