import os
import pathlib
import subprocess
import tempfile
import unittest

from sru import version

ENTRY = "azure-proxy-agent ({}) unstable; urgency=medium\n\n  * Something.\n\n -- A B <a@b.example>  Wed, 04 Mar 2026 05:06:07 +0000\n"
LOG = "# Changelog\n\n## [Unreleased]\n\n### Fixed\n- One thing. Test: `x`.\n\n## [0.1.0] - 2026-03-04\n\n### Added\n- Old.\n"


class Version(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name, "tree")
        (self.root / "debian").mkdir(parents=True)
        (self.root / "debian/changelog").write_text(ENTRY.format("0.1.0-0"))
        (self.root / "CHANGELOG.md").write_text(LOG)
        os.environ.update(
            GIT_AUTHOR_NAME="T", GIT_AUTHOR_EMAIL="t@t.example", GIT_COMMITTER_NAME="T", GIT_COMMITTER_EMAIL="t@t.example",
            GIT_COMMITTER_DATE="2026-03-05T06:07:08+0200",
        )  # fmt: skip
        self.addCleanup(os.environ.pop, "GIT_COMMITTER_DATE")
        self.git("init", "--quiet")
        self.commit("start")

    def git(self, *arguments, at=None):
        return subprocess.run(["git", "-C", str(at or self.root), *arguments], capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, message):
        self.git("add", "-A")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)

    def version(self, at=None):
        return version.top(version.debian_changelog(at or self.root))["version"]

    def id(self):
        return self.git("rev-parse", "HEAD")[:10]

    def test_dpkg_orders_what_comes_before_a_release_and_after(self):
        """FS-115: the release itself has three numbers and revision 0."""
        before = self.version()
        self.assertEqual(before, f"0.1.0~git1.g{self.id()}-0")
        self.commit("more")
        self.git("tag", "-a", "v0.1.0", "-m", "x")
        at = self.version()
        self.assertEqual(at, "0.1.0-0")
        self.commit("later")
        after = [self.version()]
        self.assertEqual(after[0], f"0.1.0+git1.g{self.id()}-0")
        for n in range(9):
            self.commit(str(n))
        after.append(self.version())
        self.assertEqual(after[1], f"0.1.0+git10.g{self.id()}-0")
        order = [before, at, *after, "0.1.1-0"]
        for older, newer in zip(order, order[1:]):
            subprocess.run(["dpkg", "--compare-versions", older, "lt", newer], check=True)

    def test_the_entry_says_what_is_not_released_and_comes_from_git_alone(self):
        self.git("tag", "v0.1.0")
        self.assertEqual(version.debian_changelog(self.root), ENTRY.format("0.1.0-0"))
        self.commit("later")
        text = version.debian_changelog(self.root)
        self.assertEqual(
            text,
            f"azure-proxy-agent (0.1.0+git1.g{self.id()}-0) UNRELEASED; urgency=medium\n\n"
            f"  * Built from commit {self.id()}; not a release.\n\n  [ Fixed ]\n  * One thing.\n\n"
            f" -- A B <a@b.example>  Thu, 05 Mar 2026 04:07:08 +0000\n\n" + ENTRY.format("0.1.0-0"),
        )
        # What is not committed is not in the package.
        (self.root / "debian/changelog").write_text("changed\n")
        self.assertEqual(version.debian_changelog(self.root), text)

    def test_a_clone_without_tags_or_history_makes_a_version_before_the_release(self):
        self.git("tag", "v0.1.0")
        self.commit("later")
        for name, options, known in (("no-tags", ["--no-tags"], 2), ("shallow", ["--depth=1"], 1)):
            clone = self.root.parent / name
            subprocess.run(["git", "clone", "--quiet", *options, f"file://{self.root}", str(clone)], check=True)
            text = version.debian_changelog(clone)
            self.assertEqual(version.top(text)["version"], f"0.1.0~git{known}.g{self.id()}-0")
            self.assertEqual(text.count("(0.1.0"), 1)
        # Fetched: as where it came from.
        self.git("fetch", "--quiet", "--unshallow", "--tags", at=clone)
        self.assertEqual(self.version(clone), self.version())
        # One of the release itself has its tag.
        subprocess.run(["git", "clone", "--quiet", "--depth=1", "--branch=v0.1.0", f"file://{self.root}", str(clone) + "2"], check=True, capture_output=True)
        self.assertEqual(self.version(str(clone) + "2"), "0.1.0-0")


if __name__ == "__main__":
    unittest.main()
