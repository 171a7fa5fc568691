"""The update process as commands. From the root of the tree, by make: sru-test, sru-attest, sru-report, release, changelog.

docs/releasing.md explains every step.
"""

import argparse
import datetime
import pathlib
import sys

from . import changelog, plan, release, report, results, run, version

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main():
    """Ends with 0 if all is well, 1 if the process says no, 2 for a wrong call."""
    arguments = parser().parse_args()
    try:
        return arguments.run(arguments)
    except (results.Fault, changelog.Fault) as fault:
        print(f"sru: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsru: interrupted; what has passed is kept: the same command goes on", file=sys.stderr)
        return 130


def parser():
    """All commands."""
    top = argparse.ArgumentParser(prog="sru", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    test = commands.add_parser("test", help="run the cases of the matrix on the installed packages")
    test.add_argument("old", help="the package in service: a .deb, or a tag or commit to build it from")
    test.add_argument("new", nargs="?", default=".", help="the new one (this tree)")
    test.add_argument("--results", type=pathlib.Path, required=True, metavar="FOLDER")
    test.add_argument("--only", metavar="REGEX", help="these combinations only; the report then refuses, since others are missing")
    test.add_argument("--again", action="store_true", help="also what passed before with the same packages and tests")
    test.set_defaults(run=sru_test)

    attest = commands.add_parser("attest", help="write down that a step elsewhere was taken", epilog=f"Steps: {', '.join(plan.steps())}")
    attest.add_argument("step")
    attest.add_argument("outcome", choices=("passed", "failed"))
    attest.add_argument("by", help="who says so: Name <mail>")
    attest.add_argument("link", nargs="?", default="", help="where it can be read")
    attest.add_argument("--results", type=pathlib.Path, required=True, metavar="FOLDER")
    attest.set_defaults(run=sru_attest)

    bug = commands.add_parser("report", help="print the tracking bug's text")
    bug.add_argument("--results", type=pathlib.Path, required=True, metavar="FOLDER")
    bug.set_defaults(run=sru_report)

    gate = commands.add_parser("gate", help="every change in CHANGELOG.md names tests that exist")
    gate.set_defaults(run=sru_gate)

    entry = commands.add_parser("changelog", help="print debian/changelog for the package of the last commit")
    entry.set_defaults(run=sru_changelog)

    make = commands.add_parser("release", help="version, changelogs, tag, source, SBOM, checksums, signature")
    make.add_argument("version")
    make.add_argument("--out", type=pathlib.Path, required=True, metavar="FOLDER")
    make.add_argument("--key", help="GnuPG key that signs the tag and the checksums")
    make.add_argument("--dry-run", action="store_true", help="commit and tag nothing")
    make.set_defaults(run=sru_release)
    return top


def sru_test(arguments):
    """Status 1 if a case failed."""
    ran = run.sru_test(ROOT, arguments.old, arguments.new, arguments.results.resolve(), arguments.only, arguments.again)
    print(results.markdown(ran))
    print(f"Written: {arguments.results}/results.json, junit.xml, report.md")
    return 1 if ran.of("failed") else 0


def sru_attest(arguments):
    """Adds a line."""
    when = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    results.attest(arguments.results, arguments.step, arguments.by, arguments.outcome, when, arguments.link)
    return 0


def sru_report(arguments):
    """Prints, or says why not."""
    ran = results.load(arguments.results)
    debian = version.debian_changelog(ROOT)
    report.check(ran, version.top(debian)["version"])
    # All that is new to who has the old version: releases between were perhaps never uploaded.
    names, stanzas = version.since(debian, ran.old)
    names = {name.rpartition("-")[0] for name in names}
    versions = changelog.parse((ROOT / "CHANGELOG.md").read_text())
    if "git" in ran.new:
        print(f"sru: {ran.new} is not a release; what is unreleased is reported as if it were", file=sys.stderr)
        names.add("Unreleased")
    print(report.text(ran, [part for part in versions if part.name in names], stanzas), end="")
    return 0


def sru_gate(_):
    """Status 1 with what is missing."""
    complaints = changelog.gate(ROOT, changelog.parse((ROOT / "CHANGELOG.md").read_text()))
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


def sru_changelog(_):
    """What debian/build packs."""
    print(version.debian_changelog(ROOT), end="")
    return 0


def sru_release(arguments):
    """Says what was made and what to do next."""
    files = release.release(ROOT, arguments.version, arguments.out.resolve(), arguments.key, arguments.dry_run)
    for file in files:
        print(file)
    if not arguments.key:
        print("not signed: no KEY was given", file=sys.stderr)
    if not arguments.dry_run:
        print(f"Committed and tagged v{arguments.version} here. To publish: git push --follow-tags", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
