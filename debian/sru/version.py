"""Which version a commit is: that of debian/changelog if it has that version's tag, else one made from git alone.

`v0.1.0` itself is 0.1.0-0. What comes after it is 0.1.0+git12.gc0ffee1234-0: twelve commits later, and which one. dpkg orders that after
the release and before the next, and later builds of a branch after earlier ones. Where the tag is not known to be an ancestor (nothing
was released yet, or a clone without tags or history) it is 0.1.0~git12.gc0ffee1234-0 of twelve known commits, before the release: a
build that nobody can place replaces nothing that was released.
"""

import datetime
import re
import subprocess

from . import changelog
from .results import Fault

_STANZA = re.compile(r"\A(?P<package>\S+) \((?P<version>[^)]+)\).*?^ -- (?P<maintainer>.+?)  .*?$\n?", re.MULTILINE | re.DOTALL)


def top(text):
    """The newest entry of a debian/changelog: package, version, maintainer, and the whole."""
    found = _STANZA.match(text)
    if not found:
        raise Fault("debian/changelog has no entry")
    return found


def since(text, old):
    """The entries of a debian/changelog above version `old`: their versions and their text."""
    versions, end, rest = [], 0, text
    while found := _STANZA.match(rest.lstrip("\n")):
        if subprocess.run(["dpkg", "--compare-versions", found["version"], "gt", old], check=False).returncode:
            break
        versions.append(found["version"])
        rest = rest.lstrip("\n")[found.end() :]
        end = len(text) - len(rest)
    return versions, text[:end]


def debian_changelog(root, commit="HEAD"):
    """debian/changelog for the package of that commit: as it is there, or with an entry in front for what is not released."""
    text = _git(root, "show", f"{commit}:debian/changelog") + "\n"
    entry = top(text)
    base, _, revision = entry["version"].rpartition("-")
    distance = _distance(root, f"v{base}", commit)
    if distance == "":
        return text
    sha, time = _git(root, "show", "-s", "--format=%H %ct", f"{commit}^{{commit}}").split()
    unreleased = changelog.parse(_git(root, "show", f"{commit}:CHANGELOG.md"))[0]
    if unreleased.name != "Unreleased":
        unreleased = changelog.Version("", None, 0, [])
    about = f"Built from commit {sha[:10]}; not a release."
    version = changelog.Version(f"{base}{distance}.g{sha[:10]}", None, 0, unreleased.entries)
    when = datetime.datetime.fromtimestamp(int(time), datetime.timezone.utc)
    new = changelog.stanza(version, entry["package"], revision, "UNRELEASED", entry["maintainer"], when, about)
    # Before the release its entry tells nobody anything, and would be the newer one.
    return new + "\n" + (text if distance.startswith("+") else text[entry.end() :].lstrip("\n"))


def _distance(root, tag, commit):
    """Empty for the tagged commit itself, `+gitN` after it, `~gitN` if that cannot be said."""
    if subprocess.run(["git", "-C", str(root), "merge-base", "--is-ancestor", tag, commit], capture_output=True, check=False).returncode:
        return f"~git{_git(root, 'rev-list', '--count', commit)}"
    later = _git(root, "rev-list", "--count", f"{tag}..{commit}")
    return "" if later == "0" else f"+git{later}"


def _git(root, *arguments):
    run = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    if run.returncode:
        raise Fault(f"git {' '.join(arguments)}: {run.stderr.strip()}")
    return run.stdout.strip()
