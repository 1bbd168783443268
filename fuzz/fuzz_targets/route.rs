//! Method, path and query: `route::recognise`.
//!
//! The input is a flag (odd: `routes.other = "forward"`) and `METHOD target`.

#![no_main]

use exportgate::export::{
    ExportCall, FileName, FilesCall, FilesTarget, NamedCall, NamedTarget, Operation, Scope,
};
use exportgate::route::{OtherCall, Route, recognise};
use http::{Method, Uri};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((flag, request)) = data.split_first() else { return };
    let forward_other = flag & 1 == 1;
    let mut parts = request.splitn(2, |b| *b == b' ');
    let (Some(method), Some(target)) = (parts.next(), parts.next()) else { return };
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method), Uri::try_from(target)) else { return };
    match recognise(&method, &uri, forward_other) {
        Ok(Route::Export(call)) => export(&call, &method, &uri),
        Ok(Route::Files(call)) => files(&call, &method, &uri),
        Ok(Route::Named(call)) => named(&call, &method, &uri),
        Ok(Route::Other(call)) => other(&call, &method, &uri, forward_other),
        Err(_) => {}
    }
});

fn export(call: &ExportCall, method: &Method, uri: &Uri) {
    assert!(call.method() == *method || (call.method() == Method::GET && *method == Method::HEAD), "{method}");
    let target = call.target();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));

    // Only these bytes go up, and sane ids.
    assert!(path.bytes().all(|b| is_id_byte(b) || b == b'/'), "{target}");
    assert!(path.starts_with("/rest/orgs/") || path.starts_with("/rest/groups/"), "{target}");
    let ids = std::iter::once(&call.scope.id).chain(call.operation.export());
    for id in ids {
        assert!((1..=64).contains(&id.as_str().len()) && id.as_str().bytes().all(is_id_byte), "{target}");
    }
    assert_eq!(call.operation == Operation::Start, *method == Method::POST);
    let mut rest = query.bytes();
    while let Some(b) = rest.next() {
        if b == b'%' {
            let digits = [rest.next().expect("a digit"), rest.next().expect("a digit")];
            assert!(digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'A'..=b'F')), "{target}");
            let value = value_of(digits);
            let needs_none = value.is_ascii_alphanumeric() || b"-._~&=#".contains(&value);
            assert!(!value.is_ascii_control() && !needs_none, "{target}");
        } else {
            assert!(b.is_ascii_alphanumeric() || b"-._~!$'()*+,;:@/?=&".contains(&b), "{target}");
        }
    }

    // Read again, by whichever setting, it is the same call: one question has one spelling.
    let again: Uri = target.parse().expect("a target of ours is a URI");
    for forward_other in [false, true] {
        assert_eq!(recognise(method, &again, forward_other), Ok(Route::Export(call.clone())), "{target}");
        assert_eq!(recognise(method, uri, forward_other), Ok(Route::Export(call.clone())), "{uri}");
    }
}

/// A name has one spelling, and no scope before it is looked up.
fn named(call: &NamedCall, method: &Method, uri: &Uri) {
    assert!(*method == Method::GET || *method == Method::HEAD, "{method}");
    let name = call.name.as_str();
    assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b)), "{uri}");
    let last = match call.target {
        NamedTarget::State => String::new(),
        NamedTarget::Files(FilesTarget::Index) => "/files".to_owned(),
        NamedTarget::Files(FilesTarget::File(FileName::Table)) => "/table.csv".to_owned(),
        NamedTarget::Files(FilesTarget::File(FileName::Part(number))) => format!("/files/{number}.csv"),
    };
    assert_eq!(uri.path(), format!("/named/{name}{last}"));
    assert_eq!(call.scope, None, "{uri}");
}

/// The results that are asked for are an export call, and the number of a part has one spelling.
fn files(call: &FilesCall, method: &Method, uri: &Uri) {
    assert!(*method == Method::GET || *method == Method::HEAD, "{method}");
    let results = call.results();
    let target: Uri = results.target().parse().expect("a target of ours is a URI");
    export(&results, &Method::GET, &target);
    let last = match call.target {
        FilesTarget::Index => "/files".to_owned(),
        FilesTarget::File(FileName::Table) => "/table.csv".to_owned(),
        FilesTarget::File(FileName::Part(number)) => format!("/files/{number}.csv"),
    };
    assert!(uri.path().ends_with(&last), "{uri}");
    let path = format!("{}{last}", target.path());
    let again = target.query().map_or(path.clone(), |query| format!("{path}?{query}"));
    let again: Uri = again.parse().expect("a URI");
    for forward_other in [false, true] {
        assert_eq!(recognise(method, &again, forward_other), Ok(Route::Files(call.clone())), "{again}");
        assert_eq!(recognise(method, uri, forward_other), Ok(Route::Files(call.clone())), "{uri}");
    }
}

fn other(call: &OtherCall, method: &Method, uri: &Uri, forward_other: bool) {
    assert!(forward_other);
    assert_eq!(call.method, *method);
    let target = &call.target;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    assert!(path.starts_with("/rest/") || path.starts_with("/v1/"), "{target}");
    assert!(target.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'#'), "{target}");

    // Decoded once, and once more, slashes included: no part of the path is another path, and there is nothing left to
    // decode. A package's parts may be followed by what a purl has behind `?`.
    let mut text = path.as_bytes().to_vec();
    for _ in 0..2 {
        text = decode(&text);
        let (head, behind) = text.split_at(text.iter().position(|b| *b == b'?').unwrap_or(text.len()));
        let parts: Vec<&[u8]> = head.split(|b| *b == b'/').collect();
        assert!(parts[1..parts.len() - 1].iter().all(|part| !part.is_empty()), "an empty segment: {target}");
        let all = parts.into_iter().chain(behind.split(|b| *b == b'/'));
        assert!(all.into_iter().all(|part| part != b"." && part != b".."), "{target}");
        assert!(!text.iter().any(|b| b"\\;".contains(b) || b.is_ascii_control()), "{target}");
        assert!(std::str::from_utf8(&text).is_ok(), "{target}");
    }
    assert_eq!(decode(&text), text, "{target}");
    let decoded: Vec<&[u8]> = text.split(|b| *b == b'/').collect();
    assert!(!decode(query.as_bytes()).iter().any(u8::is_ascii_control), "{target}");

    // It is no export call in disguise.
    let lower: Vec<String> = decoded[1..]
        .iter()
        .map(|segment| String::from_utf8_lossy(segment).to_ascii_lowercase())
        .filter(|segment| !segment.is_empty())
        .collect();
    let below = lower.iter().map(String::as_str).skip(1).collect::<Vec<_>>();
    if lower.first().is_some_and(|first| first == "rest") {
        let is_export = match below.as_slice() {
            ["orgs" | "groups", id, "export"] => is_id(id),
            ["orgs" | "groups", id, "export", export] => is_id(id) && is_id(export) && *export != "jobs",
            ["orgs" | "groups", id, "export", "jobs", export]
            | ["orgs" | "groups", id, "jobs", "export", export]
            | ["orgs" | "groups", id, "export", export, "files" | "table.csv"] => is_id(id) && is_id(export),
            _ => false,
        };
        assert!(!is_export, "an export call passed as another: {target}");
    }

    // Every org and group that its path names with an id is among its scopes, or none is.
    if !call.scopes.is_empty() {
        for pair in below.windows(2) {
            let named = matches!(pair[0], "org" | "orgs" | "group" | "groups") && is_id(pair[1]);
            let known = |scope: &Scope| scope.id.as_str().eq_ignore_ascii_case(pair[1]);
            assert!(!named || call.scopes.iter().any(known), "{target}: {:?}", call.scopes);
        }
    }

    // Read again, it is the same.
    let again: Uri = target.parse().expect("a target of ours is a URI");
    assert_eq!(recognise(method, &again, true), Ok(Route::Other(call.clone())), "{uri}");
}

fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(is_id_byte)
}

fn is_id_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'-' || b == b'_'
}

fn value_of(digits: [u8; 2]) -> u8 {
    let digits = std::str::from_utf8(&digits).expect("ASCII");
    u8::from_str_radix(digits, 16).expect("hex")
}

/// Percent-decodes; what is no encoding stays as it is.
fn decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = text;
    while let Some((first, more)) = rest.split_first() {
        match (first, more) {
            (b'%', [a, b, more @ ..]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {
                decoded.push(value_of([*a, *b]));
                rest = more;
            }
            _ => {
                decoded.push(*first);
                rest = more;
            }
        }
    }
    decoded
}
