//! The file of FS-30 byte for byte, and what is not taken for a key.

use super::super::scratch::Scratch;
use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

const GUID: &str = "7f9c2ba4-e88f-4e6d-9c1a-5d0f3f6b2a11";
const FILE: &str = r#"{
  "authorizationScheme": "Azure-HMAC-SHA256",
  "incarnationId": 3,
  "guid": "7f9c2ba4-e88f-4e6d-9c1a-5d0f3f6b2a11",
  "issued": "2026-01-06T08:15:30Z",
  "key": "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
}"#;

fn guid() -> KeyGuid {
    KeyGuid::parse(GUID).expect("guid")
}

fn stored() -> StoredKey {
    StoredKey::from_json(FILE.as_bytes()).expect("a key file")
}

/// A store whose directory exists, and that directory.
fn store() -> (Scratch, KeyStore, PathBuf) {
    let scratch = Scratch::new("keystore");
    let path = scratch.path().join("keys");
    let store = KeyStore::new(path.clone());
    store.open().expect("made");
    (scratch, store, path)
}

/// FS-31
#[test]
fn fs30_the_file_is_this_and_nothing_else_is_left() {
    let (_scratch, store, path) = store();
    store.store(&stored()).expect("stored");
    let file = path.join(format!("{GUID}.key"));
    assert_eq!(fs::read_to_string(&file).expect("read"), FILE);
    assert_eq!(fs::metadata(&file).expect("stat").permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o7777, 0o700);
    assert_eq!(fs::read_dir(&path).expect("list").count(), 1, "no temporary file");
}

#[test]
fn w93_what_was_stored_is_read_back_and_fs32_other_files_are_not_read() {
    let (_scratch, store, path) = store();
    assert!(store.load(&guid()).expect("no error").is_none());
    store.store(&stored()).expect("stored");
    assert_eq!(store.load(&guid()).expect("loads"), Some(stored()));
    fs::rename(path.join(format!("{GUID}.key")), path.join(format!("{GUID}.encrypted"))).expect("rename");
    assert!(store.load(&guid()).expect("no error").is_none());
}

#[test]
fn s34_what_is_not_a_key_file_is_refused_and_never_quoted() {
    let (_scratch, store, path) = store();
    for (from, to, why) in [
        ("Azure-HMAC-SHA256", "Azure-HMAC-SHA1", "unknown authorization scheme"),
        ("\"0011", "\"001x", "the key is not hex text"),
        ("\"0011", "\"011", "the key is not hex text"),
        ("\"key\"", "\"kez\"", "not a key document"),
        ("\"0011", "[\"0011", "not a key document"),
        ("\"0011", "0011", "not a key document"),
        ("}", "", "not a key document"),
    ] {
        assert!(FILE.contains(from), "{from}");
        fs::write(path.join(format!("{GUID}.key")), FILE.replace(from, to)).expect("write");
        let error = store.load(&guid()).expect_err(to).to_string();
        assert!(error.contains(why), "{to}: {error}");
        assert!(!error.contains("2233") && !error.contains("eeff"), "no key material: {error}");
    }
    fs::write(path.join(format!("{GUID}.key")), vec![b' '; MAX_SIZE + 1]).expect("write");
    store.load(&guid()).expect_err("too large");
}

#[test]
fn fs29_links_and_foreign_modes_are_refused() {
    let (scratch, store, path) = store();
    let file = path.join(format!("{GUID}.key"));
    let elsewhere = scratch.path().join("elsewhere");
    fs::write(&elsewhere, FILE).expect("write");
    symlink(&elsewhere, &file).expect("link");
    assert!(store.load(&guid()).expect_err("link").to_string().ends_with("it is a symbolic link"));
    store.store(&stored()).expect("a link in the way is replaced, not followed");
    assert_eq!(fs::read_to_string(&elsewhere).expect("read"), FILE);

    fs::set_permissions(&file, fs::Permissions::from_mode(0o660)).expect("chmod");
    assert!(store.load(&guid()).expect_err("mode").to_string().contains("0660 lets others write"));

    fs::rename(&path, scratch.path().join("moved")).expect("rename");
    symlink("moved", &path).expect("link");
    assert!(store.load(&guid()).expect_err("directory").to_string().ends_with("keys: refused, because it is a symbolic link"));
    store.store(&stored()).expect_err("directory");
}

#[test]
fn w96_a_failed_store_changes_nothing() {
    let (_scratch, store, path) = store();
    // Renaming over a directory that is not empty fails at the last step.
    fs::create_dir_all(path.join(format!("{GUID}.key/x"))).expect("mkdir");
    store.store(&stored()).expect_err("cannot replace a directory");
    assert_eq!(fs::read_dir(&path).expect("list").count(), 1, "no temporary file");
}
