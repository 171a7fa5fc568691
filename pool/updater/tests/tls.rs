//! Over TLS, with an authority of our own: who is not who he should be is not told a secret, and people hear why.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[allow(dead_code, reason = "this is about a part of it")]
mod support;

use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use support::{Machine, World, authority, certificate};

const CLIENT: &str = env!("CARGO_BIN_EXE_azure-proxy-agent-updater");

#[test]
fn updater_and_command_line_reach_a_controller_whose_authority_they_were_given() {
    let world = World::secure();
    let machine = Machine::new(&world, "m", &world.address, &json!({}));
    assert_eq!(world.job("CheckHealth", &Value::Null)["state"], "succeeded");
    assert!(world.tool(&["agent", "list", "p"]).contains("online"));
    assert!(machine.status()["server"].as_str().unwrap().starts_with("https://127.0.0.1:"));
}

#[test]
fn a_certificate_from_elsewhere_or_for_another_name_is_refused_in_clear_words() {
    let mut world = World::secure();
    let token = world.tool(&["token", "create", "m", "--role", "register", "--pool", "p"]);
    fs::write(world.path("token"), token).unwrap();
    fs::write(world.path("agent"), "#!/bin/sh\necho 1.0.0\n").unwrap();
    fs::set_permissions(world.path("agent"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = json!({ "stateFolder": world.path("state"), "agent": world.path("agent") });
    fs::write(world.path("updater.json"), config.to_string()).unwrap();
    let other = authority(&world.folder, "other").display().to_string();
    let good = world.ca.clone().unwrap().display().to_string();

    let attempt = |world: &World, ca: Option<&str>| {
        let server = format!("https://{}", world.address);
        let mut updater = Command::new(CLIENT);
        updater.args(["register", "--server", &server, "--pool", "p", "--name", "m", "--token-file", &world.path("token")]);
        updater.args(["--config", &world.path("updater.json")]);
        let mut people = Command::new(support::program());
        people.args(["--server", &server, "pool", "list"]).env("POOL_TOKEN_FILE", world.path("pool.admin-token"));
        if let Some(ca) = ca {
            updater.args(["--ca", ca]);
            people.args(["--ca", ca]);
        }
        let run = |mut command: Command| {
            let output = command.output().unwrap();
            (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        (run(updater), run(people))
    };
    let unknown =
        "its certificate comes from no authority that is trusted here; name the file with its authority's certificate (--ca)";
    for ca in [None, Some(other.as_str())] {
        let ((code, said), (peoples, heard)) = attempt(&world, ca);
        assert!(code == 1 && said.contains(unknown), "{code} {said}");
        assert!(peoples == 3 && heard.contains(unknown), "{peoples} {heard}");
    }
    // No certificate in it, or no file.
    let ((code, said), (peoples, heard)) = attempt(&world, Some(&world.path("token")));
    assert!(code == 1 && said.contains("no certificate is in it"), "{said}");
    assert!(peoples == 2 && heard.contains("no certificate is in it"), "{heard}");
    // The right authority, and a certificate for somebody else.
    certificate(&world.folder, "ca", "server", "DNS:other.example");
    world.kill_controller();
    world.start_controller();
    let ((code, said), (peoples, heard)) = attempt(&world, Some(&good));
    assert!(code == 1 && said.contains("its certificate is for another name"), "{said}");
    assert!(peoples == 3 && heard.contains("its certificate is for another name"), "{heard}");
    // The token was told to nobody: it is still good.
    certificate(&world.folder, "ca", "server", "IP:127.0.0.1");
    world.kill_controller();
    world.start_controller();
    let ((code, said), (peoples, heard)) = attempt(&world, Some(&good));
    assert!(code == 0 && peoples == 0, "{said} {heard}");
}
