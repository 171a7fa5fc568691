//! Finding and reading test data.

use azure_proxy_agent_core::replay::Fixture;
use std::path::{Path, PathBuf};

pub(crate) fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata")
}

/// All files below a folder of the test data whose name ends so, sorted.
pub(crate) fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![testdata().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A path as it is named in messages.
pub(crate) fn name(path: &Path) -> String {
    let short = path.strip_prefix(testdata()).unwrap_or(path);
    short.display().to_string()
}

/// All fixtures with their names.
pub(crate) fn fixtures() -> Vec<(String, String, Fixture)> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let fixture = text.parse().unwrap_or_else(|e| panic!("{}: {e}", name(&path)));
        (name(&path), text, fixture)
    };
    files("replay", ".replay").into_iter().map(read).collect()
}
