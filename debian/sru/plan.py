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
    "downgrade": "the way back: the old package over the new one",
    "purge": "nothing is left behind",
    "no-host": "outside Azure: idle and quiet",
    "reboot": "the machine comes back as it was",
    "old-kernel-fallback": "a kernel that lacks what newer ones have",
}

#: What the pre-update cases are, in their order.
PRE_UPDATE = ("upgrade-from-previous", "service-running", "authorized-call", "unauthorized-call")


@dataclasses.dataclass(frozen=True)
class Combination:
    """One "representative combination of supported architectures, image types and machine sizes"."""

    architecture: str
    image: str
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
        return f"{self.architecture}/{self.image}/{self.size}"


_ALL = tuple(CASES)
MATRIX = (
    Combination("amd64", "bookworm-cloud-6.1", "standard", "6.1", 2, "1024M", _ALL),
    Combination("amd64", "bookworm-cloud-6.1", "small", "6.1", 1, "512M", PRE_UPDATE),
    Combination("amd64", "backports-cloud-6.12", "standard", "6.12", 2, "1024M", PRE_UPDATE + ("first-boot", "reboot")),
    Combination("amd64", "bullseye-cloud-5.10", "standard", "5.10", 2, "1024M", PRE_UPDATE + ("old-kernel-fallback",)),
    Combination("amd64", "noble-azure", "standard", None, 2, "4G", _ALL, "an Ubuntu image with the azure kernel is built from -proposed in the cloud"),
    Combination("amd64", "noble-azure", "large", None, 64, "256G", PRE_UPDATE, "a machine of that size exists only in the cloud"),
    Combination("amd64", "noble-azure-fips", "standard", None, 2, "4G", PRE_UPDATE, "FIPS images need the cloud's archive"),
    Combination("amd64", "noble-confidential", "standard", None, 2, "8G", PRE_UPDATE, "confidential virtual machines need the hardware"),
    Combination("arm64", "noble-azure", "standard", None, 2, "4G", _ALL, "arm64 is cross-built here, but no arm64 machine is booted"),
)

#: Steps that people take elsewhere; `make sru-attest` writes down that they did.
EXTERNAL = {
    "vendor-addresses-issues": "the vendor's team validates \"that the new package addresses the issues it is expected to address\"",
    "vendor-image-validation": "the vendor's team validates \"that the new package passes their internal image validation\"",
    "vendor-proposed-run": "the vendor's run of its test suite against the agent that is in -proposed",
    "cloud-image-tests": "\"the automated testing that the CPC team normally runs against Azure images\", against the -proposed package",
    "devel-proposed": "\"built in devel-proposed and tested on the target suite\"; then the block-proposed tag is removed",
    "proposed-image": "\"a test image is built from -proposed\" and subjected to the full image tests on several instance sizes",
    "testing-summary": "the summary of testing (`make sru-report` prints it) is attached to the bug",
}
