//! Every row of files.md section 1.

use super::*;

const SHIPPED: &str = include_str!("../../../testdata/config/shipped.json");
const MINIMAL: &str = include_str!("../../../testdata/config/minimal.json");
const ODD: &str = include_str!("../../../testdata/config/odd.json");

fn parse(text: &str) -> Result<(Config, Vec<String>), String> {
    let environment = |name: &str| (name == "LOGS").then(|| OsString::from("/mnt/logs"));
    Config::parse(Path::new("/etc/a.json"), text.as_bytes(), &environment)
        .map(|(config, warnings)| (config, warnings.iter().map(ToString::to_string).collect()))
        .map_err(|e| e.to_string())
}

/// The shipped file with one line exchanged.
fn with(line: &str, instead: &str) -> String {
    assert!(SHIPPED.contains(line), "{line}");
    SHIPPED.replace(line, instead)
}

/// Asserts the whole text of an error after the first line, which is that of FS-03.
#[track_caller]
fn assert_error(text: &str, expected: &str) {
    let error = parse(text).expect_err("must be fatal");
    let (first, rest) = error.split_once('\n').expect("two lines at least");
    assert_eq!(first, "Error in reading Config from Json file: /etc/a.json");
    assert_eq!(rest, expected);
}

#[test]
fn fs04_to_fs17_the_shipped_file_means_this_and_warns_of_nothing() {
    let (config, warnings) = parse(SHIPPED).expect("shipped");
    assert_eq!(warnings, [] as [&str; 0], "FS-02: hostGAPluginSupport and its like are ignored in silence");
    let expected = Config {
        path: "/etc/a.json".into(),
        log_folder: Some("/var/log/azure-proxy-agent".into()),
        event_folder: "/var/log/azure-proxy-agent/events".into(),
        key_folder: "/var/lib/azure-proxy-agent/keys".into(),
        status_folder: "/var/log/azure-proxy-agent".into(),
        poll_interval: Duration::from_secs(15),
        max_event_files: 30,
        ebpf_program_name: "ebpf_cgroup.o".into(),
        ebpf_file: None,
        cgroup_root: "/sys/fs/cgroup".into(),
        pin_folder: Some(PIN_FOLDER.into()),
        egress_backstop: false,
        file_level: Level::Trace,
        event_level: Some(Level::Info),
        system_level: Level::Info,
        trace_requests: false,
        canonical_mode: CanonicalMode::Shadow,
    };
    assert_eq!(config, expected);
    assert_eq!(config.rules_folder(), Path::new("/var/lib/azure-proxy-agent/rules"), "FS-25");
}

#[test]
fn defaults_of_absent_members_fs09_fs12_to_fs17() {
    let (config, _) = parse(MINIMAL).expect("minimal");
    assert_eq!((config.max_event_files, config.cgroup_root.as_path()), (30, Path::new("/sys/fs/cgroup")));
    assert_eq!((config.file_level, config.event_level, config.system_level), (Level::Info, None, Level::Error));
    assert_eq!((config.trace_requests, config.canonical_mode), (false, CanonicalMode::Off));
    assert_eq!(config.status_folder, Path::new("/var/log/azure-proxy-agent"), "FS-28");
    assert_eq!(config.log_folder, None, "FS-04: an empty name turns file logs off");
}

#[test]
fn fs20_an_interval_of_zero_is_one_second() {
    let (config, warnings) = parse(MINIMAL).expect("minimal");
    assert_eq!(config.poll_interval, Duration::from_secs(1));
    assert_eq!(
        warnings,
        [
            r#"/etc/a.json:6:3: "pollKeyStatusIntervalInSeconds" 0 would poll without pause; 1 is used; hint: write it as in "pollKeyStatusIntervalInSeconds": 15"#
        ]
    );
}

#[test]
fn fs02_oddities_are_reported_with_place_and_hint_and_are_not_fatal() {
    let (config, warnings) = parse(ODD).expect("not fatal");
    assert!(!config.egress_backstop, "a mistyped member switches nothing on");
    assert_eq!((config.file_level, config.canonical_mode), (Level::Info, CanonicalMode::Off), "FS-18, R-73");
    let starts = [
        r#"/etc/a.json:8:3: unknown member "egressBackStop" is ignored; hint: did you mean "egressBackstop"?"#,
        r#"/etc/a.json:9:3: unknown member "colour" is ignored; hint: remove it"#,
        r#"/etc/a.json:3:3: "eventFolder" is not an absolute path"#,
        r#"/etc/a.json:10:3: "fileLogLevel" is not one of Error, Warn, Info, Debug, Trace; Info is used"#,
        r#"/etc/a.json:11:3: "canonicalRequestMode" is not one of off, shadow, enforce; off is used"#,
    ];
    assert_eq!(warnings.len(), starts.len(), "{warnings:#?}");
    for (warning, start) in warnings.iter().zip(starts) {
        assert!(warning.starts_with(start), "{warning}");
    }
}

#[test]
fn fs02_a_byte_order_mark_is_skipped() {
    assert_eq!(parse(&format!("\u{feff}{SHIPPED}")), parse(SHIPPED));
}

#[test]
fn fs18_levels_in_any_letter_case() {
    for (word, level) in
        [("ERROR", Level::Error), ("warn", Level::Warn), ("iNFO", Level::Info), ("Debug", Level::Debug), ("trace", Level::Trace)]
    {
        let (config, warnings) = parse(&with(r#""Trace""#, &format!("{word:?}"))).expect(word);
        assert_eq!((config.file_level, warnings.len()), (level, 0));
    }
}

#[test]
fn fs19_environment_in_folder_members_only() {
    let folders =
        with("/var/log/azure-proxy-agent/events", "%LOGS%/events").replace("/var/lib/azure-proxy-agent/keys", "/%UNSET_1%/keys");
    let (config, _) = parse(&folders.replace("ebpf_cgroup.o", "%LOGS%.o")).expect("folders");
    assert_eq!(config.event_folder, Path::new("/mnt/logs/events"));
    assert_eq!(config.key_folder, Path::new("/UNSET_1/keys"), "the bare name if it is not set");
    assert_eq!(config.ebpf_program_name, "%LOGS%.o", "no other member");
    let expanded = |text| expand(text, &|_| Some("X".into()));
    for (text, becomes) in [("a%%b", "a%%b"), ("50%", "50%"), ("%a b%", "%a b%"), ("%a-%b%", "%a-X"), ("%a%%b%", "XX")] {
        assert_eq!(expanded(text), becomes, "{text}");
    }
}

#[test]
fn r73_mode_words_ignore_case_and_blanks() {
    for (word, mode) in [
        (" Enforce ", CanonicalMode::Enforce),
        ("SHADOW", CanonicalMode::Shadow),
        ("off", CanonicalMode::Off),
        ("", CanonicalMode::Off),
    ] {
        assert_eq!(parse(&with(r#""Shadow""#, &format!("{word:?}"))).expect(word).0.canonical_mode, mode);
    }
}

#[test]
fn fs22_and_ours_optional_members_are_taken() {
    let text = with(
        r#""ebpfProgramName""#,
        r#""ebpfFileFullPath": "/opt/x.o", "egressBackstop": true, "statusFolder": "/run/s", "maxEventFileCount": 7, "enableHttpProxyTrace": true, "ebpfProgramName""#,
    );
    let (config, warnings) = parse(&text).expect("optional members");
    assert_eq!(warnings.len(), 0);
    assert_eq!((config.ebpf_file.as_deref(), config.status_folder.as_path()), (Some(Path::new("/opt/x.o")), Path::new("/run/s")));
    assert!(config.egress_backstop && config.trace_requests && config.max_event_files == 7);
}

#[test]
fn fs03_each_required_member_is_required() {
    for member in [
        "logFolder",
        "eventFolder",
        "latchKeyFolder",
        "monitorIntervalInSeconds",
        "pollKeyStatusIntervalInSeconds",
        "ebpfProgramName",
    ] {
        let without: String = SHIPPED.lines().filter(|l| !l.contains(&format!("{member:?}"))).collect::<Vec<_>>().join("\n");
        let error = parse(&without).expect_err(member);
        assert!(
            error.contains(&format!("required member {member:?} is missing\n  hint: add it: write it as in {member:?}: ")),
            "{error}"
        );
    }
}

#[test]
fn fs03_a_mistyped_required_member_is_recognized() {
    assert_error(
        &with(r#""logFolder""#, r#""logfolder""#),
        "  /etc/a.json:16:1: required member \"logFolder\" is missing\n  hint: is \"logfolder\" meant to be \"logFolder\"? Letter case counts",
    );
}

#[test]
fn fs03_a_wrong_type_names_member_place_and_example() {
    assert_error(
        &with(r#"Seconds": 15"#, r#"Seconds": "15""#),
        "  /etc/a.json:6:40: \"pollKeyStatusIntervalInSeconds\": invalid type: string \"15\", expected u64\n  \
         hint: write it as in \"pollKeyStatusIntervalInSeconds\": 15",
    );
    for (line, instead) in [
        (r#""logFolder": "/var/log/azure-proxy-agent""#, r#""logFolder": null"#),
        (r#""monitorIntervalInSeconds": 60"#, r#""monitorIntervalInSeconds": -60"#),
        (r#""monitorIntervalInSeconds": 60"#, r#""monitorIntervalInSeconds": 1.5"#),
        (r#""fileLogLevel": "Trace""#, r#""fileLogLevel": 3"#),
        (r#""fileLogLevel": "Trace""#, r#""enableHttpProxyTrace": "yes""#),
        (r#""fileLogLevel": "Trace""#, r#""maxEventFileCount": "many""#),
        (r#""fileLogLevel": "Trace""#, r#""egressBackstop": 1"#),
        (r#""fileLogLevel": "Trace""#, r#""statusFolder": []"#),
    ] {
        let name = instead.split('"').nth(1).unwrap_or_default();
        let error = parse(&with(line, instead)).expect_err(instead);
        assert!(error.contains(&format!(": {name:?}: invalid ")) && error.contains("hint: write it as in"), "{error}");
    }
}

#[test]
fn fs03_what_is_not_json_says_where_and_what_to_do() {
    for (text, expected) in [
        (String::new(), "the file is empty"),
        ("[]".into(), "the document is not a JSON object"),
        ("\"x\"".into(), "the document is not a JSON object"),
        (SHIPPED.trim_end().trim_end_matches('}').into(), "is a brace or a quote missing"),
        (with(r#""Shadow""#, r#""Shadow","#), "/etc/a.json:16:1: trailing comma\n  hint: remove the comma"),
        (with(r#""Trace","#, r#""Trace""#), "/etc/a.json:13:3: expected `,` or `}`\n  hint: is a comma missing"),
        (with("{\n", "{ // my file\n"), "comments are not JSON"),
        (format!("{SHIPPED}x"), "remove what follows the closing brace"),
        (with(r#""fileLogLevel": "Trace""#, r#""logFolder": "b""#), "is there twice"),
        (with("/var/lib/azure-proxy-agent/keys", ""), "\"latchKeyFolder\" the key directory has no name"),
    ] {
        let error = parse(&text).expect_err(&text);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn fs03_what_is_not_utf8_says_where() {
    let mut bytes = SHIPPED.as_bytes().to_vec();
    let at = SHIPPED.find("events\"").expect("there");
    bytes.splice(at..=at, [0xFF]);
    let error = Config::parse(Path::new("f"), &bytes, &|_| None).expect_err("not UTF-8").to_string();
    assert!(error.ends_with("f:3:46: the file is not UTF-8\n  hint: save it as UTF-8 text"), "{error}");
}

#[test]
fn fs01_the_packaged_file_comes_first_then_the_one_beside_the_executable() {
    let scratch = crate::host::scratch::Scratch::new("config");
    let (packaged, beside) = (scratch.path().join("etc.json"), scratch.path().join("beside.json"));
    assert_eq!(standard_path(&packaged, &beside), beside, "neither exists: the last one is named");
    std::fs::write(&beside, SHIPPED).expect("write");
    assert_eq!(standard_path(&packaged, &beside), beside);
    std::fs::write(&packaged, SHIPPED).expect("write");
    assert_eq!(standard_path(&packaged, &beside), packaged);
}

#[test]
fn fs03_files_that_cannot_be_read() {
    let scratch = crate::host::scratch::Scratch::new("config");
    let load = |name: &str| Config::load(Some(&scratch.path().join(name))).expect_err(name).to_string();
    let missing = load("missing.json");
    assert!(missing.starts_with("Error in reading Config from Json file: /"), "{missing}");
    assert!(missing.contains("No such file") && missing.contains("--config FILE names another"), "{missing}");
    assert!(load(".").contains("hint: name the file in it"));
    std::fs::write(scratch.path().join("big.json"), vec![b' '; 1 << 21]).expect("write");
    assert!(load("big.json").contains("larger than 1 MiB"));
}

#[test]
fn a_file_is_loaded_with_its_path() {
    let scratch = crate::host::scratch::Scratch::new("config");
    let path = scratch.path().join("a.json");
    std::fs::write(&path, SHIPPED).expect("write");
    assert_eq!(Config::load(Some(&path)).expect("loads").0.path, path);
}

#[test]
fn members_that_need_a_restart_are_named() {
    let parse = |text: &str| Config::parse(Path::new("f"), text.as_bytes(), &|_| None).expect("good").0;
    let shipped = include_str!("../../../testdata/config/shipped.json");
    let before = parse(shipped);
    assert_eq!(before.fixed_members(&before), [""; 0]);
    let changed = |from: &str, to: &str| before.fixed_members(&parse(&shipped.replacen(from, to, 1)));
    assert_eq!(changed("\"fileLogLevel\": \"Trace\"", "\"fileLogLevel\": \"Error\""), [""; 0]);
    assert_eq!(changed("\"pollKeyStatusIntervalInSeconds\": 15", "\"pollKeyStatusIntervalInSeconds\": 16"), [""; 0]);
    assert_eq!(changed("{", "{ \"pinFolder\": \"\", \"egressBackstop\": true,"), ["egressBackstop", "pinFolder"]);
    assert_eq!(changed("/log/azure-proxy-agent\"", "/log/elsewhere\""), ["logFolder"]);
}

#[test]
fn all_problems_are_told_at_once() {
    let text = r#"{
  "logFolder": 7,
  "latchKeyFoldr": "/k",
  "eventFolder": "/e",
  "monitorIntervalInSeconds": 60,
  "pollKeyStatusIntervalInSeconds": "soon",
  "egressBackstop": "no"
}"#;
    let error = parse(text).expect_err("four problems");
    let lines: Vec<&str> = error.lines().filter(|l| l.starts_with("  /etc/a.json")).collect();
    for (line, (place, what)) in lines.iter().zip([
        (":2:16", "\"logFolder\": invalid type: integer `7`, expected a string"),
        ("", "required member \"latchKeyFolder\" is missing"),
        (":6:3", "\"pollKeyStatusIntervalInSeconds\" is wrong: invalid type: string \"soon\", expected u64"),
        ("", "required member \"ebpfProgramName\" is missing"),
        (":7:3", "\"egressBackstop\" is wrong: invalid type: string \"no\", expected a boolean"),
    ]) {
        assert_eq!(*line, format!("  /etc/a.json{place}: {what}"));
    }
    assert_eq!(lines.len(), 5, "{error}");
    assert!(error.contains("is \"latchKeyFoldr\" meant to be \"latchKeyFolder\"?"), "{error}");
    assert_eq!(parse("{").expect_err("no JSON").lines().count(), 3, "one place, one reason, one hint");
}
