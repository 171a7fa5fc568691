//! The table of cli.md section 1.

use super::*;
use std::os::unix::ffi::OsStringExt as _;

fn parse(line: &str) -> Result<Invocation, UsageError> {
    super::parse(line.split_whitespace().map(OsString::from))
}

fn status(seconds: u64) -> Invocation {
    Invocation::Status { wait: Duration::from_secs(seconds) }
}

#[test]
fn cli01_to_cli06_and_ours_mean_this() {
    let file = || Some(PathBuf::from("f"));
    for (line, expected) in [
        ("", Invocation::Daemon(Settings::default())),
        ("console", Invocation::Console(Settings::default())),
        ("--version", Invocation::Version),
        ("-v", Invocation::Version),
        ("--help", Invocation::Help),
        ("-h", Invocation::Help),
        ("help", Invocation::Help),
        ("--status", status(0)),
        ("-s", status(0)),
        ("--status --wait 120", status(120)),
        ("--wait 120 --status", status(120)),
        ("-s -w 5", status(5)),
        ("-w 5 -s", status(5)),
        ("--status --wait=7", status(7)),
        ("-sw 5", status(5)),
        ("-sw5", status(5)),
        ("-s -w=5", status(5)),
        ("-s -w 18446744073709551615", status(u64::MAX)),
        ("-s -w 007", status(7)),
        ("--config f", Invocation::Daemon(Settings { config: file(), foreground: false })),
        ("--config=f --foreground", Invocation::Daemon(Settings { config: file(), foreground: true })),
        ("console --config f", Invocation::Console(Settings { config: file(), foreground: false })),
        ("--check-config", Invocation::CheckConfig { config: None }),
        ("detach", Invocation::Detach { config: None }),
        ("redirector", Invocation::Redirector { config: None }),
        ("redirector --config f", Invocation::Redirector { config: file() }),
        ("detach --config f", Invocation::Detach { config: file() }),
        ("--check-config --config f", Invocation::CheckConfig { config: file() }),
    ] {
        assert_eq!(parse(line).as_ref(), Ok(&expected), "{line}");
    }
}

#[test]
fn cli08_version_wins_over_status_wins_over_console() {
    for (line, expected) in [
        ("console --status --version", Invocation::Version),
        ("-v -s -w 3", Invocation::Version),
        ("-sv", Invocation::Version),
        ("console --status", status(0)),
        ("--status console --wait 2", status(2)),
        ("-s --config f", status(0)),
        ("-s -h", Invocation::Help),
    ] {
        assert_eq!(parse(line).as_ref(), Ok(&expected), "{line}");
    }
}

#[test]
fn cli07_usage_errors_say_what_and_what_instead() {
    for (line, message) in [
        ("--wait 5", "--wait goes with --status only"),
        ("console -w 5", "--wait goes with --status only"),
        ("--status --wait", "--wait needs a number of seconds"),
        ("-sw", "--wait needs a number of seconds"),
        ("-s --wait=", "--wait needs a whole number of seconds, not \"\""),
        ("-s -w five", "--wait needs a whole number of seconds, not \"five\""),
        ("-s -w -5", "not \"-5\""),
        ("-s -w +5", "not \"+5\""),
        ("-s -w 1.5", "not \"1.5\""),
        ("-s -w 18446744073709551616", "not \"18446744073709551616\""),
        ("-s -w 1 -w 2", "--wait is given twice"),
        ("--statsu", "unknown option \"--statsu\"; did you mean --status?"),
        ("--Wait=3", "unknown option \"--Wait=3\"; did you mean --wait?"),
        ("consol", "unknown command \"consol\"; did you mean console?"),
        ("-x", "unknown option \"-x\"\n"),
        ("-", "unknown option \"-\"\n"),
        ("--", "unknown option \"--\"\n"),
        ("-sx", "unknown option \"-sx\"\n"),
        ("frobnicate", "unknown command \"frobnicate\"\n"),
        ("--status=1", "--status takes no value"),
        ("--config", "--config needs a file"),
        ("--config=", "--config needs a file"),
        ("detach console", "console and detach do not go together"),
        ("redirector detach", "detach and redirector do not go together"),
        ("detatch", "unknown command \"detatch\"; did you mean detach?"),
    ] {
        let error = begin(&line.split_whitespace().collect::<Vec<_>>()).2;
        assert!(error.starts_with("azure-proxy-agent: ") && error.contains(message), "{line}: {error}");
        assert!(error.ends_with("\nTry: azure-proxy-agent --help\n"), "{error}");
    }
}

#[test]
fn arguments_that_are_not_text_are_usage_errors_but_file_names_may_be() {
    let odd = OsString::from_vec(b"\xFF".to_vec());
    super::parse([odd.clone()]).expect_err("not a command");
    let expected = Invocation::Daemon(Settings { config: Some(odd.clone().into()), foreground: false });
    assert_eq!(super::parse(["--config".into(), odd]), Ok(expected));
}

/// Exit status, standard output, standard error.
fn begin(args: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let next = super::begin("azure-proxy-agent", args.iter().map(OsString::from), Instant::now(), &mut out, &mut err);
    let Next::Exit(status) = next else { panic!("{args:?} must end at once: {next:?}") };
    (status, String::from_utf8(out).expect("UTF-8"), String::from_utf8(err).expect("UTF-8"))
}

#[test]
fn cli03_version_is_three_numbers_and_a_line_feed() {
    let (status, out, err) = begin(&["--version"]);
    assert_eq!((status, err.as_str()), (0, ""));
    let numbers: Vec<&str> = out.strip_suffix('\n').expect("line feed").split('.').collect();
    assert!(numbers.len() == 3 && numbers.iter().all(|n| n.parse::<u32>().is_ok()), "{out:?}");
}

#[test]
fn cli04_help_lists_what_there_is() {
    let (status, out, _) = begin(&["help"]);
    assert_eq!(status, 0);
    for word in ["console", "-s, --status", "-w, --wait <seconds>", "-v, --version", "-h, --help", "Examples:"] {
        assert!(out.contains(word), "{word}");
    }
    assert!(out.lines().all(|l| l.len() <= 90));
    assert!(help("other").contains("Usage: other [") && !help("other").contains("azure-proxy-agent "), "its own name");
}

#[test]
fn cli07_cli09_a_usage_error_is_status_2_and_prints_nothing_on_standard_output() {
    let (status, out, err) = begin(&["--nonsense"]);
    assert_eq!((status, out.as_str()), (2, ""));
    assert!(err.starts_with("azure-proxy-agent: unknown option"));
}

#[test]
fn fs03_a_configuration_error_is_status_101() {
    let (status, out, err) = begin(&["--config", "/nonexistent/a.json"]);
    assert_eq!((status, out.as_str()), (101, ""));
    assert!(err.starts_with("Error in reading Config from Json file: /nonexistent/a.json\n"), "{err}");
    assert_eq!(begin(&["console", "--config", "/nonexistent/a.json"]).0, 101);
}

#[test]
fn check_config_tells_errors_from_warnings() {
    let scratch = crate::host::scratch::Scratch::new("cli");
    let path = scratch.path().join("a.json");
    let name = path.to_str().expect("UTF-8");
    std::fs::write(&path, include_str!("../../../testdata/config/shipped.json")).expect("write");
    assert_eq!(begin(&["--check-config", "--config", name]), (0, format!("{name}: ok\n"), String::new()));
    std::fs::write(&path, include_str!("../../../testdata/config/odd.json")).expect("write");
    let (status, out, err) = begin(&["--check-config", "--config", name]);
    assert_eq!((status, out, err.lines().count()), (0, format!("{name}: ok, 5 warnings\n"), 5));
    std::fs::write(&path, "{").expect("write");
    let (status, out, err) = begin(&["--check-config", "--config", name]);
    assert_eq!((status, out.as_str()), (101, ""));
    assert!(err.contains(&format!("{name}:1:1: EOF")), "{err}");
}
