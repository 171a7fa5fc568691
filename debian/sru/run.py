"""Runs the matrix: builds the old and the new packages, has each combination's machine booted, and collects what the cases say."""

import datetime
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time

from . import plan, results
from .results import Fault, Result


def packages(root, what, into):
    """The package files for `what` by their names, and its commit: a .deb, a tag or commit to build from, or `.` for this tree.

    A .deb brings along those that lie beside it, with the same version. What was built before is not built again: the same commit gives
    the same bytes.
    """
    if what.endswith(".deb"):
        return _beside(root.joinpath(what)), "unknown: the package was given as a file"
    commit = _git(root, "rev-parse", "--verify", "--quiet", f"{'HEAD' if what == '.' else what}^{{commit}}", fault=f"{what} is neither a .deb nor a tag or commit")
    if what == "." and _git(root, "status", "--porcelain", "--untracked-files=no"):
        print("sru: what is not committed is not in the package", file=sys.stderr)
    place = into / commit[:10]
    if not place.is_dir():
        # One place for all builds: the packed crates, which take long, are found there again.
        if commit == _git(root, "rev-parse", "HEAD"):
            _build(root, into / "build", place)
        else:
            _build_elsewhere(root, commit, into / "build", place)
    return _found(place), commit


def _build_elsewhere(root, commit, out, place):
    with tempfile.TemporaryDirectory() as folder:
        tree = f"{folder}/tree"
        _git(root, "worktree", "add", "--detach", tree, commit, fault=f"cannot check out {commit}")
        try:
            _build(tree, out, place)
        finally:
            subprocess.run(["git", "-C", str(root), "worktree", "remove", "--force", tree], check=False)


def _build(tree, out, place):
    out.mkdir(parents=True, exist_ok=True)
    print(f"== building {place.name}", flush=True)
    if subprocess.run(["make", "--no-print-directory", "deb", f"DEB_OUT={out}"], cwd=tree, check=False).returncode:
        raise Fault(f"make deb failed in {tree}")
    new = place.with_name(f"{place.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for file in _found(out).values():
        shutil.copy2(file, new)
    new.rename(place)


def _found(place):
    found = {}
    for name in (plan.FULL, plan.MINIMAL):
        files = sorted(place.glob(f"{name}_*_amd64.deb"))
        if len(files) != 1:
            raise Fault(f"{place} has {len(files)} files {name}_*_amd64.deb, not one")
        found[name] = files[0]
    return found


def _beside(path):
    path = path.resolve()
    if not path.is_file():
        raise Fault(f"{path} is not a file")
    name, _, rest = path.name.partition("_")
    if name not in (plan.FULL, plan.MINIMAL):
        raise Fault(f"{path.name} is neither {plan.FULL}_… nor {plan.MINIMAL}_…")
    found = {other: path.with_name(f"{other}_{rest}") for other in (plan.FULL, plan.MINIMAL)}
    for file in found.values():
        if not file.is_file():
            raise Fault(f"{file} is not there: the matrix has both packages")
    return found


def version(files):
    """The one version of these package files."""
    versions = set()
    for file in files.values():
        run = subprocess.run(["dpkg-deb", "-f", str(file), "Version"], capture_output=True, text=True, check=False)
        if run.returncode:
            raise Fault(f"{file} is no Debian package: {run.stderr.strip()}")
        versions.add(run.stdout.strip())
    if len(versions) != 1:
        raise Fault(f"{', '.join(map(str, files.values()))} have several versions: {', '.join(sorted(versions))}")
    return versions.pop()


def sru_test(root, old, new, folder, only=None, again=False):
    """`make sru-test`. Gives the results; they are stored as they come, so that an interrupted run goes on where it was.

    What has passed in the same machine, with the same packages and the same tests, is not run again, except with `again`.
    """
    since = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    new_files, commit = packages(root, new, folder / "packages")
    old_files, _ = packages(root, old, folder / "packages")
    if subprocess.run(["dpkg", "--compare-versions", version(old_files), "lt", version(new_files)], check=False).returncode:
        raise Fault(f"the new version, {version(new_files)}, is not above the old, {version(old_files)}: nothing to upgrade")
    run = results.Results(
        old=version(old_files),
        new=version(new_files),
        packages={file.name: _sum(file) for file in new_files.values()},
        commit=commit,
        started=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        results=[],
    )
    chosen = [c for c in plan.MATRIX if not only or re.search(only, c.name)]
    inputs = {(c.name, case): _inputs(root, c, case, old_files[c.package], new_files[c.package]) for c in chosen for case in c.cases}
    before = {} if again else _passed(folder)
    for c in chosen:
        if c.kernel is None:
            run.results += [Result(c.name, case, "pending", detail=c.pending) for case in c.cases]
        else:
            kept = [before[c.name, case] for case in c.cases if (c.name, case) in before]
            run.results += [result for result in kept if result.inputs == inputs[c.name, result.case]]
    results.store(folder, run)

    here = [c for c in chosen if c.kernel]
    total = sum(len(c.cases) for c in here)
    for c in here:
        todo = run.todo(c)
        done = sum(result.outcome != "pending" for result in run.results)
        print(f"== {done} of {total} cases after {(time.monotonic() - since) / 60:.0f} min; {c.name}: {', '.join(todo) or 'passed before'}", flush=True)
        if not todo:
            continue
        for result in one(root, c, todo, old_files[c.package], new_files[c.package], folder):
            result.inputs = inputs[c.name, result.case]
            run.results.append(result)
            results.store(folder, run)
    return run


def _inputs(root, combination, case, old, new):
    """What decides how a case ends: the machine, the packages, the case and what all cases share."""
    files = _git(root, "ls-files", f"debian/tests/{case}", "debian/tests/lib.sh", "debian/tests/load.py", "testdata/vm", ":!*.md").splitlines()
    return f"{combination.kernel} {combination.cpus} {combination.memory} {_sum(old, new, *(root / name for name in files))}"


def _passed(folder):
    """What passed in the run before, if there was one."""
    try:
        return {(r.combination, r.case): r for r in results.load(folder).of("passed")}
    except Fault:
        return {}


def one(root, combination, cases, old, new, folder):
    """Runs cases of one combination; yields their results as they come."""
    place = folder / combination.name.replace("/", "_")
    place.mkdir(exist_ok=True)
    # Emptied by whoever fills it, so it is not the place where results of runs before lie.
    now = place / "now"
    shutil.rmtree(now, ignore_errors=True)
    command = [
        "make", "--no-print-directory", "vm-test", f"CASES={' '.join(cases)}", f"KERNEL={combination.kernel}",
        f"DEB={new}", f"OLD={old}", f"CPUS={combination.cpus}", f"MEMORY={combination.memory}", f"RESULTS={now}",
    ]  # fmt: skip
    left = list(cases)
    with subprocess.Popen(command, cwd=root, stdin=subprocess.DEVNULL) as process:
        while left:
            ended = process.poll()
            for value in _said(now / "results.jsonl"):
                if value["case"] in left:
                    left.remove(value["case"])
                    yield _result(combination, value, place, now)
            if ended is not None:
                break
            time.sleep(0.2)
        status = process.wait()
    for case in left:
        # A machine that died has not passed what it did not say.
        yield Result(combination.name, case, "failed", detail=f"no result; make vm-test ended with status {status}")
    shutil.rmtree(now, ignore_errors=True)


def _said(path):
    """Whole lines of results so far; what is none will be missed as a case without result."""
    values = []
    for line in path.read_text(errors="replace").splitlines(keepends=True) if path.is_file() else []:
        try:
            value = json.loads(line) if line.endswith("\n") else None
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("case"), str):
            values.append(value)
    return values


def _result(combination, value, place, now):
    case = value["case"]
    if (now / case).is_dir():
        shutil.rmtree(place / case, ignore_errors=True)
        shutil.move(now / case, place / case)
    passed = value.get("result") == "pass"
    return Result(
        combination.name,
        case,
        "passed" if passed else "failed",
        float(value.get("seconds") or 0),
        "" if passed else f"{'skipped: ' if value.get('result') == 'skip' else ''}{value.get('detail') or value.get('result')}",
        f"{place.name}/{value['log']}" if value.get("log") else "",
    )


def _sum(*files):
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes())
    return total.hexdigest()


def _git(root, *arguments, fault=None):
    run = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    if run.returncode:
        raise Fault(fault or f"git {' '.join(arguments)}: {run.stderr.strip()}")
    return run.stdout.strip()
