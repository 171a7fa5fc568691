//! Compiles the kernel half with clang. Needs clang and libbpf's headers, nothing else: no bpftool, no vmlinux.h.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HINT: &str = "apt-get install clang libbpf-dev (or your distribution's clang and libbpf headers)";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            // Cargo shows this line and the exit code; a panic would bury it under a backtrace.
            println!("cargo::error=redirect-ebpf: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-changed=bpf");
    for variable in ["CLANG", "LLVM_STRIP", "BPF_CFLAGS"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env("OUT_DIR")?).join("redirect.bpf.o");
    compile(&out)?;
    strip(&out);
    Ok(())
}

fn compile(out: &Path) -> Result<(), String> {
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let arch = env("CARGO_CFG_TARGET_ARCH")?;
    // Not plain "bpf", which means the byte order of the machine that compiles.
    let target = if env("CARGO_CFG_TARGET_ENDIAN")? == "big" { "bpfeb" } else { "bpfel" };

    let mut command = Command::new(&clang);
    command.current_dir(env("CARGO_MANIFEST_DIR")?);
    // v3 (32-bit jumps) is understood since Linux 5.3. -g makes the BTF that CO-RE and socket storage need.
    command.args(["-target", target, "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra"]);
    command.args(["-Wno-unused-parameter", "-Wno-missing-declarations", "-fdebug-compilation-dir=."]);
    // <asm/types.h> lives in a folder of its own on multiarch systems, which clang does not look into for this target.
    command.arg(format!("-I/usr/include/{arch}-linux-gnu"));
    command.args(std::env::var("BPF_CFLAGS").unwrap_or_default().split_whitespace());
    command.args(["-c", "bpf/redirect.bpf.c", "-o"]).arg(out);

    let output = command.output().map_err(|e| format!("cannot run {clang}: {e}. Do: {HINT}"))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        messages.lines().filter(|l| l.contains("warning:")).for_each(|l| println!("cargo::warning={l}"));
        return Ok(());
    }
    if messages.contains("file not found") {
        let what = messages.lines().find(|l| l.contains("file not found")).unwrap_or_default();
        return Err(format!("a header is missing ({what}). Do: {HINT}"));
    }
    eprintln!("{messages}");
    Err(format!("{clang} could not compile bpf/redirect.bpf.c (its messages are above)"))
}

/// Drops the DWARF sections, a third of the object, and keeps BTF. Without llvm-strip the object is larger, not wrong.
fn strip(out: &Path) {
    let tool = std::env::var("LLVM_STRIP").unwrap_or_else(|_| "llvm-strip".into());
    if !Command::new(&tool).arg("-g").arg(out).status().is_ok_and(|s| s.success()) {
        println!("cargo::warning=redirect-ebpf: {tool} is missing: the embedded object keeps its debug information");
    }
}

fn env(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("{name} is not set; run by cargo only"))
}
