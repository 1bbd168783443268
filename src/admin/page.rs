//! The status page: one file that needs nothing else, and may do nothing but talk to this listener.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Response, StatusCode};

use super::answer::whole;
use crate::transport::Body;

const PAGE: &str = include_str!("page.html");

/// The rights of the page: one style and one script, by their hashes, and calls to this listener.
pub(super) fn policy() -> Option<HeaderValue> {
    let hash = |element: &str| {
        let (_, rest) = PAGE.split_once(&format!("<{element}>"))?;
        let (content, rest) = rest.split_once(&format!("</{element}>"))?;
        // A second one would not be allowed, and be missed.
        (!rest.contains(&format!("<{element}"))).then(|| STANDARD.encode(digest(&SHA256, content.as_bytes())))
    };
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
        hash("style")?,
        hash("script")?
    );
    HeaderValue::try_from(policy).ok()
}

/// The page.
pub(super) fn response(policy: &HeaderValue) -> Response<Body> {
    let mut response = whole(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    response.headers_mut().insert("content-security-policy", policy.clone());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_style_and_one_script() {
        let policy = policy().expect("hashes of both");
        let policy = policy.to_str().expect("text");
        assert_eq!(policy.matches("'sha256-").count(), 2);
    }
}
