import datetime
import pathlib
import subprocess
import tempfile
import unittest

from sru import changelog

TEXT = """# Changelog

Words before.

## [Unreleased]

### Added
- A thing (LP: #12, #34),
  on two lines. Tests: `core/agent::a_test`, `debian/tests/purge`.
- Another. No test: documentation.

### Planned
- The moon.

## [0.1.0] - 2026-01-02

### Fixed
- Old.
"""


class Changelog(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name)
        (self.root / "core/src").mkdir(parents=True)
        (self.root / "core/src/agent.rs").write_text("#[test]\nfn a_test() {}\n")
        (self.root / "debian/tests").mkdir(parents=True)
        (self.root / "debian/tests/purge").write_text("#!/bin/sh\n")

    def test_entries_are_read(self):
        new, old = changelog.parse(TEXT)
        self.assertEqual(new.entries[0].told, "A thing (LP: #12, #34), on two lines.")
        self.assertEqual(new.entries[0].tests, ["core/agent::a_test", "debian/tests/purge"])
        self.assertEqual((new.bugs, new.entries[1].excuse), (["12", "34"], "documentation"))
        self.assertEqual((old.name, old.date, len(new.entries)), ("0.1.0", "2026-01-02", 2))

    def test_the_gate_passes_what_names_tests_that_exist(self):
        self.assertEqual(changelog.gate(self.root, changelog.parse(TEXT)), [])

    def test_the_gate_fails(self):
        for entry, complaint in [
            ("- A thing.", "names no test"),
            ("- A thing. Tests: none.", "names no test"),
            ("- A thing. Tests: `core/agent::no_such_test`.", "there is no test core/agent::no_such_test"),
            ("- A thing. Test: `debian/tests/nothing`.", "there is no test debian/tests/nothing"),
            ("- A thing. No test: too hard.", "is no reason"),
        ]:
            complaints = changelog.gate(self.root, changelog.parse(f"## [Unreleased]\n\n### Added\n{entry}\n"))
            self.assertEqual(len(complaints), 1, entry)
            self.assertIn(complaint, complaints[0])
            self.assertTrue(complaints[0].startswith("CHANGELOG.md:4: "))

    def test_nothing_is_added_to_what_was_released(self):
        def git(*arguments):
            identity = ["-c", "user.name=T", "-c", "user.email=t@t.example"]
            subprocess.run(["git", "-C", str(self.root), *identity, *arguments], check=True, stdout=subprocess.DEVNULL)

        (self.root / "CHANGELOG.md").write_text(TEXT)
        git("init", "--quiet")
        git("add", "-A")
        git("commit", "--quiet", "-m", "x")
        self.assertEqual(changelog.gate(self.root, changelog.parse(TEXT + "- Late.\n")), [])
        git("tag", "v0.1.0")
        self.assertEqual(changelog.gate(self.root, changelog.parse(TEXT)), [])
        complaints = changelog.gate(self.root, changelog.parse(TEXT + "- Late.\n"))
        self.assertEqual(len(complaints), 1)
        self.assertIn("it belongs under ## [Unreleased]", complaints[0])

    def test_what_is_not_a_changelog_is_refused_with_its_line(self):
        for text, complaint in [
            ("## 1.0\n", "CHANGELOG.md:1: not a version"),
            ("## [1.0.0]\n\n### News\n", "CHANGELOG.md:3: unknown section"),
            ("## [1.0.0]\n\nprose\n", "CHANGELOG.md:3: neither"),
        ]:
            with self.assertRaisesRegex(changelog.Fault, complaint):
                changelog.parse(text)

    def test_a_release_moves_what_changed_and_keeps_what_is_planned(self):
        text = changelog.release(TEXT, "0.2.0", "2026-03-04")
        self.assertEqual([v.name for v in changelog.parse(text)], ["Unreleased", "0.2.0", "0.1.0"])
        self.assertLess(text.index("The moon."), text.index("## [0.2.0] - 2026-03-04"))
        self.assertEqual(len(changelog.find(changelog.parse(text), "0.2.0").entries), 2)
        self.assertTrue(text.startswith("# Changelog\n\nWords before.\n"))
        with self.assertRaisesRegex(changelog.Fault, "nothing is unreleased"):
            changelog.release(text, "0.3.0", "2026-03-05")
        with self.assertRaisesRegex(changelog.Fault, "already"):
            changelog.release(TEXT, "0.1.0", "2026-03-05")

    def test_the_debian_entry_tells_users_and_names_no_tests(self):
        when = datetime.datetime(2026, 3, 4, 5, 6, 7, tzinfo=datetime.timezone.utc)
        version = changelog.find(changelog.parse(changelog.release(TEXT, "0.2.0", "2026-03-04")), "0.2.0")
        self.assertEqual(
            changelog.stanza(version, "azure-proxy-agent", 1, "unstable", "A B <a@b.example>", when),
            "azure-proxy-agent (0.2.0-1) unstable; urgency=medium\n\n  [ Added ]\n"
            "  * A thing (LP: #12, #34), on two lines.\n  * Another.\n\n"
            " -- A B <a@b.example>  Wed, 04 Mar 2026 05:06:07 +0000\n",
        )


if __name__ == "__main__":
    unittest.main()
