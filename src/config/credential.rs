//! `[credential]` and `SNYK_TOKEN`.

use super::reader::Reader;
use crate::credential::{Scheme, Settings, Source, parse};

/// Gives nothing only after noting a problem.
pub(super) fn read(r: &mut Reader<'_>) -> Option<Settings> {
    if let Some(given) = r.given("credential.token") {
        let what = "a token does not belong in a file: use SNYK_TOKEN, or credential.token_file";
        r.problem(&given.place, "credential.token", what);
    }
    let file = r.path((
        "credential.token_file",
        "",
        "A file with the Snyk token, read again when it changes; before SNYK_TOKEN.",
    ));
    let scheme = r.choice(
        (
            "credential.scheme",
            "token",
            "The Authorization scheme: \"token\" for API tokens, \"bearer\" for OAuth ones.",
        ),
        &[("token", Scheme::Token), ("bearer", Scheme::Bearer)],
    );
    let name =
        r.text(("credential.name", "default", "What the credential is called in the journal and the log."));
    let sane = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !sane {
        let place = r.given("credential.name").map(|given| given.place).unwrap_or_default();
        r.problem(&place, "credential.name", "must be 1 to 64 letters, digits, \"-\", \"_\" or \".\"");
    }
    let reload_interval = r.duration(
        (
            "credential.reload_interval",
            "1s",
            "How often the token file is read; a new token is used after two equal readings.",
        ),
        ("10ms", "1h"),
    );
    let token = r.sources.env.get("SNYK_TOKEN").cloned();
    r.note(format!("SNYK_TOKEN is {}", if token.is_some() { "set" } else { "not set" }));
    let source = match (file, token.as_deref().map(parse)) {
        (Some(path), _) => Some(Source::File(path)),
        (None, Some(Ok(secret))) => Some(Source::Fixed(secret)),
        (None, Some(Err(error))) => {
            r.problem("SNYK_TOKEN", "", error.to_string());
            None
        }
        (None, None) => {
            let what = "no Snyk credential: set SNYK_TOKEN, or credential.token_file (EXPORTGATE_CREDENTIAL_TOKEN_FILE)";
            r.problem("credential", "", what);
            None
        }
    };
    Some(Settings { name, source: source?, scheme, reload_interval })
}
