#!/usr/bin/env python3
"""The page in a real browser: headless Chromium, driven by WebDriver (plain HTTP; only the standard library).

Usage: test_page.py CONTROLLER [SCREENSHOTS]. The controller listens on loopback, on a port and a database of its own.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

CONTROLLER = None
SCREENSHOTS = None
PATIENCE = 30


def call(method, url, body=None, headers=None):
    """JSON in, JSON out."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"content-type": "application/json", **(headers or {})})
    # The machine's proxy settings are for other networks than loopback.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=90) as answer:
        text = answer.read()
    return json.loads(text) if text else None


class Browser:
    """One Chromium with an empty profile."""

    FLAGS = (
        "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
        "--disable-sync --disable-dev-shm-usage --no-proxy-server --host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
    )

    def __init__(self, folder, width=1200, height=900, dark=False):
        self.driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "HOME": str(folder)}
        )
        self.session = None
        try:
            self.begin(folder, width, height, dark)
        except BaseException:
            # Nobody else would end it.
            self.close()
            raise

    def begin(self, folder, width, height, dark):
        found = None
        for line in self.driver.stdout:
            if found := re.search(r"successfully on port (\d+)", line):
                break
        if not found:
            raise RuntimeError("chromedriver did not start")
        self.base = f"http://127.0.0.1:{found[1]}"
        flags = re.split(r" (?=--)", self.FLAGS) + [f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"]
        if dark:
            flags.append("--force-dark-mode")
            flags.append("--blink-settings=preferredColorScheme=0")
        options = {"binary": "/usr/bin/chromium", "args": flags}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}}
        self.session = f"{self.base}/session/{call('POST', self.base + '/session', wanted)['value']['sessionId']}"

    def close(self):
        if self.session:
            with contextlib.suppress(OSError):
                call("DELETE", self.session)
        self.driver.terminate()
        self.driver.wait()
        self.driver.stdout.close()

    def go(self, url):
        call("POST", self.session + "/url", {"url": url})

    def run(self, script, *arguments):
        return call("POST", self.session + "/execute/sync", {"script": script, "args": list(arguments)})["value"]

    def find(self, selector):
        """The element, as soon as it is there."""
        found = {}
        self.wait(lambda: found.update(self._find(selector) or {}) or found, selector)
        return next(iter(found.values()))

    def _find(self, selector):
        with contextlib.suppress(urllib.error.HTTPError):
            return call("POST", self.session + "/element", {"using": "css selector", "value": selector})["value"]
        return None

    def click(self, selector):
        call("POST", f"{self.session}/element/{self.find(selector)}/click", {})

    def type(self, selector, text, clear=True):
        element = self.find(selector)
        if clear:
            call("POST", f"{self.session}/element/{element}/clear", {})
        call("POST", f"{self.session}/element/{element}/value", {"text": text})

    def press(self, keys):
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        call("POST", self.session + "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def text(self, selector="#content"):
        return self.run("const e = document.querySelector(arguments[0]); return e ? e.innerText : ''", selector)

    def wait(self, condition, what):
        """Until something holds; the page is asked again and again, since only it knows."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(urllib.error.HTTPError):
                if condition():
                    return
            time.sleep(0.05)
        raise AssertionError(f"never: {what}\n{self.text()}")

    def shows(self, words, selector="#content"):
        self.wait(lambda: words in self.text(selector), f"{words!r} in {selector}")

    def complaints(self):
        """What the browser complained about."""
        log = call("POST", self.session + "/se/log", {"type": "browser"})["value"]
        # An answer with a status of an error is one that the test provoked.
        return [entry["message"] for entry in log if entry["level"] == "SEVERE" and "Failed to load resource" not in entry["message"]]

    def screenshot(self, name):
        if SCREENSHOTS:
            import base64

            (SCREENSHOTS / f"{name}.png").write_bytes(base64.b64decode(call("GET", self.session + "/screenshot")["value"]))


class Pool:
    """A controller."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            [CONTROLLER, "serve", "--listen", "127.0.0.1:0", "--database", f"{folder}/pool.db"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for line in self.process.stdout:
            if found := re.match(r"listening on (\S+)", line):
                break
        self.url = found[1]
        self.token = (folder / "pool.admin-token").read_text().strip()

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()

    def api(self, method, path, body=None, token=None):
        return call(method, f"{self.url}/api/v1{path}", body, {"authorization": f"Bearer {token or self.token}"})

    def register(self, name, version):
        token = self.api("POST", "/tokens", {"name": f"register-{name}", "role": "register", "pool": "p"})["token"]
        return self.api("POST", "/pools/p/agents", {"name": name, "version": version}, token)

    def publish(self, version):
        import hashlib

        content = version.encode()
        sha256 = hashlib.sha256(content).hexdigest()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        upload = urllib.request.Request(f"{self.url}/api/v1/files/{sha256}", data=content, method="PUT", headers={"authorization": f"Bearer {self.token}"})
        opener.open(upload, timeout=30).close()
        self.api("POST", "/pools/p/releases", {"version": version, "file": "a.deb", "sha256": sha256, "signature": "0" * 128, "notes": "<b>notes</b>"})


class Page(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pool-page-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.pool = Pool(self.folder)
        self.addCleanup(self.pool.close)
        self.pool.api("POST", "/pools", {"name": "p"})
        self.pool.api("PUT", "/pools/p/tasks/MyTask/1.2.3", {"minimumAgentVersion": "2.175.1"})

    def browser(self, **options):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="pool-browser-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        browser = Browser(folder, **options)
        self.addCleanup(browser.close)
        browser.go(self.pool.url)
        return browser

    def sign_in(self, browser):
        browser.type("#token", self.pool.token)
        browser.click("form button")
        browser.shows("Pools")

    def test_a_policy_is_set_its_words_are_read_and_an_agent_is_updated(self):
        agent = self.pool.register("web1", "2.9.0")
        self.pool.publish("3.0")
        browser = self.browser()
        browser.type("#token", "apat_wrong")
        browser.click("form button")
        browser.shows("unknown or has expired")
        self.sign_in(browser)
        browser.click("#content a[href='#/p']")
        browser.shows("Jobs may make agents update.")
        browser.click("#sections a[href='#/p/policy']")
        browser.click("#mode-noUpdate")
        browser.type("#reason", "x" * 401)
        browser.shows("401 of 400 characters")
        browser.click("#save-policy")
        browser.shows("the reason has 401 characters; at most 400 are allowed", "#notice")
        browser.type("#reason", "Change freeze until March.")
        browser.click("#save-policy")
        browser.shows("Saved.")
        browser.shows("no updates: Change freeze until March.")
        browser.screenshot("policy")
        # A job that demands too much: its error, to the letter.
        browser.click("#sections a[href='#/p/jobs']")
        browser.find("#job-task option[value='MyTask@1.2.3']")
        browser.run("document.querySelector('#job-task').value = 'MyTask@1.2.3'")
        browser.click("#submit")
        browser.find("tr[data-job='1'] pre.error")
        self.assertEqual(
            browser.run("return document.querySelector(\"tr[data-job='1'] pre.error\").textContent"),
            "This pool doesn't allow agent updates.\n"
            "Task `MyTask` version 1.2.3 requires agent version 2.175.1, and no agents with that version are registered.\n"
            "Change freeze until March.",
        )
        browser.screenshot("jobs")
        # The agent is behind, which is no warning; a person has it updated, and the page shows it as it happens.
        browser.click("#sections a[href='#/p/agents']")
        browser.shows("behind")
        self.assertEqual(browser.run("return document.querySelectorAll('.mark.warning').length"), 0)
        browser.click("#update-web1")
        browser.click("#confirm-yes")
        browser.shows("asked to update to 3.0")
        browser.screenshot("updating")

        def work():
            at = f"/pools/p/agents/{agent['id']}"
            told = self.pool.api("POST", f"{at}/poll?wait=30", {"version": "2.9.0"}, agent["key"])
            assert told["message"]["release"]["version"] == "3.0", told
            self.pool.api("POST", f"{at}/update/accept", {"to": "3.0"}, agent["key"])
            self.pool.api("POST", f"{at}/update/end", {"to": "3.0", "version": "3.0", "outcome": "well"}, agent["key"])

        worker = threading.Thread(target=work)
        worker.start()
        browser.wait(lambda: "3.0" in browser.text("tr[data-agent='web1']") and "online" in browser.text("tr[data-agent='web1']"), "the new version")
        worker.join()
        self.assertNotIn("behind", browser.text("tr[data-agent='web1']"))
        # Text of people is text.
        browser.click("#sections a[href='#/p/releases']")
        browser.shows("<b>notes</b>")
        browser.click("#sections a[href='#/p/audit']")
        browser.shows("agent `web1` to 3.0")
        self.assertEqual(browser.complaints(), [])

    def test_the_keyboard_is_enough(self):
        browser = self.browser()
        tab, enter = "\ue004", "\ue007"
        browser.wait(lambda: browser.run("return document.activeElement.id") == "token", "the field has the focus")
        browser.press(self.pool.token)
        browser.press(enter)
        browser.shows("Pools")
        for _ in range(20):
            if browser.run("return document.activeElement.getAttribute('href')") == "#/p":
                break
            browser.press(tab)
        else:
            self.fail("the pool cannot be reached by the keyboard")
        self.assertEqual(browser.run("return getComputedStyle(document.activeElement).outlineStyle"), "solid", "the focus is seen")
        browser.press(enter)
        browser.shows("Jobs may make agents update.")

    def test_a_phone_and_the_dark(self):
        self.pool.register("web1", "2.9.0")
        self.pool.publish("3.0")
        browser = self.browser(width=500, height=900, dark=True)
        self.sign_in(browser)
        for section in ("overview", "agents", "jobs", "releases", "policy"):
            browser.go(f"{self.pool.url}/#/p/{section}")
            browser.shows("p", "h2")
            browser.find(f"#sections a[aria-current][href='#/p/{section}']")
            self.assertTrue(browser.run("return document.documentElement.scrollWidth <= innerWidth"), f"{section} is wider than the screen")
            browser.screenshot(f"phone-{section}")

    def test_ten_thousand_agents_are_a_page_like_any_other(self):
        # Registering is not what is tested: the rows are put there with the controller away.
        self.pool.process.terminate()
        self.pool.process.wait()
        import sqlite3

        with contextlib.closing(sqlite3.connect(self.folder / "pool.db")) as database, database:
            document = {"version": "2.9.0", "capabilities": {}, "lastSeen": 1, "online": False, "update": {"update": "none"}, "lastAssigned": 0, "registered": 1}
            rows = [(1, n, 2, json.dumps({"id": n, "name": f"m{n:05}", **document})) for n in range(1, 10001)]
            database.executemany("INSERT INTO agents (pool, id, revision, doc) VALUES (?, ?, ?, ?)", rows)
            head = json.loads(database.execute("SELECT head FROM pools").fetchone()[0])
            head["lastAgent"] = 10000
            database.execute("UPDATE pools SET revision = 2, head_revision = 2, head = ?", [json.dumps(head)])
        self.pool.process.stdout.close()
        self.pool = Pool(self.folder)
        self.addCleanup(self.pool.close)
        browser = self.browser()
        self.sign_in(browser)
        browser.go(f"{self.pool.url}/#/p/agents")
        browser.shows("100 of 10000")
        self.assertLessEqual(browser.run("return document.querySelectorAll('#agents tr').length"), 100)
        browser.type("#filter", "m09999")
        browser.shows("1 of 1")
        browser.type("#filter", "")
        browser.run("document.querySelector('#filter').dispatchEvent(new Event('input'))")
        browser.shows("100 of 10000")
        browser.click("th[data-key='name'] button")
        browser.wait(lambda: "m10000" in browser.text("#agents tr"), "the other way round")
        browser.screenshot("many")
        self.assertEqual(browser.complaints(), [])


if __name__ == "__main__":
    CONTROLLER = pathlib.Path(sys.argv[1]).resolve()
    if len(sys.argv) > 2:
        SCREENSHOTS = pathlib.Path(sys.argv[2])
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    unittest.main(argv=sys.argv[:1], verbosity=2)
