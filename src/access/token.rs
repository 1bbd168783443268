//! JSON Web Tokens (RFC 7519), checked against an issuer's keys (RFC 7517). Pure; takes `now`.
//!
//! The algorithm must be on the configured list, which can only hold signatures, and must be one that the
//! chosen key is for. So neither `none` nor an HMAC made with a public key can pass (RFC 8725 §3.1).

use std::time::{Duration, SystemTime};

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::Reason;

/// Longest token that is verified, in bytes.
const MAX_TOKEN: usize = 16 * 1024;

/// Requirements of a token.
#[derive(Debug, Clone)]
pub struct TokenRules {
    /// `iss`.
    pub issuer: String,
    /// `aud`, one of these.
    pub audience: Vec<String>,
    /// `alg`, one of these.
    pub algorithms: Vec<Algorithm>,
    /// Largest difference between clocks.
    pub leeway: Duration,
}

/// The issuer's keys.
#[derive(Default)]
pub struct Keys(Vec<VerifyingKey>);

struct VerifyingKey {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

/// A key set has no usable key.
#[derive(Debug, thiserror::Error)]
pub enum BadKeys {
    /// It is not a JWK set.
    #[error("not a JWK set (RFC 7517)")]
    Json(#[from] serde_json::Error),
    /// None of its keys verifies a supported signature.
    #[error("no key in it can verify a signature")]
    None,
}

impl Keys {
    /// Reads a JWK set; keys that are not for signatures, symmetric ones and unknown kinds are left out.
    ///
    /// # Errors
    /// [`BadKeys`].
    pub fn parse(json: &[u8]) -> Result<Self, BadKeys> {
        let whole: Value = serde_json::from_slice(json)?;
        let keys = whole.get("keys").and_then(Value::as_array).cloned().unwrap_or_default();
        // One by one, so that a kind of key that is not known yet hides none of the others.
        let known: Vec<Jwk> = keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect();
        let usable: Vec<VerifyingKey> = JwkSet { keys: known }.keys.iter().filter_map(verifying).collect();
        if usable.is_empty() { Err(BadKeys::None) } else { Ok(Self(usable)) }
    }

    /// The key for a token's header: by its id, or the only one there is.
    fn find(&self, id: Option<&str>) -> Option<&VerifyingKey> {
        match (id, self.0.as_slice()) {
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }
}

fn verifying(jwk: &Jwk) -> Option<VerifyingKey> {
    let for_signatures = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
    let symmetric = matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
    if !for_signatures || symmetric {
        return None;
    }
    let algorithm = match jwk.common.key_algorithm {
        None => None,
        Some(named) => Some(Algorithm::try_from(named).ok()?),
    };
    Some(VerifyingKey { id: jwk.common.key_id.clone(), algorithm, key: DecodingKey::from_jwk(jwk).ok()? })
}

/// True if text has the form of a signed token: three parts, the first a JSON object in base64.
#[must_use]
pub fn is_jwt_like(text: &str) -> bool {
    text.starts_with("eyJ") && text.split('.').count() == 3
}

/// Verifies a token at `now` and returns its claims.
///
/// # Errors
/// [`Reason::UnknownSigner`] if no key matches (a newer key set may have it); another [`Reason`] if it is bad.
pub fn verify(
    token: &str,
    keys: &Keys,
    rules: &TokenRules,
    now: SystemTime,
) -> Result<Map<String, Value>, Reason> {
    if token.len() > MAX_TOKEN {
        return Err(Reason::BadToken);
    }
    let header = decode_header(token).map_err(|_| Reason::BadToken)?;
    // Extensions that must be understood, and are not (RFC 7515 §4.1.11).
    if header.crit.is_some() || !rules.algorithms.contains(&header.alg) {
        return Err(Reason::BadToken);
    }
    let key = keys.find(header.kid.as_deref()).ok_or(Reason::UnknownSigner)?;
    if key.algorithm.is_some_and(|named| named != header.alg) {
        return Err(Reason::BadToken);
    }
    let mut validation = Validation::new(header.alg);
    validation.set_issuer(&[&rules.issuer]);
    validation.set_audience(&rules.audience);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    // Times are judged below, by our own clock.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    let claims: Map<String, Value> =
        decode(token, &key.key, &validation).map_err(|_| Reason::BadToken)?.claims;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let leeway = rules.leeway.as_secs_f64();
    // A NumericDate may have a fraction (RFC 7519 §2); what is no number is no time.
    let ends = claims.get("exp").and_then(Value::as_f64).ok_or(Reason::BadToken)?;
    let begins = claims.get("nbf").map(|nbf| nbf.as_f64().ok_or(Reason::BadToken)).transpose()?;
    if now >= ends + leeway {
        return Err(Reason::ExpiredToken);
    }
    if begins.is_some_and(|begins| now + leeway < begins) {
        return Err(Reason::BadToken);
    }
    Ok(claims)
}
