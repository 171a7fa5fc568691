import json
import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import unittest

from sru import release
from sru.results import Fault

ROOT = pathlib.Path(__file__).resolve().parents[3]


class Release(unittest.TestCase):
    """In a copy of the tree that is a repository of its own: nothing of this one changes."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.root = self.folder / "tree"
        subprocess.run(["git", "clone", "--quiet", "--shared", "--no-tags", str(ROOT), str(self.root)], check=True)
        # What is being worked on counts, not only what is committed.
        changed = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "--modified", "--others", "--exclude-standard"], capture_output=True, text=True, check=True
        )
        for name in changed.stdout.splitlines():
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)
        log = self.root / "CHANGELOG.md"
        log.write_text(
            "# Changelog\n\n## [Unreleased]\n\n### Added\n- One thing. Test: `.ci/run`.\n\n### Planned\n- More.\n\n## [0.0.1] - 2020-01-01\n\n### Added\n- Old.\n"
        )
        os.environ.update(
            GIT_AUTHOR_NAME="T", GIT_AUTHOR_EMAIL="t@t.example", GIT_COMMITTER_NAME="T", GIT_COMMITTER_EMAIL="t@t.example"
        )
        self.commit("start")

    def commit(self, message):
        subprocess.run(["git", "-C", str(self.root), "add", "-A"], check=True)
        subprocess.run(["git", "-C", str(self.root), "commit", "--quiet", "--allow-empty", "-m", message], check=True)

    def git(self, *arguments):
        return subprocess.run(["git", "-C", str(self.root), *arguments], capture_output=True, text=True, check=True).stdout.strip()

    def test_a_release_has_all_its_parts_and_the_same_bytes_again(self):
        files = release.release(self.root, "9.8.7", self.folder / "out")
        self.assertEqual([file.name for file in files], [
            "azure-proxy-agent_9.8.7.orig.tar.xz", "azure-proxy-agent_9.8.7.cdx.json", "azure-proxy-agent-pool_9.8.7.cdx.json", "SHA256SUMS",
        ])  # fmt: skip
        self.assertEqual(self.git("tag", "--list"), "v9.8.7")
        self.assertEqual(self.git("status", "--porcelain"), "")
        for manifest in ("Cargo.toml", "pool/Cargo.toml"):
            self.assertIn('version = "9.8.7"', (self.root / manifest).read_text())
            subprocess.run(
                ["cargo", "metadata", "--locked", "--offline", "--format-version", "1", "--manifest-path", str(self.root / manifest)],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        # FS-115: revision 0.
        self.assertTrue((self.root / "debian/changelog").read_text().startswith("azure-proxy-agent (9.8.7-0) unstable; urgency=medium\n"))
        self.assertRegex((self.root / "debian/rpm/azure-proxy-agent.spec").read_text(), r"agent_version 9\.8\.7\}")
        for page in (self.root / "docs").glob("*.[58]"):
            self.assertIn(' 9.8.7" "', page.read_text().split(".SH", 1)[0])
        self.assertIn("## [9.8.7] - ", (self.root / "CHANGELOG.md").read_text())
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=self.folder / "out", check=True)
        with tarfile.open(files[0]) as tar:
            names = tar.getnames()
        self.assertIn("azure-proxy-agent-9.8.7/Cargo.toml", names)
        self.assertFalse([name for name in names if name.startswith("azure-proxy-agent-9.8.7/debian/")])
        bom = json.loads(files[1].read_text())
        self.assertEqual((bom["bomFormat"], bom["metadata"]["component"]["version"]), ("CycloneDX", "9.8.7"))
        components = {component["name"]: component for component in bom["components"]}
        self.assertEqual(components["ring"]["scope"], "required")
        self.assertEqual(components["cc"]["scope"], "excluded")
        self.assertTrue(components["ring"]["hashes"][0]["content"] in (self.root / "Cargo.lock").read_text())
        needs = {d["ref"]: d["dependsOn"] for d in bom["dependencies"]}
        self.assertEqual(set(needs), {"azure-proxy-agent"} | {component["bom-ref"] for component in bom["components"]})
        self.assertEqual(len(needs["azure-proxy-agent"]), 2)
        pool = json.loads(files[2].read_text())
        self.assertEqual(pool["metadata"]["component"]["name"], "azure-proxy-agent-pool")
        self.assertIn("azure-proxy-agent-updater", {component["name"] for component in pool["components"]})
        files[0].rename(self.folder / "first")
        again = release._tarball(self.root, "9.8.7", "v9.8.7", self.folder / "out")
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=self.folder / "out", check=True)
        self.assertEqual(again, files[0])
        with self.assertRaisesRegex(Fault, "released once"):
            release.release(self.root, "9.8.7", self.folder / "out")

    def test_the_checksums_are_signed_with_the_key_given(self):
        home = self.folder / "gnupg"
        home.mkdir(mode=0o700)
        os.environ["GNUPGHOME"] = str(home)
        self.addCleanup(os.environ.pop, "GNUPGHOME")
        self.addCleanup(subprocess.run, ["gpgconf", "--kill", "gpg-agent"], check=False)
        quiet = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
        subprocess.run([*quiet, "--quick-generate-key", "t@t.example", "ed25519", "sign"], check=True)
        files = release.release(self.root, "9.8.8", self.folder / "out", key="t@t.example")
        self.assertEqual(files[-1].name, "SHA256SUMS.asc")
        subprocess.run(["gpg", "--batch", "--quiet", "--verify", str(files[-1]), str(files[-2])], check=True, stderr=subprocess.DEVNULL)
        subprocess.run(["git", "-C", str(self.root), "verify-tag", "v9.8.8"], check=True, stderr=subprocess.DEVNULL)

    def test_an_entry_before_the_first_release_gives_way(self):
        path = self.root / "debian/changelog"
        path.write_text(
            "azure-proxy-agent (9.8.6-0) unstable; urgency=medium\n\n  * First package.\n\n"
            " -- A B <a@b.example>  Wed, 04 Mar 2026 05:06:07 +0000\n"
        )
        self.commit("an entry")
        release.release(self.root, "9.8.6", self.folder / "out")
        text = path.read_text()
        self.assertEqual((text.count("(9.8.6-0)"), text.count("First package"), text.count(" -- A B <a@b.example>  ")), (1, 0, 1))

    def test_what_is_not_ready_is_not_released(self):
        for name in ("1.2", "v1.2.3", "1.2.3-rc1", ""):
            with self.assertRaisesRegex(Fault, "three numbers"):
                release.release(self.root, name, self.folder / "out")
        (self.root / "Makefile").write_text("changed\n")
        with self.assertRaisesRegex(Fault, "uncommitted"):
            release.release(self.root, "1.2.3", self.folder / "out")
        self.git("checkout", "--quiet", "Makefile")
        log = self.root / "CHANGELOG.md"
        log.write_text(log.read_text().replace("Test: `.ci/run`.", ""))
        self.commit("an entry without test")
        with self.assertRaisesRegex(Fault, "names no test"):
            release.release(self.root, "1.2.3", self.folder / "out")
        self.assertEqual(self.git("tag", "--list"), "")
        self.assertFalse((self.folder / "out").exists())

    def test_a_dry_run_commits_and_tags_nothing(self):
        before = self.git("rev-parse", "HEAD")
        release.release(self.root, "1.2.3", self.folder / "out", dry=True)
        self.assertEqual((self.git("rev-parse", "HEAD"), self.git("tag", "--list"), self.git("status", "--porcelain")), (before, "", ""))


if __name__ == "__main__":
    unittest.main()
