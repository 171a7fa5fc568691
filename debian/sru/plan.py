"""What is run before an update, on what, and what this machine cannot show: the documented process as data.

The words in quotes are those of the process (docs/releasing.md has every sentence of it, and where it is answered).
"""

import dataclasses

#: The cases of debian/tests, and the documented case that each one is.
CASES = {
    "service-running": "pre-update 3: \"Confirm that azure-proxy-agent is running, check journalctl for errors\"",
    "authorized-call": "pre-update 4: an authorized user's call \"is intercepted by the agent (journalctl) but allowed\"",
    "unauthorized-call": "pre-update 5: an unauthorized user's call \"is blocked by the agent\"",
    "first-boot": "QA: \"manually restoring the VM to a first boot state and rebooting it\"; release 2: \"Boot machine from image\"",
    "upgrade-from-previous": "pre-update 2: \"Upgrade azure-proxy-agent\", under load",
    "downgrade": "the way back: the old package over the new one, under load",
    "broken-upgrade": "an upgrade that cannot work (a broken configuration, a full disk) changes nothing, and says why",
    "purge": "nothing is left behind",
    "no-host": "outside Azure: idle and quiet",
    "reboot": "the machine comes back as it was",
    "killed": "killed, hung or restarted under load: it comes back, and whoever connects waits",
    "stop-and-start": "what the administrator stops stays stopped",
    "old-kernel-fallback": "a kernel that lacks what newer ones have; one on which nothing can be loaded",
}

#: What the pre-update cases are, in their order.
PRE_UPDATE = ("upgrade-from-previous", "service-running", "authorized-call", "unauthorized-call")

FULL, MINIMAL = "azure-proxy-agent", "azure-proxy-agent-minimal"


@dataclasses.dataclass(frozen=True)
class Combination:
    """One "representative combination of supported architectures, image types and machine sizes"."""

    architecture: str
    #: What the image is made of; its kind is what package it has: the full one or that for minimal images.
    image: str
    package: str
    size: str
    #: Which of the machine's kernels `make vm-test KERNEL=` boots; None: this cannot run here.
    kernel: str | None
    #: Processors and memory of the size class, as `make vm-test` takes them.
    cpus: int
    memory: str
    cases: tuple[str, ...]
    #: Why it must wait for the cloud.
    pending: str | None = None

    @property
    def name(self):
        """For people and file names."""
        return f"{self.architecture}/{self.image}/{'minimal' if self.package == MINIMAL else 'full'}/{self.size}"


_ALL = tuple(CASES)
# Not the product: all cases once, on the reference; then each kernel, each package and each size with the cases in which it can matter.
# Sized for about half an hour on two cores that have nothing else to do.
MATRIX = (
    Combination("amd64", "bookworm-6.1", FULL, "standard", "6.1", 1, "1024M", _ALL),
    Combination("amd64", "bookworm-6.1", MINIMAL, "small", "6.1", 1, "512M", PRE_UPDATE + ("first-boot", "broken-upgrade", "killed", "purge")),
    Combination("amd64", "bookworm-6.1", FULL, "small", "6.1", 1, "512M", ("upgrade-from-previous", "service-running")),
    Combination("amd64", "trixie-kernel-6.12", FULL, "large", "6.12", 2, "2048M", PRE_UPDATE + ("old-kernel-fallback",)),
    Combination("amd64", "trixie-kernel-6.12", MINIMAL, "standard", "6.12", 1, "1024M", ("upgrade-from-previous", "reboot")),
    Combination("amd64", "bullseye-kernel-5.10", FULL, "standard", "5.10", 1, "1024M", PRE_UPDATE + ("reboot", "old-kernel-fallback")),
    Combination("amd64", "bullseye-kernel-5.10", MINIMAL, "standard", "5.10", 1, "1024M", ("upgrade-from-previous", "old-kernel-fallback")),
    Combination("amd64", "noble-azure", FULL, "standard", None, 2, "4G", _ALL, "an Ubuntu image with the azure kernel is built from -proposed in the cloud"),
    Combination("amd64", "noble-azure-minimal", MINIMAL, "standard", None, 2, "4G", _ALL, "an Ubuntu minimal image is built from -proposed in the cloud"),
    Combination("amd64", "noble-azure", FULL, "large", None, 64, "256G", PRE_UPDATE, "a machine of that size exists only in the cloud"),
    Combination("amd64", "noble-azure-fips", FULL, "standard", None, 2, "4G", PRE_UPDATE, "FIPS images need the cloud's archive"),
    Combination("amd64", "noble-confidential", FULL, "standard", None, 2, "8G", PRE_UPDATE, "confidential virtual machines need the hardware"),
    Combination("arm64", "noble-azure", FULL, "standard", None, 2, "4G", _ALL, "arm64 is cross-built here, but no arm64 machine is booted"),
)

_VENDOR, _CPC, _UPLOADER = "the Microsoft team that maintains the GuestProxyAgent", "the CPC team", "the uploader"
#: Steps that people take elsewhere: whose, and what; `make sru-attest` writes down that they did.
EXTERNAL = {
    "cloud-image-tests": (_CPC, "\"the automated testing that the CPC team normally runs against Azure images before they are published\", against the -proposed package"),
    "vendor-addresses-issues": (_VENDOR, "validates \"that the new package addresses the issues it is expected to address\""),
    "vendor-image-validation": (_VENDOR, "validates \"that the new package passes their internal image validation\""),
    "devel-proposed": (_CPC, "\"built in devel-proposed and tested on the target suite\", on an Azure VM restored to a first boot state or on a fresh image"),
    "block-proposed-removed": (_UPLOADER, "\"marked as such on the tracking bug ... by removing the block-proposed tag\""),
    "proposed-image": (_CPC, "\"a test image is built from -proposed, which is subjected to the full CPC image tests\", on several Azure instance sizes"),
    "vendor-proposed-run": (_VENDOR, "a successful run of their testsuite against the azure-proxy-agent that is in -proposed"),
    "testing-summary": (_CPC, "the summary of testing (`make sru-report` prints it) is attached to this bug"),
}


def steps():
    """All that somebody must attest: the steps above, and each combination that waits for the cloud."""
    return [*EXTERNAL, *(c.name for c in MATRIX if c.kernel is None)]
