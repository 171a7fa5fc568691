"""One machine in qemu: started or restored, asked to do things, kept, ended. It has no network card; what goes in and out are its
console, a port on which its driver takes commands (guest/driver), and a read-only disk with files."""

import base64
import json
import os
import select
import shlex
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import termios
import time
import tty
from pathlib import Path

PAYLOAD = 128 << 20  # The size of the second disk is part of a kept machine, so it is always the same.


class Gone(Exception):
    """The machine does not answer, or has ended."""


class Machine:
    def __init__(self, disk, kernel, payload, *, cpus=1, memory="1024M"):
        self.disk, self.kernel, self.payload = Path(disk), Path(kernel), Path(payload)
        self.cpus, self.memory = cpus, memory
        # Short names: a socket's must fit into 108 bytes.
        self.dir = Path(tempfile.mkdtemp(prefix="vm-"))
        self.console = self.dir / "console.log"
        self.qemu = self.port = self.below = None
        self.buffer, self.commands, self.boot_id = b"", 0, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def start(self, kept=None):
        """Boots, or goes on where a kept machine stopped."""
        below = self.below = Path(kept, "root.qcow2") if kept else Path(self.disk, "root.raw")
        kind = "qcow2" if kept else "raw"
        overlay = self.dir / "root.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", below.resolve(), "-F", kind, overlay], check=True)
        # With one processor its clock goes by what it has done, so that no deadline inside passes sooner because this machine is busy;
        # an idle one waits as long as it would. Linux does not start a second processor that way. More than one take turns: run side by
        # side, one executes what another (Linux 6.12) is just rewriting in its own code, and the kernel dies of it.
        clock = " -icount shift=3" if self.cpus == 1 else ""
        words = f"""
            -accel tcg,thread=single{clock} -cpu qemu64 -smp {self.cpus} -m {self.memory} -nodefaults -no-user-config -nic none -display none
            -rtc clock=vm -device virtio-rng-pci -device virtio-serial
            -drive file={overlay},if=virtio,cache=unsafe -drive file={self.payload},if=virtio,format=raw,readonly=on
            -chardev socket,id=driver,path={self.dir}/driver,server=on,wait=off -device virtserialport,chardev=driver,name=driver
            -qmp unix:{self.dir}/qmp,server=on,wait=off
            -kernel {self.kernel}/vmlinuz -initrd {self.kernel}/initrd
        """.split()
        # The agent's own limit of 15 % of a processor (FS-100) is set, and not enforced: an emulated processor is twenty times slower.
        # An emulated 6.12 sometimes crashes while it boots: then it boots again.
        command = "panic=1 oops=panic cgroup_disable=cpu console=ttyS0 mitigations=off rcupdate.rcu_expedited=1 systemd.show_status=0"
        words += ["-chardev", f"socket,id=console,path={self.dir}/console,server=on,wait=off,logfile={self.console}"]
        words += ["-serial", "chardev:console"]
        if kept:
            words += ["-incoming", f"exec:cat {shlex.quote(str(Path(kept, 'state').resolve()))}"]
        # A session of its own: Ctrl-C is for whoever runs this, or for the shell inside. It never outlives its parent.
        self.qemu = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", *words, "-append", command], stdin=subprocess.DEVNULL, start_new_session=True
        )
        self.port = self._connect("driver")
        if kept:
            self.boot_id = Path(kept, "boot_id").read_text()
            ask, end = self._monitor(), time.monotonic() + 60
            while ask("query-status")["status"] == "inmigrate":
                if time.monotonic() > end:
                    raise Gone("the kept machine does not come back")
                time.sleep(0.02)
            ask("cont")
        else:
            try:
                self.hello(300)
            except Gone as e:
                end = self.console.read_text(errors="replace")[-3000:] if self.console.exists() else ""
                raise Gone(f"{e}; the end of its console:\n{end}") from None

    def _connect(self, name, seconds=30):
        end = time.monotonic() + seconds
        while True:
            try:
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(str(self.dir / name))
                return connection
            except OSError:
                if time.monotonic() > end or self.qemu.poll() is not None:
                    raise Gone(f"qemu did not start: {self.qemu.poll()}") from None
                time.sleep(0.05)

    def _line(self, end):
        while b"\n" not in self.buffer:
            self.port.settimeout(max(0.01, end - time.monotonic()))
            try:
                more = self.port.recv(1 << 16)
            except TimeoutError:
                raise Gone("the machine does not answer in time") from None
            if not more:
                raise Gone("qemu has ended")
            self.buffer += more
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode().split(" ")

    def hello(self, seconds):
        """Waits until the driver of another boot says hello."""
        end = time.monotonic() + seconds
        while True:
            words = self._line(end)
            if words[0] == "hello" and words[1] != self.boot_id:
                self.boot_id = words[1]
                return

    def send(self, script, seconds):
        self.commands += 1
        self.port.settimeout(30)
        self.port.sendall(f"{self.commands} {seconds} {base64.b64encode(script.encode()).decode()}\n".encode())
        return str(self.commands)

    def run(self, script, seconds=60):
        """Runs a script as root; its exit status and what it printed."""
        number = self.send(script, seconds)
        end = time.monotonic() + seconds + 30
        while True:
            words = self._line(end)
            if words[0] == number:
                return int(words[1]), base64.b64decode(words[2]).decode(errors="replace")
            if words[0] == "hello" and words[1] != self.boot_id:
                self.boot_id = words[1]
                raise Gone("the machine was started again")

    def check(self, script, seconds=60):
        status, output = self.run(script, seconds)
        if status != 0:
            raise RuntimeError(f"exit status {status} of: {script}\n{output}")
        return output

    def _monitor(self):
        """Speaks with qemu itself (QMP)."""
        lines = self._connect("qmp").makefile("rw")

        def ask(execute, **arguments):
            lines.write(json.dumps({"execute": execute, "arguments": arguments}) + "\n")
            lines.flush()
            while True:
                answer = json.loads(lines.readline())
                if "error" in answer:
                    raise RuntimeError(answer["error"])
                if "return" in answer:
                    return answer["return"]

        lines.readline()
        ask("qmp_capabilities")
        return ask

    def keep(self, where):
        """Ends the machine and keeps it: disk and memory, to go on from any number of times."""
        where = Path(where)
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir(parents=True)
        ask = self._monitor()
        ask("stop")
        ask("migrate-set-parameters", **{"max-bandwidth": 10 << 30})
        ask("migrate", uri=f"exec:cat >{shlex.quote(str(where.resolve()))}/state")
        end = time.monotonic() + 120
        while (status := ask("query-migrate").get("status")) != "completed":
            if status == "failed" or time.monotonic() > end:
                raise RuntimeError(f"the machine cannot be kept: {status}")
            time.sleep(0.1)
        ask("quit")
        self.qemu.wait(30)
        shutil.move(self.dir / "root.qcow2", where / "root.qcow2")
        # It stands on the image below; by a relative path, so that all of them may be moved together.
        below, kind = os.path.relpath(self.below.resolve(), where.resolve()), "qcow2" if self.below.suffix == ".qcow2" else "raw"
        subprocess.run(["qemu-img", "rebase", "-q", "-u", "-b", below, "-F", kind, where / "root.qcow2"], check=True)
        (where / "boot_id").write_text(self.boot_id)

    def interact(self):
        """The terminal becomes the machine's console, until it is switched off or Ctrl-] is typed."""
        console = self._connect("console")
        terminal, keyboard = sys.stdin.isatty(), sys.stdin.fileno()
        before = termios.tcgetattr(keyboard) if terminal else None
        print("vm: a shell in the machine; Ctrl-] or poweroff ends it\r", flush=True)
        console.sendall(b"\n")
        try:
            if terminal:
                tty.setraw(keyboard)
            while self.qemu.poll() is None:
                ready, _, _ = select.select([console, keyboard], [], [], 1)
                if console in ready:
                    data = console.recv(65536)
                    if not data:
                        return
                    os.write(sys.stdout.fileno(), data)
                if keyboard in ready:
                    data = os.read(keyboard, 4096)
                    if not data or b"\x1d" in data:
                        return
                    console.sendall(data)
        finally:
            if before:
                termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
                print()

    def end(self):
        if self.qemu and self.qemu.poll() is None:
            self.qemu.kill()
            self.qemu.wait()
        if self.port:
            self.port.close()
        shutil.rmtree(self.dir, ignore_errors=True)


def pack(target, files):
    """A disk with `files` ({name inside: path}) as a tar archive; its length."""
    with tarfile.open(target, "w") as archive:
        for name, path in files.items():
            archive.add(path, name)
    if os.path.getsize(target) > PAYLOAD:
        raise RuntimeError("too much for the machine's second disk")
    size = os.path.getsize(target)
    os.truncate(target, PAYLOAD)
    return size
