//! The manual page in `docs/` is what the command line says of itself. `POOL_WRITE_DOCS=1` writes it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use clap::{Arg, ArgAction, Command, CommandFactory};
use pool_controller::cli::Cli;
use std::fs;
use std::path::PathBuf;

const NAME: &str = "azure-proxy-agent-pool";

/// Before the commands.
const DESCRIPTION: &str = ".PP
Machines with a guest proxy agent are in pools. An administrator of a pool says whether jobs may make agents update; what then cannot
run fails at once, and says why. Updates that a person asks for always go through.
.PP
.B azure\\-proxy\\-agent\\-pool serve
is the controller, usually started by
.IR azure\\-proxy\\-agent\\-pool.service ;
all other commands ask a controller.
";

/// After them.
const FILES: &str = ".SH FILES
.TP
.I /etc/default/azure\\-proxy\\-agent\\-pool
Environment of the service.
.TP
.I /var/lib/azure\\-proxy\\-agent\\-pool/pool.db
The database, if it is a file.
.TP
.I /var/lib/azure\\-proxy\\-agent\\-pool/pool.admin\\-token
The first administrator's token, written when the database is made.
.TP
.I /usr/share/doc/azure\\-proxy\\-agent\\-pool/examples/tls.conf
How the service is given a certificate.
.SH SEE ALSO
.BR azure\\-proxy\\-agent\\-updater (8),
.BR azure\\-proxy\\-agent (8),
.I /usr/share/doc/azure\\-proxy\\-agent\\-pool/README.md
";

fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let lines = text.lines().map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() });
    lines.collect::<Vec<_>>().join("\n")
}

fn value(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default().join(" ");
    if names.is_empty() { arg.get_id().as_str().to_uppercase() } else { names }
}

/// One argument: how it is written, and what it means.
fn argument(arg: &Arg) -> String {
    let written = if arg.is_positional() {
        format!("\\fI{}\\fR", escaped(&value(arg)))
    } else {
        let short = arg.get_short().map(|short| format!("\\fB\\-{short}\\fR, ")).unwrap_or_default();
        let long = format!("{short}\\fB\\-\\-{}\\fR", escaped(arg.get_long().unwrap()));
        let takes = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
        if takes { format!("{long} \\fI{}\\fR", escaped(&value(arg))) } else { long }
    };
    let mut meaning = arg.get_help().map(ToString::to_string).unwrap_or_default();
    if !meaning.ends_with(['.', ')']) {
        meaning.push('.');
    }
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let takes = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    if takes && !defaults.is_empty() {
        meaning += &format!(" Default: {}.", defaults.join(" "));
    }
    if let Some(variable) = arg.get_env() {
        meaning += &format!(" Environment: {}.", variable.to_string_lossy());
    }
    format!(".TP\n{written}\n{}\n", escaped(&meaning))
}

/// A command, and those below it.
fn commands(command: &Command, before: &str, out: &mut String) {
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        let words = format!("{before}{}", below.get_name());
        if below.has_subcommands() {
            commands(below, &format!("{words} "), out);
            continue;
        }
        let own =
            || below.get_arguments().filter(|arg| !arg.is_global_set() && !["help", "version"].contains(&arg.get_id().as_str()));
        let positional: String = own().filter(|arg| arg.is_positional()).map(|arg| format!(" {}", value(arg))).collect();
        *out += &format!(".SS {}{}\n", escaped(&words), escaped(&positional));
        *out += &format!("{}.\n", escaped(below.get_about().unwrap().to_string().trim_end_matches('.')));
        out.extend(own().map(argument));
    }
}

fn page() -> String {
    let mut command = Cli::command();
    command.build();
    let about = command.get_about().unwrap().to_string();
    let mut out = format!(
        ".\\\" Generated from the command line's own description: controller/tests/manual.rs\n.TH {} 1 \"\" \"{NAME} {}\" \"System administration\"\n",
        NAME.to_uppercase(),
        env!("CARGO_PKG_VERSION")
    );
    out += &format!(".SH NAME\n{NAME} \\- {}\n", escaped(about.trim_end_matches('.')));
    out += &format!(".SH SYNOPSIS\n.B {}\n[\\fIOPTIONS\\fR] \\fICOMMAND\\fR ...\n.SH DESCRIPTION\n{DESCRIPTION}", escaped(NAME));
    out += ".SH OPTIONS\n";
    out.extend(command.get_arguments().map(argument));
    out += ".SH COMMANDS\n";
    commands(&command, "", &mut out);
    let after = command.get_after_help().unwrap().to_string();
    let (examples, codes) = after.split_once("Exit codes: ").unwrap();
    let examples = examples.trim_start_matches("Examples:\n").trim_end();
    out += &format!(".SH EXIT STATUS\n{}\n", escaped(codes));
    out += &format!(".SH EXAMPLES\n.nf\n{}\n.fi\n", escaped(&examples.lines().map(str::trim).collect::<Vec<_>>().join("\n")));
    out + FILES
}

#[test]
fn the_manual_page_is_that_of_the_command_line() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/azure-proxy-agent-pool.1");
    let text = page();
    if std::env::var_os("POOL_WRITE_DOCS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == text,
        "{} is not what the command line says: POOL_WRITE_DOCS=1 cargo test --test manual writes it",
        path.display()
    );
}
