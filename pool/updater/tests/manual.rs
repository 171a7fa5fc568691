//! The manual page and the completions name what there is: the options of `--help`, the members of the configuration.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use pool_updater::config::Config;
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

fn doc(name: &str) -> String {
    fs::read_to_string(format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The long options that a text names.
fn options(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '-'));
    words.filter_map(|word| word.strip_prefix("--")).filter(|word| !word.is_empty()).map(String::from).collect()
}

#[test]
fn the_manual_page_and_the_completions_have_the_options_of_help() {
    let help = Command::new(env!("CARGO_BIN_EXE_azure-proxy-agent-updater")).arg("--help").output().unwrap();
    // One of systemctl's is in the examples of both.
    let ours = |text: &str| options(text).into_iter().filter(|name| name != "now").collect::<BTreeSet<_>>();
    let help = ours(&String::from_utf8(help.stdout).unwrap());
    let of_dpkg = ["force-confdef", "force-confold", "install"];
    let page = ours(&doc("azure-proxy-agent-updater.8").replace("\\-", "-"));
    let page: BTreeSet<_> = page.into_iter().filter(|name| !of_dpkg.contains(&name.as_str())).collect();
    assert_eq!(page, help);
    for name in ["azure-proxy-agent-updater.bash", "_azure-proxy-agent-updater"] {
        assert_eq!(options(&doc(&format!("completions/{name}"))), help, "{name}");
    }
    for name in &help {
        assert!(doc("completions/azure-proxy-agent-updater.fish").contains(&format!(" -l {name} ")), "{name}");
    }
}

#[test]
fn the_manual_page_and_the_readme_have_every_member_of_the_configuration() {
    let error = serde_json::from_str::<Config>(r#"{"x": 1}"#).unwrap_err().to_string();
    // unknown field `x`, expected one of `keys`, …
    let members: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
    assert!(members.len() > 15, "{error}");
    let (page, readme) = (doc("azure-proxy-agent-updater.8"), doc("../README.md"));
    for member in members {
        assert!(
            page.contains(&format!("B {member}\n")) || page.contains(&format!("\\fB{member}\\fR")),
            "{member} in the manual page"
        );
        assert!(readme.contains(&format!("`{member}`")), "{member} in the README");
    }
}
