"""The measuring half of `bench`: runs inside the sandbox, in whose network the platform's addresses are local.

Origin, peers and this program live in the sandbox's `host` cgroup, which no eBPF program is attached to; the daemons and,
for them, the load client live in its `vm` cgroup, where connections to the platform are redirected.
"""

import contextlib
import ctypes
import fcntl
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import time

IMDS, WIRESERVER = "169.254.169.254", "168.63.129.16"
LISTENER = ("127.0.0.1", 3080)
MARKER = "x-ms-azure-host-authorization"
PORTS = {"relay": 4001, "haproxy": 4011, "nginx": 4021, "haproxy-sign": 4031, "haproxy-reuse": 4041}
CLIENT = {  # arguments of hbench
    "ka1": ["-c", "1"],
    "ka8": ["-c", "8"],
    "ka64": ["-c", "64"],
    "close8": ["-c", "8", "-C"],
    "post64k": ["-c", "8", "-m", "POST", "-b", "65536"],
}
WARM_UP = 0.3
# After load, until memory is looked at. More than a daemon keeps idle threads. Seconds.
SETTLE = 7


class Failed(Exception):
    """A sentence about what did not work."""


def assert_private():
    """Nothing is sent to the platform's addresses unless they are ours and nothing but `lo` is up."""
    for address in [IMDS, WIRESERVER]:
        with socket.socket() as s:
            try:
                s.bind((address, 0))
            except OSError:
                sys.exit(f"inside: {address} is not an address of this network namespace; start this with `bench`")
    with socket.socket() as s:
        for _, name in socket.if_nameindex():
            # SIOCGIFFLAGS, IFF_UP
            flags = struct.unpack_from("16xH", fcntl.ioctl(s, 0x8913, struct.pack("16s16x", name.encode())))[0]
            if name != "lo" and flags & 1:
                sys.exit(f"inside: {name} is up here; start this with `bench`")


class Cgroups:
    def __init__(self):
        self.vm = os.environ["SANDBOX_CGROUP"]
        self.host = os.path.join(os.path.dirname(self.vm), "host")

    @staticmethod
    def enter(cgroup):
        pathlib.Path(cgroup, "cgroup.procs").write_text("0")


def family(pid):
    """A process and its children, as nginx has them."""
    pids = [pid]
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pids += family(int(child))
    return pids


def cpu_ns(pids):
    """User and system time of processes, all threads, the ended ones too. Their CPU clocks (see clock_getcpuclockid(3)),
    because the ticks of /proc/PID/stat are too coarse."""
    return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in pids)


def until(what, seconds, condition, pause=0.01):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(pause)


def accepts(address):
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(address) == 0


def get(address, path, host=None, headers=None):
    """One request; status, headers, body."""
    connection = http.client.HTTPConnection(*address, timeout=5)
    try:
        fields = {"Metadata": "true", **({"Host": host} if host else {}), **(headers or {})}
        connection.request("GET", path, headers=fields)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode()
    finally:
        connection.close()


def in_cgroup(cgroup, f, *args):
    """Calls `f` in a child that is in another cgroup; its result comes back as JSON."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            Cgroups.enter(cgroup)
            text = json.dumps({"ok": f(*args)})
        except BaseException as e:  # whatever it was, the parent shall know
            text = json.dumps({"error": str(e)})
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = json.loads(pipe.read() or '{"error": "no answer"}')
    os.waitpid(child, 0)
    if "error" in answer:
        raise Failed(answer["error"])
    return answer["ok"]


class Bench:
    def __init__(self, plan):
        self.plan = plan
        self.cgroups = Cgroups()
        self.directory = pathlib.Path(os.environ["SANDBOX_DIR"])
        self.scratch = pathlib.Path(plan["build"])
        (self.scratch / "run").mkdir()
        self.children = []

    # Processes

    def spawn(self, command, cgroup, **kwargs):
        def enter():
            Cgroups.enter(cgroup)
            # Entering takes tens of milliseconds now and then, which are not the program's.
            (self.scratch / "begun").write_text(str(time.monotonic()))

        with open(self.scratch / "output", "ab") as output:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                     preexec_fn=enter, **kwargs)
        self.children.append(child)
        return child

    def end(self, child, how=signal.SIGTERM):
        """Ends a process that we started; kills it if it does not want to."""
        if child.poll() is None:
            child.send_signal(how)
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(5)
        if child in self.children:
            self.children.remove(child)

    def end_all(self):
        for child in list(reversed(self.children)):
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self.end(child)

    def output(self):
        return (self.scratch / "output").read_text(errors="replace")[-2000:]

    def conf(self, name):
        text = pathlib.Path(self.plan["conf"], name).read_text()
        path = self.scratch / name
        path.write_text(text.replace("BENCHDIR", str(self.scratch)).replace("HOSTIMDS", self.plan["host_imds"]))
        return path

    def nginx(self, name):
        # -e: where the default error log is cannot be written on every system.
        return self.spawn(["nginx", "-e", "stderr", "-g", "daemon off; user root;", "-c", self.conf(name)], self.cgroups.host)

    def start_origin(self):
        self.nginx("origin-nginx.conf")
        until("the origin listens", 5, lambda: accepts((IMDS, 80)))

    def start_peer(self, name):
        if name == "relay":
            child = self.spawn([self.scratch / "relay", f"127.0.0.1:{PORTS[name]}={IMDS}:80"], self.cgroups.host)
        elif name == "nginx":
            child = self.nginx("proxy-nginx.conf")
        else:
            child = self.spawn(["haproxy", "-db", "-q", "-f", self.conf(f"{name}.cfg")], self.cgroups.host)
        until(f"{name} listens", 5, lambda: accepts(("127.0.0.1", PORTS[name])))
        status, headers, _ = get(("127.0.0.1", PORTS[name]), "/metadata/instance", host=IMDS)
        if status != 200 or MARKER in headers:
            raise Failed(f"{name} does not answer as a plain proxy")
        return child

    # The daemons

    def agent_config(self):
        config = {
            "logFolder": str(self.directory / "log"), "eventFolder": str(self.directory / "log" / "events"),
            "latchKeyFolder": str(self.directory / "state" / "keys"), "statusFolder": str(self.directory / "status"),
            "monitorIntervalInSeconds": 60, "pollKeyStatusIntervalInSeconds": 15, "hostGAPluginSupport": 1,
            "imdsSupport": 1, "wireServerSupport": 2, "ebpfProgramName": "ebpf_cgroup.o",
            "cgroupRoot": self.cgroups.vm, "fileLogLevel": self.plan["file_log_level"],
        }
        path = self.directory / "bench-agent.json"
        path.write_text(json.dumps(config))
        return path

    def start_agent(self, name, detach=True):
        """Starts a daemon; returns it and the times until it listened and until provisioning had finished, milliseconds."""
        program = self.plan["agents"][name]
        config = self.agent_config()
        if detach:
            self.detach(config)
        child = self.spawn([program, "--config", config, "--foreground"], self.cgroups.vm)
        begun = float((self.scratch / "begun").read_text())
        listening = self.agent_reaches(child, begun, listens)
        ready = self.agent_reaches(child, begun, provisioned)
        return child, listening, ready

    def detach(self, config):
        """As after a boot: nothing of a former daemon is in the kernel any more."""
        done = subprocess.run([self.plan["detach"], "detach", "--config", config], capture_output=True, text=True, check=False,
                              timeout=10, preexec_fn=lambda: Cgroups.enter(self.cgroups.vm))
        if done.returncode:
            raise Failed(f"detach: {done.stderr}")

    def agent_reaches(self, child, begun, state):
        while not state():
            if child.poll() is not None or time.monotonic() > begun + 20:
                raise Failed(f"{child.args[0]} is not ready (status {child.returncode}); it printed:\n{self.output()}")
            time.sleep(0.0005)
        return (time.monotonic() - begun) * 1000

    def verify_agent(self):
        """What is to be measured is the whole job: redirected by eBPF, signed, accepted by the host, marked."""

        def look():
            status, headers, body = get((IMDS, 80), "/bench/authorization")
            if status != 200 or MARKER not in headers:
                raise Failed(f"the answer to a redirected request does not carry {MARKER} (status {status})")
            if not re.fullmatch(r"Azure-HMAC-SHA256 [0-9a-fA-F-]{36} [0-9a-fA-F]{64}", body):
                raise Failed("the origin received no authorization from the agent")
            status, _, _ = get((IMDS, 80), "/metadata/versions")
            if status != 200:
                raise Failed(f"the simulated host, in enforce mode, refused the signature: {status}")

        in_cgroup(self.cgroups.vm, look)
        # The same question, around the agent: the probe would notice a missing signature.
        status, headers, body = get((IMDS, 80), "/bench/authorization")
        if MARKER in headers or body:
            raise Failed("the probe is no proof: without the agent it answers the same")
        if get((IMDS, 80), "/metadata/versions")[0] < 400:
            raise Failed("the probe is no proof: the simulated host serves unsigned requests")

    # Turns

    def load(self, name, scenario, seconds):
        agent = name in self.plan["agents"]
        address = f"{IMDS}:80" if agent else f"127.0.0.1:{PORTS[name]}"
        cgroup = self.cgroups.vm if agent else self.cgroups.host
        command = [self.scratch / "hbench", "-a", address, "-d", str(seconds), "-w", str(WARM_UP), *CLIENT[scenario]]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 15,
                              preexec_fn=lambda: Cgroups.enter(cgroup))
        if done.returncode:
            raise Failed(f"hbench: status {done.returncode}: {done.stderr}")
        return json.loads(done.stdout)

    def turn(self, name, process, scenario):
        pids = family(process.pid)
        before = cpu_ns(pids)
        client = self.load(name, scenario, self.plan["seconds"])
        # The client's connections are being closed: that belongs to the run.
        time.sleep(0.05)
        spent = cpu_ns(pids) - before
        if client["bad"] or client["conerr"] or set(client["codes"]) != {"200"} or not client["total"]:
            raise Failed(f"not every request was answered with 200: {client}")
        return {"us": spent / 1000 / client["total"], "rps": client["rps"], "p50": client["p50"], "p99": client["p99"],
                "requests": client["total"], "reconnected": client["reconn"]}

    def run_turns(self):
        plan, turns = self.plan, []
        # Each is started for its turn: the daemons share a port, and no proxy shall work while another waits beside it.
        for number in range(1, plan["rounds"] + 1):
            for scenario in plan["scenarios"]:
                for name in plan["proxies"]:
                    entry = {"round": number, "scenario": scenario, "proxy": name}
                    process = None
                    try:
                        if name in plan["agents"]:
                            process, _, _ = self.start_agent(name)
                            self.verify_agent()
                        else:
                            process = self.start_peer(name)
                        entry.update(self.turn(name, process, scenario))
                    except (Failed, OSError, subprocess.TimeoutExpired, http.client.HTTPException) as e:
                        entry["why"] = str(e)
                    finally:
                        if process:
                            self.end(process)
                    turns.append(entry)
                    if sys.stderr.isatty():
                        text = f"\rround {number}/{plan['rounds']}: {scenario}, {name}"
                        print(text.ljust(60), end="", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
        return turns

    # Footprint

    def waited(self, name):
        """How long after readiness a `--status --wait` that was there before the daemon returns, milliseconds."""
        self.detach(self.agent_config())
        client = self.spawn([self.plan["agents"][name], "--status", "--wait", "20"], self.cgroups.vm)
        child, _, _ = self.start_agent(name, detach=False)
        ready = time.monotonic()
        status = client.wait(20)
        waited = (time.monotonic() - ready) * 1000
        self.children.remove(client)
        self.end(child)
        if status:
            raise Failed(f"--status --wait: exit code {status}")
        return waited

    def starts(self, name):
        """Of all daemons before any load: the thousands of connections that load leaves behind make looking for the listener slow."""
        facts = {key: [] for key in ["listening_ms", "ready_ms", "restart_ms", "first_ready_ms", "wait_ms"]}
        for _ in range(self.plan["starts"]):
            for old in (self.directory / "state" / "keys").glob("*"):
                old.unlink()
            child, _, ready = self.start_agent(name)
            facts["first_ready_ms"].append(ready)
            self.end(child)
        for _ in range(self.plan["starts"]):
            child, listening, ready = self.start_agent(name)
            facts["listening_ms"].append(listening)
            facts["ready_ms"].append(ready)
            self.end(child, signal.SIGKILL)
            child, _, ready = self.start_agent(name, detach=False)
            facts["restart_ms"].append(ready)
            facts["restart_peak"] = memory(child.pid)["VmHWM"]
            self.end(child)
            facts["wait_ms"].append(self.waited(name))
        return facts

    def footprint(self, name, facts):
        child, _, _ = self.start_agent(name)
        self.verify_agent()
        # Memory is looked at when nothing moves any more; what start and load leave behind has had time to go.
        time.sleep(1)
        idle = cpu_ns([child.pid]), time.monotonic()
        time.sleep(self.plan["idle_seconds"])
        facts["idle_ms_per_second"] = (cpu_ns([child.pid]) - idle[0]) / 1e6 / (time.monotonic() - idle[1])
        facts["before"] = memory(child.pid)
        for scenario, seconds in [("ka64", 1), ("close8", 1), ("post64k", 1)]:
            self.load(name, scenario, seconds)
        time.sleep(SETTLE)
        facts["after"] = memory(child.pid)
        self.end(child)


def listens():
    """Whether somebody listens on the agent's port; looked up, because a connection would give the agent work."""
    wanted = "0100007F:{:04X}".format(LISTENER[1])
    with open("/proc/self/net/tcp") as table:
        return any(line.split()[1] == wanted and line.split()[3] == "0A" for line in table)


def provisioned():
    """As `--status` asks (CLI-05), without starting a process each time."""
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        status, _, body = get(LISTENER, "/provision", headers={"x-ms-azure-time-tick": "0"})
        state = json.loads(body) if status == 200 else {}
        if state.get("finished") and state.get("errorMessage"):
            raise Failed(f"provisioning failed: {state['errorMessage']}")
        return bool(state.get("finished"))
    return False


def memory(pid):
    """KiB of proc_pid_status(5) and smaps_rollup, and of the eBPF maps that its programs use."""
    facts = {}
    for file in ["status", "smaps_rollup"]:
        for line in pathlib.Path(f"/proc/{pid}/{file}").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in ["VmRSS", "RssAnon", "RssFile", "VmHWM", "Threads", "Pss"]:
                facts[key] = int(value.split()[0])
    infos = [fields(entry) for entry in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir()]
    facts["fds"] = len(infos)
    maps = {map_id for info in infos if "prog_id" in info for map_id in maps_of(int(info["prog_id"]))}
    facts["bpf_maps"] = sum(map_bytes(map_id) for map_id in maps) / 1024
    return facts


def fields(entry):
    # A descriptor may be closed while we look.
    with contextlib.suppress(FileNotFoundError):
        return dict(line.split(":", 1) for line in entry.read_text().splitlines() if ":" in line)
    return {}


def bpf(command, attributes):
    """bpf(2). Python has no wrapper; the daemon keeps no descriptor of maps that only its programs use."""
    text = ctypes.create_string_buffer(attributes, 128)
    result = ctypes.CDLL(None, use_errno=True).syscall({"x86_64": 321}.get(os.uname().machine, 280), command, text, 128)
    if result < 0:
        raise Failed(f"bpf command {command}: {os.strerror(ctypes.get_errno())}")
    return result


def maps_of(program):
    fd = bpf(13, struct.pack("I", program))  # BPF_PROG_GET_FD_BY_ID
    try:
        ids = (ctypes.c_uint32 * 64)()
        # struct bpf_prog_info: nr_map_ids at 52, map_ids at 56.
        info = ctypes.create_string_buffer(struct.pack("52xIQ", 64, ctypes.addressof(ids)), 64)
        bpf(15, struct.pack("IIQ", fd, 64, ctypes.addressof(info)))  # BPF_OBJ_GET_INFO_BY_FD
        return list(ids)[:struct.unpack_from("52xI", info.raw)[0]]
    finally:
        os.close(fd)


def map_bytes(map_id):
    fd = bpf(14, struct.pack("I", map_id))  # BPF_MAP_GET_FD_BY_ID
    try:
        return int(fields(pathlib.Path(f"/proc/self/fdinfo/{fd}"))["memlock"])
    finally:
        os.close(fd)


def main():
    plan = json.loads(pathlib.Path(sys.argv[1]).read_text())
    assert_private()
    for number in [signal.SIGTERM, signal.SIGINT]:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    bench = Bench(plan)
    Cgroups.enter(bench.cgroups.host)
    result = {"plan": plan, "verified": "no daemon measured", "footprint": {}, "turns": [],
              "load": [round(os.getloadavg()[0], 1)]}
    try:
        bench.start_origin()
        for name in plan["agents"]:
            child, _, _ = bench.start_agent(name)
            bench.verify_agent()
            bench.end(child)
            result["verified"] = "every request redirected by eBPF, signed, marked: verified before each turn"
        if plan["footprint"]:
            result["footprint"] = {name: bench.starts(name) for name in plan["agents"]}
            for name, facts in result["footprint"].items():
                bench.footprint(name, facts)
        result["turns"] = bench.run_turns()
        result["load"].append(round(os.getloadavg()[0], 1))
        pathlib.Path(plan["result"]).write_text(json.dumps(result))
    except Failed as e:
        print(f"inside: {e}", file=sys.stderr)
        sys.exit(1)
    finally:
        bench.end_all()


if __name__ == "__main__":
    main()
