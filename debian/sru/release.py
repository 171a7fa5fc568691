"""A release: version, changelogs, tag, source tarball, SBOM, checksums, signature. Nothing leaves this machine."""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import uuid

from . import changelog
from .results import Fault

_NUMBER = re.compile(r"^\d+\.\d+\.\d+$")
#: Of the packages that the project makes itself (FS-115); a distribution's begin at 1 or 0ubuntu1.
REVISION = 0
#: What has a bill of materials: its name, the workspace, and the crates whose programs are shipped.
SBOMS = (
    ("azure-proxy-agent", "Cargo.toml", ("runtime-smol", "runtime-blocking")),
    ("azure-proxy-agent-pool", "pool/Cargo.toml", ("azure-proxy-agent-pool", "azure-proxy-agent-updater")),
)


def release(root, name, out, key=None, dry=False):
    """Makes version `name` from the tree as it is committed. Gives the files made.

    `key` is a GnuPG key for the tag and for the detached signature of the checksums; without one neither is signed, and that is said.
    With `dry` nothing is committed or tagged: the files are made of what is committed now.
    """
    if not _NUMBER.match(name):
        raise Fault(f"a version has three numbers, as 1.2.3, not {name!r}")
    if _git(root, "status", "--porcelain", "--untracked-files=no"):
        raise Fault("there are uncommitted changes: commit or stash them first")
    if _git(root, "tag", "--list", f"v{name}"):
        raise Fault(f"the tag v{name} exists: a version is released once")
    text = (root / "CHANGELOG.md").read_text()
    complaints = changelog.gate(root, changelog.parse(text))
    if complaints:
        raise Fault("the changelog does not pass its gate:\n" + "\n".join(complaints))
    now = changelog.today()
    after = changelog.release(text, name, now.date().isoformat())
    if not dry:
        _commit(root, name, after, now, key)
    out.mkdir(parents=True, exist_ok=True)
    revision = "HEAD" if dry else f"v{name}"
    files = [_tarball(root, name, revision, out)]
    files += [_sbom(root, *sbom, name, revision, out) for sbom in SBOMS]
    sums = out / "SHA256SUMS"
    sums.write_text("".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files))
    files.append(sums)
    if key:
        signature = out / "SHA256SUMS.asc"
        _run(["gpg", "--batch", "--yes", "--armor", "--local-user", key, "--output", str(signature), "--detach-sign", str(sums)])
        files.append(signature)
    return files


def _commit(root, name, text, now, key):
    """Changelogs and versions as one commit with its tag; a failure leaves the tree as it was, which was clean."""
    before = _git(root, "rev-parse", "HEAD")
    try:
        (root / "CHANGELOG.md").write_text(text)
        _debian_changelog(root, name, text, now)
        _cargo_versions(root, name)
        _documents(root, name, now)
        _git(root, "add", "debian/changelog")
        _git(root, "commit", "--quiet", "-am", f"Release {name}")
        signed = ["-s", "-u", key] if key else ["-a"]
        _git(root, "tag", *signed, f"v{name}", "-m", f"azure-proxy-agent {name}")
    except (Fault, OSError):
        _git(root, "reset", "--quiet", "--hard", before)
        raise


def _debian_changelog(root, name, text, now):
    path = root / "debian/changelog"
    old = path.read_text() if path.exists() else ""
    found = re.search(r"^ -- (.+?)  ", old, re.MULTILINE)
    # An entry that was there before the first release, under the same version, was in nobody's package.
    old = re.sub(rf"\A\S+ \({re.escape(name)}-[^)]*\).*?^ -- .*?$\n*", "", old, count=1, flags=re.MULTILINE | re.DOTALL)
    maintainer = found[1] if found else re.search(r"^Maintainer: (.+)$", (root / "debian/control").read_text(), re.MULTILINE)[1]
    version = changelog.find(changelog.parse(text), name)
    new = changelog.stanza(version, "azure-proxy-agent", REVISION, "unstable", maintainer, now)
    path.write_text(new + ("\n" + old if old else ""))


def _cargo_versions(root, name):
    """The workspaces' versions, and those of our packages in every lock file."""
    for manifest in ("Cargo.toml", "pool/Cargo.toml"):
        _replace(root / manifest, r'(?m)(^\[workspace\.package\]\nversion = )"[^"]*"', rf'\g<1>"{name}"', "a version under [workspace.package]")
    for manifest in ("Cargo.toml", "fuzz/Cargo.toml", "pool/Cargo.toml", ".ci/pure/Cargo.toml"):
        # Offline: a release changes our version and nobody else's.
        _run(["cargo", "update", "--offline", "--workspace", "--quiet", "--manifest-path", str(root / manifest)])


def _documents(root, name, now):
    """What else states the version: the heads of the manual pages, as docs/generate writes them, and the RPM's spec."""
    for page in sorted((root / "docs").glob("*.[58]")):
        _replace(page, r'(?m)^(\.TH \S+ \d) "[^"]*" "(\S+) [^"]*"', rf'\g<1> "{now.date().isoformat()}" "\g<2> {name}"', "a head with date and version")
    _replace(root / "debian/rpm/azure-proxy-agent.spec", r"(?m)^(%\{!\?agent_version: %global agent_version )\S+\}$", rf"\g<1>{name}}}", "a version")


def _replace(path, pattern, new, what):
    text, count = re.subn(pattern, new, path.read_text())
    if count != 1:
        raise Fault(f"{path} has not {what}")
    path.write_text(text)


def _tarball(root, name, revision, out):
    """The source, the same bytes for the same commit wherever and whenever it is made; those that `make deb` takes."""
    path = out / f"azure-proxy-agent_{name}.orig.tar.xz"
    _run([str(root / "debian/orig"), revision, f"azure-proxy-agent-{name}", str(path)])
    return path


def _sbom(root, product, manifest, crates, name, revision, out):
    """What is linked into the programs and what only builds them, as CycloneDX 1.5."""
    metadata = json.loads(_run(["cargo", "metadata", "--locked", "--offline", "--format-version", "1", "--manifest-path", str(root / manifest)]))
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    shipped = [id for id, package in packages.items() if package["name"] in crates]
    if len(shipped) != len(crates):
        raise Fault(f"{manifest} has not all of {', '.join(crates)}")
    linked = _reach(nodes, shipped, ("normal",))
    building = _reach(nodes, shipped, ("normal", "build")) - linked
    sums = _checksums((root / manifest).with_name("Cargo.lock"))
    commit = _git(root, "rev-parse", f"{revision}^{{commit}}")
    when = _git(root, "show", "-s", "--format=%cI", commit)

    def component(id):
        package = packages[id]
        purl = f"pkg:cargo/{package['name']}@{package['version']}"
        value = {
            "type": "library",
            "bom-ref": purl,
            "name": package["name"],
            "version": package["version"],
            "purl": purl,
            "scope": "required" if id in linked else "excluded",
        }
        if package.get("license"):
            value["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        if sum := sums.get((package["name"], package["version"])):
            value["hashes"] = [{"alg": "SHA-256", "content": sum}]
        return value

    order = sorted(linked | building, key=lambda id: (packages[id]["name"], packages[id]["version"]))
    refs = {id: component(id)["bom-ref"] for id in order}
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{product}/{name}/{commit}')}",
        "version": 1,
        "metadata": {
            "timestamp": when,
            "component": {"type": "application", "bom-ref": product, "name": product, "version": name, "licenses": [{"license": {"id": "MIT"}}]},
            "properties": [{"name": "commit", "value": commit}],
        },
        "components": [component(id) for id in order],
        "dependencies": [
            {"ref": product, "dependsOn": sorted(refs[id] for id in shipped)},
            *({"ref": refs[id], "dependsOn": sorted({refs[other] for other in _needs(nodes[id], ("normal", "build")) if other in refs})} for id in order),
        ],
    }
    path = out / f"{product}_{name}.cdx.json"
    path.write_text(json.dumps(bom, indent=1) + "\n")
    return path


def _reach(nodes, roots, kinds):
    """All packages that these need, by dependencies of these kinds."""
    found, todo = set(), list(roots)
    while todo:
        id = todo.pop()
        if id in found:
            continue
        found.add(id)
        todo += _needs(nodes[id], kinds)
    return found


def _needs(node, kinds):
    """What one package needs itself."""
    return [d["pkg"] for d in node["deps"] if any((kind["kind"] or "normal") in kinds for kind in d["dep_kinds"])]


def _checksums(lock):
    """Name and version to checksum, as Cargo.lock has them."""
    text = lock.read_text()
    return {
        (m[1], m[2]): m[3]
        for m in re.finditer(r'name = "([^"]+)"\nversion = "([^"]+)"\nsource = "[^"]+"\nchecksum = "([0-9a-f]{64})"', text)
    }


def _git(root, *arguments):
    return _run(["git", "-C", str(root), *arguments]).strip()


def _run(command):
    run = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"})
    if run.returncode:
        raise Fault(f"{' '.join(command[:4])}…: {run.stderr.strip()}")
    return run.stdout
