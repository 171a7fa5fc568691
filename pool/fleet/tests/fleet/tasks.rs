//! The four tasks, carried out by the real agent.

use crate::support::{Fleet, v};
use fleet::controller::{Options, one_task};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

const INSTANCE: &str = "http://169.254.169.254/metadata/instance?api-version=2021-02-01";

/// The result of a job's only task.
fn result(state: &Value) -> Value {
    assert_eq!(state["state"], "succeeded", "{state}");
    let result: Value = serde_json::from_str(state["result"].as_str().unwrap()).unwrap();
    result[0]["result"].clone()
}

#[test]
fn rules_that_a_job_brings_decide_what_a_curl_may_do() {
    let fleet = Fleet::with(&Options::new("p"), &["a"], &json!({}));
    let machine = fleet.machine("a");
    let apply = |document: Value| {
        fleet.controllers.job(&one_task("ApplyRules", &json!({ "destination": "imds", "document": document }))).unwrap()
    };
    assert_eq!(machine.curl(INSTANCE).unwrap(), 200);
    let applied = result(&apply(json!({ "id": "one", "defaultAccess": "deny" })));
    assert_eq!((&applied["changed"], &applied["seenByAgent"]), (&json!(true), &json!(true)), "{applied}");
    assert_eq!(machine.curl(INSTANCE).unwrap(), 403);

    // A document that the check finds bad changes nothing.
    let state = apply(json!({ "id": "two", "defaultAccess": "perhaps" }));
    let error = state["error"].as_str().unwrap();
    assert!(
        error.starts_with(
            "task `ApplyRules` version 1.0.0: nothing was changed, because the agent would not take this document: line "
        ),
        "{error}"
    );
    assert_eq!(machine.curl(INSTANCE).unwrap(), 403);

    // One that only the running agent finds bad is taken back. (The check is made blind for it: both are of one version here.)
    fs::write(machine.path("lenient"), "").unwrap();
    let state = apply(json!({ "id": "three", "defaultAccess": "perhaps" }));
    let error = state["error"].as_str().unwrap();
    assert!(
        error.starts_with("task `ApplyRules` version 1.0.0: the agent rejected it, and the file is again as it was: "),
        "{error}"
    );
    fs::remove_file(machine.path("lenient")).unwrap();
    assert!(machine.read("state/rules/IMDS_Rules.json").contains("\"one\""));
    fleet::until("the rules before", || (machine.curl(INSTANCE).ok()? == 403).then_some(())).unwrap();

    assert_eq!(result(&apply(json!({ "id": "four", "defaultAccess": "allow" })))["changed"], true);
    assert_eq!(machine.curl(INSTANCE).unwrap(), 200);
}

#[test]
fn diagnostics_logs_and_health_of_the_real_agent() {
    let fleet = Fleet::with(&Options::new("p"), &["a"], &json!({}));
    let machine = fleet.machine("a");
    assert_eq!(machine.curl(INSTANCE).unwrap(), 200);

    let health = result(&fleet.controllers.job(&one_task("CheckHealth", &Value::Null)).unwrap());
    assert_eq!((&health["healthy"], &health["version"]), (&json!(true), &json!(v(0))), "{health}");

    // What somebody who helps wants to see, and no key.
    let bundle = result(&fleet.controllers.job(&one_task("CollectDiagnostics", &Value::Null)).unwrap());
    let archive = machine.path("bundle.tar");
    let mut decode =
        Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(fs::File::create(&archive).unwrap()).spawn().unwrap();
    decode.stdin.take().unwrap().write_all(bundle["archive"].as_str().unwrap().as_bytes()).unwrap();
    assert!(decode.wait().unwrap().success());
    let text = String::from_utf8(Command::new("tar").arg("-xOf").arg(&archive).output().unwrap().stdout).unwrap();
    for words in [format!("{}\n", v(0)).as_str(), "\"keyLatchStatus\"", "/metadata/instance"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let keys: Vec<Value> = fs::read_dir(machine.sandbox().key_folder())
        .unwrap()
        .filter_map(|entry| serde_json::from_str(&fs::read_to_string(entry.unwrap().path()).ok()?).ok())
        .collect();
    let secrets: Vec<&str> = keys.iter().filter_map(|key| key["key"].as_str()).collect();
    assert!(!secrets.is_empty() && secrets.iter().all(|secret| !text.contains(secret)), "{keys:?}");

    // New files, and the same process goes on in them.
    let rotated = result(&fleet.controllers.job(&one_task("RotateLogs", &Value::Null)).unwrap());
    let names: Vec<String> =
        rotated["rotated"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    let audit = names.iter().find(|name| name.starts_with("audit.jsonl.")).unwrap();
    assert!(fs::read_to_string(machine.sandbox().log_folder().join(audit)).unwrap().contains("/metadata/instance"));
    assert_eq!(machine.curl("http://169.254.169.254/metadata/versions").unwrap(), 200);
    fleet::until("the new file", || machine.sandbox().log("audit.jsonl").ok()?.contains("/metadata/versions").then_some(()))
        .unwrap();
    assert!(!machine.sandbox().log("audit.jsonl").unwrap().contains("/metadata/instance"));

    // A configuration that cannot be used is no good health, though the agent still runs.
    let path = machine.path("proxy-agent.json");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replace("\"fileLogLevel\":\"Info\"", "\"fileLogLevel\":7")).unwrap();
    let health = result(&fleet.controllers.job(&one_task("CheckHealth", &Value::Null)).unwrap());
    assert_eq!(
        (&health["healthy"], &health["ready"], &health["configurationValid"]),
        (&json!(false), &json!(true), &json!(false)),
        "{health}"
    );
}
