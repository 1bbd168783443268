//! The token file: replaced while requests run, half written, emptied, gone.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use exportgate::fake::{Settings, State};
use tempfile::TempDir;

use crate::support::{Flags, World, flag, results, scope};

fn from_file(path: &Path) -> Flags {
    vec![flag("credential.token_file", path.display()), flag("credential.reload_interval", "10ms")]
}

/// Resolves when the upstream has been asked with `token`.
async fn until_used(world: &World, token: &str) {
    let wanted = format!("token {token}");
    loop {
        world.get(&results("e1")).await;
        if world.fake.requests().last().unwrap().header("authorization") == [wanted.as_str()] {
            return;
        }
    }
}

async fn rotate(replace: impl Fn(&Path, &str)) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("token");
    replace(&path, "token-0");
    let world = Arc::new(World::with(Settings::default(), from_file(&path)).await);
    world.fake.put_export(&scope(), "e1", State::Word("PENDING".into()));
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load = tokio::spawn({
        let (world, stop, served) = (Arc::clone(&world), Arc::clone(&stop), Arc::clone(&served));
        async move {
            while !stop.load(Ordering::SeqCst) {
                assert_eq!(world.get(&results("e2")).await.status, 404);
                served.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    for i in 1..=100 {
        let token = format!("token-{i}");
        replace(&path, &token);
        until_used(&world, &token).await;
    }
    stop.store(true, Ordering::SeqCst);
    load.await.unwrap();
    assert!(served.load(Ordering::SeqCst) > 100);
    // Never a mixture: every request had exactly one whole token.
    for seen in world.fake.requests() {
        let [value] = seen.header("authorization")[..] else { panic!("one credential") };
        let number: u32 = value.strip_prefix("token token-").unwrap().parse().unwrap();
        assert!(number <= 100);
    }
    Arc::into_inner(world).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_renames_under_load_fail_no_request() {
    rotate(|path, token| {
        let new = path.with_extension("new");
        std::fs::write(&new, format!("{token}\n")).unwrap();
        std::fs::rename(&new, path).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_symlink_swaps_under_load_fail_no_request() {
    rotate(|path, token| {
        let (target, link) = (path.with_file_name(token), path.with_extension("link"));
        std::fs::write(&target, token).unwrap();
        symlink(&target, &link).unwrap();
        std::fs::rename(&link, path).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_keeps_the_last_good_token() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "good-1").unwrap();
    let world = World::with(Settings::default(), from_file(&path)).await;
    until_used(&world, "good-1").await;
    for (bad, next) in [("", "good-2"), (" \n", "good-3"), ("two words", "good-4"), ("\0", "good-5")] {
        std::fs::write(&path, bad).unwrap();
        for _ in 0..20 {
            world.get(&results("e1")).await;
        }
        std::fs::write(&path, next).unwrap();
        until_used(&world, next).await;
    }
    std::fs::remove_file(&path).unwrap();
    for _ in 0..20 {
        world.get(&results("e1")).await;
    }
    for seen in world.fake.requests() {
        let [value] = seen.header("authorization")[..] else { panic!("one credential") };
        assert!(value.starts_with("token good-"), "{value}");
    }
    world.stop().await;
}
