"""load.py STOP USER: six clients that ask all the time until the file STOP exists: four as USER at IMDS, two as root at the WireServer;
half of them with a connection for each request, half with one for several. Prints how it went as JSON; a request is lost if it did not
get its answer with status 200.

A connection that the agent closes between two requests is no loss (RFC 9112, 9.3.1: the client asks again on a new one), and counts
as `again`."""

import json
import os
import pwd
import socket
import sys
import time

STOP, USER = sys.argv[1:]
IMDS, WIRESERVER = ("169.254.169.254", 80), ("168.63.129.16", 80)


def client(name, user, to, target, carry, out):
    if user != "root":
        account = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    told = {"served": 0, "lost": 0, "again": 0, "longest": 0.0, "why": []}
    number, connection, carried = 0, None, 0
    while not os.path.exists(STOP):
        number += 1
        request = f"GET {target}&by={name}-{number} HTTP/1.1\r\nHost: h\r\nMetadata: true\r\nx-ms-version: 2012-11-30\r\n\r\n".encode()
        since = time.monotonic()
        for attempt in (1, 2):
            reused = connection is not None
            stage = "connect"
            try:
                if not reused:
                    connection, carried = socket.create_connection(to, 60), 0
                    connection.settimeout(60)
                stage = "send"
                connection.sendall(request)
                stage = "wait"
                status = answer(connection)
                if status is None:
                    raise ConnectionResetError("closed before the answer")
                if status != 200:
                    raise ValueError(f"status {status}")
                told["served"] += 1
                carried += 1
                if carried >= carry:
                    connection.close()
                    connection = None
                break
            except (OSError, ValueError) as e:
                if connection is not None:
                    connection.close()
                connection = None
                if reused and attempt == 1 and isinstance(e, (ConnectionError, BrokenPipeError)):
                    told["again"] += 1
                    continue
                told["lost"] += 1
                told["why"].append(f"{name}-{number} {stage}: {e!r}")
                break
        told["longest"] = max(told["longest"], round(time.monotonic() - since, 2))
        # An emulated processor is slow, and the agent may have 15 % of one (FS-100).
        time.sleep(0.5)
    out.write(json.dumps(told).encode() + b"\n")
    out.flush()


def answer(connection):
    """Reads one answer to its end; its status, None if there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            if data:
                raise ValueError("an answer that ends early")
            return None
        data += more
    head, body = data.split(b"\r\n\r\n", 1)
    lines = head.decode().split("\r\n")
    length = next((int(l.split(":")[1]) for l in lines if l.lower().startswith("content-length:")), 0)
    while len(body) < length:
        more = connection.recv(65536)
        if not more:
            raise ValueError("an answer that ends early")
        body += more
    return int(lines[0].split(" ")[1])


def main():
    children = []
    for n in range(6):
        user, to, target = (
            ("root", WIRESERVER, "/machine/?comp=goalstate") if n >= 4 else (USER, IMDS, "/metadata/instance?api-version=2021-02-01")
        )
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            client(f"client{n}", user, to, target, 1 if n % 2 else 5, os.fdopen(writing, "wb"))
            os._exit(0)
        os.close(writing)
        children.append((pid, os.fdopen(reading, "rb")))
    total = {"served": 0, "lost": 0, "again": 0, "longest": 0.0, "why": []}
    for pid, reading in children:
        told = json.loads(reading.read())
        os.waitpid(pid, 0)
        for name in ("served", "lost", "again"):
            total[name] += told[name]
        total["longest"] = max(total["longest"], told["longest"])
        total["why"] += told["why"][:5]
    print(json.dumps(total))


main()
