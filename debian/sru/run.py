"""Runs the matrix: builds the old and the new package, has each combination's machine booted, and collects what the cases say."""

import datetime
import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from . import plan, results
from .results import Fault, Result

PACKAGE = "azure-proxy-agent"


def package(root, what, into):
    """The package file for `what`: a .deb, a tag or commit to build it from, or `.` for this tree."""
    if what.endswith(".deb"):
        path = pathlib.Path(what).resolve()
        if not path.is_file():
            raise Fault(f"{what} is not a file")
        return path
    if what == ".":
        return _build(root, into)
    commit = _git(root, "rev-parse", "--verify", "--quiet", f"{what}^{{commit}}", fault=f"{what} is neither a .deb nor a tag or commit")
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder) / "tree"
        _git(root, "worktree", "add", "--detach", str(tree), commit, fault=f"cannot check out {what}")
        try:
            return _build(tree, into)
        finally:
            subprocess.run(["git", "-C", str(root), "worktree", "remove", "--force", str(tree)], check=False)


def _build(tree, into):
    into.mkdir(parents=True, exist_ok=True)
    run = subprocess.run(["make", "--no-print-directory", "deb", f"DEB_OUT={into}"], cwd=tree, check=False)
    if run.returncode:
        raise Fault(f"make deb failed in {tree}")
    found = sorted(into.glob(f"{PACKAGE}_*_amd64.deb"))
    if not found:
        raise Fault(f"make deb left no {PACKAGE}_*_amd64.deb in {into}")
    return found[-1]


def version(path):
    """The version of a package file."""
    run = subprocess.run(["dpkg-deb", "-f", str(path), "Version"], capture_output=True, text=True, check=False)
    if run.returncode:
        raise Fault(f"{path} is no Debian package: {run.stderr.strip()}")
    return run.stdout.strip()


def sru_test(root, old, new, folder, only=None):
    """`make sru-test`. Gives the results; they are stored as they come, so that an interrupted run shows what it did."""
    started = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    new_file = package(root, new, folder / "new")
    old_file = package(root, old, folder / "old")
    if version(old_file) == version(new_file):
        raise Fault(f"old and new are the same version, {version(new_file)}: nothing to upgrade")
    run = results.Results(
        old=version(old_file),
        new=version(new_file),
        package_sha256=hashlib.sha256(new_file.read_bytes()).hexdigest(),
        commit=_git(root, "rev-parse", "HEAD"),
        started=started,
        results=[],
    )
    for combination in plan.MATRIX:
        if only and not re.search(only, combination.name):
            continue
        run.results += one(root, combination, old_file, new_file, folder)
        results.store(folder, run)
    results.store(folder, run)
    return run


def one(root, combination, old, new, folder):
    """The results of one combination."""
    if combination.kernel is None:
        return [Result(combination.name, case, "pending", detail=combination.pending) for case in combination.cases]
    place = folder / combination.name.replace("/", "_")
    command = [
        "make", "--no-print-directory", "vm-test", f"CASES={' '.join(combination.cases)}", f"KERNEL={combination.kernel}",
        f"DEB={new}", f"OLD={old}", f"CPUS={combination.cpus}", f"MEMORY={combination.memory}", f"RESULTS={place}",
    ]  # fmt: skip
    print(f"== {combination.name}: {', '.join(combination.cases)}", flush=True)
    ended = subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, check=False)
    said = {}
    lines = place / "results.jsonl"
    for line in lines.read_text(errors="replace").splitlines() if lines.is_file() else []:
        try:
            value = json.loads(line)
            said[value["case"]] = value
        except (ValueError, KeyError, TypeError):
            print(f"{lines}: not a result: {line!r}", file=sys.stderr)
    out = []
    for case in combination.cases:
        value = said.get(case)
        if value is None:
            # A machine that died has not passed what it did not say.
            out.append(Result(combination.name, case, "failed", detail=f"no result; make vm-test ended with status {ended.returncode}"))
            continue
        log = value.get("log") or ""
        out.append(
            Result(
                combination.name,
                case,
                "passed" if value.get("result") == "pass" else "failed",
                float(value.get("seconds") or 0),
                "" if value.get("result") == "pass" else str(value.get("detail") or value.get("result")),
                f"{place.name}/{log}" if log else "",
            )
        )
    return out


def _git(root, *arguments, fault=None):
    run = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    if run.returncode:
        raise Fault(fault or f"git {' '.join(arguments)}: {run.stderr.strip()}")
    return run.stdout.strip()
