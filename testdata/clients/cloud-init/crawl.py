"""What cloud-init does with the agent: its own data source for Azure, unchanged, on one walk through the metadata.

Runs inside the sandbox, with cloud-init's modules in PYTHONPATH and the agent, or nothing, in PATH. Ours is only what a machine would
have: an id, the provisioning media that ask for the agent, a network that is up without DHCP, and a pool file for Hyper-V's key-value
pairs, in which the host finds reports. Prints what cloud-init knew at the end, reported, and logged.
"""

import json
import logging
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from cloudinit import distros, dmi, helpers
from cloudinit.reporting import handlers, instantiated_handler_registry
from cloudinit.sources import DataSourceAzure as azure
from cloudinit.version import version_string

OVF = """<?xml version="1.0" encoding="utf-8"?>
<ns0:Environment xmlns:ns0="http://schemas.dmtf.org/ovf/environment/1"
    xmlns:ns1="http://schemas.microsoft.com/windowsazure">
  <ns1:ProvisioningSection>
    <ns1:Version>1.0</ns1:Version>
    <ns1:LinuxProvisioningConfigurationSet>
      <ns1:ConfigurationSetType>LinuxProvisioningConfiguration</ns1:ConfigurationSetType>
      <ns1:HostName>from-the-media</ns1:HostName>
      <ns1:UserName>somebody</ns1:UserName>
    </ns1:LinuxProvisioningConfigurationSet>
  </ns1:ProvisioningSection>
  <ns1:PlatformSettingsSection>
    <ns1:Version>1.0</ns1:Version>
    <ns1:PlatformSettings>
      <ns1:PreprovisionedVm>false</ns1:PreprovisionedVm>
      <ns1:ProvisionGuestProxyAgent>%s</ns1:ProvisionGuestProxyAgent>
    </ns1:PlatformSettings>
  </ns1:PlatformSettingsSection>
</ns0:Environment>
"""


class Machine(azure.DataSourceAzure):
    """A machine whose network is up; cloud-init would ask for a lease first."""

    def _setup_ephemeral_networking(self, **_):
        self._ephemeral_dhcp_ctx = SimpleNamespace(lease={"interface": "lo"}, iface="lo", clean_network=lambda: None)
        self._route_configured_for_imds = self._route_configured_for_wireserver = True


class Log(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(f"{record.levelname}: {record.getMessage()}")


def key_values(pool):
    """The records of a key-value pool file: fixed sizes, padded with zeros."""
    size = handlers.HyperVKvpReportingHandler.HV_KVP_RECORD_SIZE
    data = pool.read_bytes()
    for at in range(0, len(data), size):
        key, value = data[at : at + 512], data[at + 512 : at + size]
        yield key.rstrip(b"\0").decode(), value.rstrip(b"\0").decode()


def main(directory, asks):
    directory = Path(directory)
    paths = helpers.Paths({"cloud_dir": str(directory / "cloud"), "run_dir": str(directory / "run")})
    media = Path(paths.seed_dir, "azure")
    media.mkdir(parents=True)
    (media / "ovf-env.xml").write_text(OVF % asks)
    pool = directory / "kvp_pool"
    pool.touch()
    dmi.read_dmi_data = {"system-uuid": "6f3c9a54-2b1e-4d7c-9f08-5a1be27c4d90"}.get
    log = Log()
    logging.getLogger().addHandler(log)
    logging.getLogger().setLevel(logging.DEBUG)
    kvp = handlers.HyperVKvpReportingHandler(kvp_file_path=str(pool))
    instantiated_handler_registry.register_item("telemetry", kvp)
    # Beside the media, it also keeps what it found the last time in a directory of the machine: not here.
    settings = {"datasource": {"Azure": {"data_dir": str(directory / "waagent")}}}
    source = Machine(settings, distros.fetch("debian")("debian", {}, paths), paths)
    since = time.monotonic()
    crawled = source.crawl_metadata()
    took = time.monotonic() - since
    kvp.flush()
    compute = crawled["metadata"]["imds"].get("compute", {})
    json.dump(
        {
            "cloudInit": version_string(),
            "took": took,
            "vmId": compute.get("vmId"),
            "reports": [value for key, value in key_values(pool) if key == "PROVISIONING_REPORT"],
            "log": log.lines,
        },
        sys.stdout,
    )


main(*sys.argv[1:])
