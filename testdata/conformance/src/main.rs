//! Writes `docs/conformance.md`: every number of the specification (`numbers.txt`), the tests that cite it, and how they ended.
//!
//! ```text
//! conformance OUTPUT             write docs/conformance.md; OUTPUT is what `cargo test` printed (`make test` keeps it)
//! conformance --check OUTPUT     see whether docs/conformance.md is what would be written
//! ```
//!
//! Either way the exit status is 1 if a number that describes behaviour is cited by no test, if a test cites a number that is
//! not in the list, or if a cited test failed. A test cites a number by its name (`..._w96`, `px66_to_px72_...`), in the comment
//! above it, or in a comment or string of its body (`W-96`, `PX-66 to PX-72`). A fixture cites in its comments.

#![forbid(unsafe_code)]

mod cites;
mod document;
mod numbers;
mod results;
mod source;
mod tree;

use numbers::Numbers;
use results::Results;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

/// What is in the way, as one line for whoever called.
type Failure = String;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    let check = arguments.iter().position(|argument| argument == "--check").map(|at| arguments.remove(at)).is_some();
    let [output] = arguments.as_slice() else {
        eprintln!("usage: conformance [--check] OUTPUT");
        return ExitCode::from(2);
    };
    match run(Path::new(output), check) {
        Ok(complaints) if complaints.is_empty() => ExitCode::SUCCESS,
        Ok(complaints) => {
            for complaint in complaints {
                eprintln!("conformance: {complaint}");
            }
            ExitCode::FAILURE
        }
        Err(failure) => {
            eprintln!("conformance: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// What is wrong with the tree, if all could be read.
fn run(output: &Path, check: bool) -> Result<Vec<String>, Failure> {
    let root = root()?;
    let numbers: Numbers = read(&root.join("testdata/conformance/numbers.txt"))?.parse()?;
    let results: Results = read(output).map_err(|failure| format!("{failure}; `make test` writes it"))?.as_str().into();
    let evidence = tree::evidence(&root, &numbers, &results)?;
    let document = document::write(&numbers, &evidence);
    let mut complaints = document::complaints(&numbers, &evidence);
    let path = root.join("docs/conformance.md");
    if !check {
        fs::write(&path, document).map_err(|e| format!("{}: {e}", path.display()))?;
    } else if read(&path)? != document {
        complaints.push("docs/conformance.md is not what the tests say: run `make conformance` and commit it".to_owned());
    }
    Ok(complaints)
}

/// The directory with the workspace's Cargo.toml: here or above.
fn root() -> Result<PathBuf, Failure> {
    let here = env::current_dir().map_err(|e| format!("no current directory: {e}"))?;
    let is_root = |directory: &&Path| directory.join("testdata/conformance/numbers.txt").is_file();
    here.ancestors().find(is_root).map(Path::to_path_buf).ok_or_else(|| "run it inside the repository".to_owned())
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}
