"""CHANGELOG.md, the one source of what users are told: its entries, the gate on them, and debian/changelog made from them.

An entry is a list item. Every entry of a version says which tests cover it, in its last words:

    - What changed, for whom (LP: #123456). Tests: `sandbox/proxy::every_method`, `debian/tests/purge`.
    - A mended sentence of the manual. No test: documentation.

"Not yet" and "Planned" are no changes and need none. This is the rule "write new automated tests to cover new testable functionality
(if any)" of the update process (docs/releasing.md) as something that can fail.
"""

import dataclasses
import datetime
import email.utils
import pathlib
import re
import subprocess
import textwrap

#: Sections of a version that hold changes.
CHANGES = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
#: Sections that hold intentions.
OTHERS = ("Not yet", "Planned")
#: What may stand after "No test:"; anything else is a change that somebody can test.
UNTESTABLE = ("documentation", "figures of the benchmark")

_VERSION = re.compile(r"^## \[(?P<version>[^\]]+)\](?: - (?P<date>\d{4}-\d{2}-\d{2}))?\s*$")
_SECTION = re.compile(r"^### (?P<title>.+?)\s*$")
_TESTS = re.compile(r"\bTests?: (?P<names>`[^`]+`(?:, `[^`]+`)*)\.$")
_NO_TEST = re.compile(r"\bNo test: (?P<why>[^.]+)\.$")
_BUG = re.compile(r"LP: ?(#\d+(?:, ?#\d+)*)")


class Fault(Exception):
    """What is wrong with the changelog, and where."""


@dataclasses.dataclass
class Entry:
    """One change."""

    line: int
    section: str
    text: str

    @property
    def tests(self):
        """Names of the tests that cover it."""
        found = _TESTS.search(self.text)
        return re.findall(r"`([^`]+)`", found["names"]) if found else []

    @property
    def excuse(self):
        """Why there is none."""
        found = _NO_TEST.search(self.text)
        return found["why"] if found else None

    @property
    def told(self):
        """The text without the tests: what users read."""
        return _NO_TEST.sub("", _TESTS.sub("", self.text)).strip()

    @property
    def bugs(self):
        """Launchpad bugs that it closes."""
        return [bug for group in _BUG.findall(self.text) for bug in re.findall(r"#(\d+)", group)]


@dataclasses.dataclass
class Version:
    """One version's part."""

    name: str
    date: str | None
    line: int
    entries: list[Entry]

    @property
    def bugs(self):
        """All Launchpad bugs, each once, in order."""
        return list(dict.fromkeys(bug for entry in self.entries for bug in entry.bugs))


def parse(text):
    """All versions, newest first."""
    versions, section, entry = [], None, None
    for number, line in enumerate(text.splitlines(), 1):
        if found := _VERSION.match(line):
            versions.append(Version(found["version"], found["date"], number, []))
            section = entry = None
        elif line.startswith("## "):
            raise Fault(f"CHANGELOG.md:{number}: not a version: {line!r}; expected `## [1.2.3] - 2026-01-31` or `## [Unreleased]`")
        elif found := _SECTION.match(line):
            section, entry = found["title"], None
            if section not in CHANGES + OTHERS:
                raise Fault(f"CHANGELOG.md:{number}: unknown section {section!r}; one of {', '.join(CHANGES + OTHERS)}")
        elif line.startswith("- ") and versions and section:
            entry = Entry(number, section, line[2:].strip())
            if section in CHANGES:
                versions[-1].entries.append(entry)
        elif line.startswith("  ") and entry:
            entry.text += " " + line.strip()
        elif not line.strip():
            entry = None
        elif versions:
            raise Fault(f"CHANGELOG.md:{number}: neither a heading nor a list item: {line!r}")
    return versions


def find(versions, name):
    """The part of one version."""
    for version in versions:
        if version.name == name:
            return version
    raise Fault(f"CHANGELOG.md has no part for {name}; it has {', '.join(version.name for version in versions) or 'none'}")


def exists(root, name):
    """Whether the tree has a test of that name.

    `package/target::path::function` is a Rust test as docs/conformance.md writes it; `replay/folder/name` a fixture; anything else a
    file that can be run (`debian/tests/purge`, `testdata/demo/run`).
    """
    if "::" in name:
        package, _, rest = name.partition("/")
        function = rest.rpartition("::")[2]
        folders = [root / package, root / "testdata" / package, root / "pool" / package]
        wanted = re.compile(rf"\bfn {re.escape(function)}\b")
        return any(
            wanted.search(path.read_text(errors="replace"))
            for folder in folders
            if folder.is_dir()
            for path in folder.rglob("*.rs")
        )
    if name.startswith("replay/"):
        return any((root / "testdata" / name).parent.glob(pathlib.PurePath(name).name + ".*"))
    return (root / name).is_file()


def gate(root, versions):
    """What is missing, as lines; none if every change names tests that exist.

    Only what is not released yet is held: what old versions named may have been renamed since. Nothing may be added to those.
    """
    complaints = []
    for entry in versions[0].entries if versions else []:
        place = f"CHANGELOG.md:{entry.line}: {textwrap.shorten(entry.told, 60, placeholder='…')}"
        if not entry.tests and entry.excuse is None:
            complaints.append(f"{place}\n    names no test; end it with: Tests: `package/target::name`. (or: No test: {UNTESTABLE[0]}.)")
        elif entry.excuse is not None and entry.excuse not in UNTESTABLE:
            complaints.append(f"{place}\n    `No test: {entry.excuse}` is no reason; known ones: {', '.join(UNTESTABLE)}")
        complaints += [f"{place}\n    there is no test {name}" for name in entry.tests if not exists(root, name)]
    return complaints + [complaint for version in versions[1:] for complaint in _late(root, version)]


def _late(root, version):
    """Entries that a merge put into a version after its release: git does not know that the part's head has changed its name."""
    released = subprocess.run(["git", "-C", str(root), "show", f"v{version.name}:CHANGELOG.md"], capture_output=True, text=True, check=False)
    if released.returncode:
        # Not a repository, or one without tags.
        return []
    known = {entry.text for entry in find(parse(released.stdout), version.name).entries}
    return [
        f"CHANGELOG.md:{entry.line}: {textwrap.shorten(entry.told, 60, placeholder='…')}\n"
        f"    was not in {version.name} when that was released; it belongs under ## [Unreleased]"
        for entry in version.entries
        if entry.text not in known
    ]


def stanza(version, package, revision, distribution, maintainer, when, about=None):
    """The entry of debian/changelog for one version, without the tests' names; `about` is a line before all others."""
    lines = [f"{package} ({version.name}-{revision}) {distribution}; urgency=medium", ""]
    if about:
        lines += [f"  * {about}", ""]
    for section in CHANGES:
        entries = [entry for entry in version.entries if entry.section == section]
        if entries:
            lines.append(f"  [ {section} ]")
        for entry in entries:
            told = entry.told.replace("`", "")
            lines += textwrap.wrap(told, 78, initial_indent="  * ", subsequent_indent="    ", break_long_words=False)
        if entries:
            lines.append("")
    if not version.entries and not about:
        lines += ["  * No visible change.", ""]
    lines.append(f" -- {maintainer}  {email.utils.format_datetime(when)}")
    return "\n".join(lines) + "\n"


def release(text, name, date):
    """CHANGELOG.md with what is unreleased as version `name`, and room for the next."""
    versions = parse(text)
    if any(version.name == name for version in versions):
        raise Fault(f"CHANGELOG.md has a part for {name} already")
    if not versions or versions[0].name != "Unreleased":
        raise Fault("CHANGELOG.md does not begin with ## [Unreleased]")
    if not versions[0].entries:
        raise Fault("nothing is unreleased: CHANGELOG.md has no entry under ## [Unreleased]")
    lines = text.splitlines()
    start = versions[0].line - 1
    end = versions[1].line - 1 if len(versions) > 1 else len(lines)
    # What is planned stays with the future; what changed becomes the version's.
    kept, changed, section, heading = [], [], None, None
    for line in lines[start + 1 : end]:
        if heading := _SECTION.match(line):
            section = heading["title"]
        (kept if section in OTHERS else changed).append(line)
    out = lines[:start] + ["## [Unreleased]", ""]
    out += _trim(kept) + ([""] if _trim(kept) else [])
    out += [f"## [{name}] - {date}", ""] + _trim(changed) + ([""] if end < len(lines) else []) + lines[end:]
    return "\n".join(out) + "\n"


def _trim(lines):
    """Without empty lines at either end."""
    text = "\n".join(lines).strip("\n")
    return text.split("\n") if text else []


def today():
    """The date of a release, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)
