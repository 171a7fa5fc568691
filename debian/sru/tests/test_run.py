import contextlib
import io
import json
import os
import pathlib
import subprocess
import tempfile
import unittest
from unittest import mock

from sru import plan, results, run
from sru.results import Fault

# What make is in these tests: packages that say what they are, and machines that do what the file `say` tells.
MAKEFILE = """
deb:
\t@echo build >>$(LOG)/calls
\t@for p in azure-proxy-agent azure-proxy-agent-minimal; do \\
\t    mkdir -p $(DEB_OUT) $(DEB_OUT)/p/DEBIAN; \\
\t    printf 'Package: %s\\nVersion: %s\\nArchitecture: amd64\\nMaintainer: a <a@b.example>\\nDescription: x\\n' $$p "$$(cat version)" >$(DEB_OUT)/p/DEBIAN/control; \\
\t    rm -f $(DEB_OUT)/$${p}_*.deb; dpkg-deb -b $(DEB_OUT)/p "$(DEB_OUT)/$${p}_$$(cat version)_amd64.deb" >/dev/null; done
vm-test:
\t@echo "$(KERNEL) $(CPUS) $(MEMORY): $(CASES)" >>$(LOG)/calls
\t@test -f "$(DEB)" && test -f "$(OLD)"
\t@mkdir -p $(RESULTS)
\t@for c in $(CASES); do mkdir -p $(RESULTS)/$$c; echo log >$(RESULTS)/$$c/output.txt; sh $(LOG)/say $$c >>$(RESULTS)/results.jsonl; done
"""
PASS = """printf '{"case": "%s", "result": "pass", "seconds": 1.5, "detail": "", "log": "%s/output.txt"}\\n' $1 $1\n"""
MATRIX = (
    plan.Combination("amd64", "here", plan.FULL, "standard", "6.1", 2, "1024M", ("purge", "reboot")),
    plan.Combination("amd64", "here", plan.MINIMAL, "small", "6.1", 1, "512M", ("purge",)),
    plan.Combination("arm64", "there", plan.FULL, "standard", None, 2, "4G", ("purge",), "no such machine"),
)


class Run(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.root, self.out = self.folder / "tree", self.folder / "out"
        (self.root / "debian/tests").mkdir(parents=True)
        (self.root / "debian/tests/purge").write_text("#!/bin/sh\n")
        (self.root / "Makefile").write_text(MAKEFILE)
        (self.folder / "say").write_text(PASS)
        os.environ.update(GIT_AUTHOR_NAME="T", GIT_AUTHOR_EMAIL="t@t.example", GIT_COMMITTER_NAME="T", GIT_COMMITTER_EMAIL="t@t.example")
        environment = mock.patch.dict(os.environ, LOG=str(self.folder))
        matrix = mock.patch.object(plan, "MATRIX", MATRIX)
        for patch in (environment, matrix):
            patch.start()
            self.addCleanup(patch.stop)
        self.git("init", "--quiet")
        self.commit("0.1.0-0")
        self.git("tag", "v0.1.0")
        self.commit("0.1.0+git1-0")

    def git(self, *arguments):
        subprocess.run(["git", "-C", str(self.root), *arguments], check=True, stdout=subprocess.DEVNULL)

    def commit(self, version):
        (self.root / "version").write_text(version)
        self.git("add", "-A")
        self.git("commit", "--quiet", "-m", version)

    def sru_test(self, old="v0.1.0", new=".", **more):
        with contextlib.redirect_stdout(io.StringIO()):
            return run.sru_test(self.root, old, new, self.out, **more)

    def calls(self):
        path = self.folder / "calls"
        text = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return text

    def test_every_case_of_the_plan_has_a_result(self):
        ran = self.sru_test()
        self.assertEqual((ran.old, ran.new, ran.missing()), ("0.1.0-0", "0.1.0+git1-0", []))
        self.assertEqual(sorted(ran.packages), ["azure-proxy-agent-minimal_0.1.0+git1-0_amd64.deb", "azure-proxy-agent_0.1.0+git1-0_amd64.deb"])
        self.assertEqual([r.outcome for r in ran.results], ["passed", "passed", "passed", "pending"])
        self.assertEqual(self.calls(), ["build", "build", "6.1 2 1024M: purge reboot", "6.1 1 512M: purge"])
        for result in ran.of("passed"):
            self.assertEqual((self.out / result.log).read_text(), "log\n")
        self.assertEqual(results.load(self.out), ran)

    def test_what_passed_is_not_run_again_for_the_same_packages_and_tests(self):
        (self.folder / "say").write_text(f"[ $1 = purge ] && exit\n{PASS}")
        first = self.sru_test()
        self.assertEqual([(r.case, r.outcome) for r in first.results if r.outcome != "pending"], [("purge", "failed"), ("reboot", "passed"), ("purge", "failed")])
        self.assertIn("no result", first.of("failed")[0].detail)
        self.calls()
        (self.folder / "say").write_text(PASS)
        again = self.sru_test()
        self.assertEqual(self.calls(), ["6.1 2 1024M: purge", "6.1 1 512M: purge"])
        self.assertEqual((again.of("failed"), again.missing()), ([], []))
        self.sru_test()
        self.assertEqual(self.calls(), [])
        self.sru_test(again=True)
        self.assertEqual(len(self.calls()), 2)
        # Another test, and another package, are another matter.
        (self.root / "debian/tests/purge").write_text("#!/bin/sh\ntrue\n")
        self.sru_test()
        self.assertEqual(self.calls(), ["6.1 2 1024M: purge", "6.1 1 512M: purge"])
        self.commit("0.1.0+git2-0")
        self.sru_test()
        self.assertEqual(self.calls(), ["build", "6.1 2 1024M: purge reboot", "6.1 1 512M: purge"])

    def test_failed_and_skipped_cases_have_not_passed(self):
        line = """printf '{"case": "%s", "result": "%s", "seconds": 1, "detail": "the reason"}\\n' $1 """
        (self.folder / "say").write_text(f"if [ $1 = purge ]; then {line} skip; else {line} fail; fi\necho no JSON\n")
        ran = self.sru_test()
        self.assertEqual([r.detail for r in ran.of("failed")], ["skipped: the reason", "the reason", "skipped: the reason"])

    def test_some_combinations_only(self):
        ran = self.sru_test(only="minimal")
        self.assertEqual(self.calls()[2:], ["6.1 1 512M: purge"])
        self.assertEqual(len(ran.missing()), 3)

    def test_what_cannot_be_an_upgrade_is_refused(self):
        for old, new, words in [
            (".", "v0.1.0", "is not above the old"),
            (".", ".", "is not above the old"),
            ("no-such-tag", ".", "neither a .deb nor a tag or commit"),
            ("no-such.deb", ".", "is not a file"),
        ]:
            with self.assertRaisesRegex(Fault, words):
                self.sru_test(old, new)

    def test_packages_may_be_given_as_files(self):
        self.sru_test()
        files = sorted((self.out / "packages").glob("*/azure-proxy-agent_*.deb"), key=lambda path: "git" in path.name)
        old, new = [path for path in files if path.parent.name != "build"]
        self.calls()
        ran = self.sru_test(str(old), str(new), again=True)
        self.assertEqual((ran.new, ran.missing(), len(self.calls())), ("0.1.0+git1-0", [], 2))
        new.with_name(new.name.replace("agent_", "agent-minimal_")).unlink()
        with self.assertRaisesRegex(Fault, "the matrix has both packages"):
            self.sru_test(str(old), str(new))


if __name__ == "__main__":
    unittest.main()
