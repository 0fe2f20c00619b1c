"""What a job must not reach: the host's files, keys, processes, network and sockets."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio

if TYPE_CHECKING:
    from conftest import Bench

pytestmark = pytest.mark.sandbox

ATTEMPTS = """
import ctypes, fcntl, json, os, socket, stat, subprocess, sys
PORT, ABSTRACT, SECRET, DATA = json.loads(sys.argv[1])
reached, failed = {}, []

def attempt(name, act):
    try:
        result = act()
    except BaseException as exc:
        failed.append(name)
    else:
        if result in (None, False, [], b"", ""):
            failed.append(name)
        else:
            reached[name] = repr(result)[:200]

def read(path):
    with open(path, "rb") as file:
        return file.read(4000)

def connect(family, address):
    sock = socket.socket(family)
    sock.settimeout(2)
    sock.connect(address)
    return True

def write(path):
    with open(path, "w") as file:
        file.write("x")
    return True

attempt("shadow", lambda: read("/etc/shadow"))
attempt("secret file", lambda: read(SECRET))
attempt("data folder", lambda: os.listdir(DATA))
attempt("root's home", lambda: [n for n in os.listdir("/root") if n not in (".pyenv",)])
attempt("home", lambda: os.listdir("/home"))
attempt("process 1's environment", lambda: read("/proc/1/environ"))
attempt("other processes", lambda: [p for p in os.listdir("/proc") if p.isdigit() and int(p) > 100])
attempt("loopback", lambda: connect(socket.AF_INET, ("127.0.0.1", PORT)))
attempt("internet", lambda: connect(socket.AF_INET, ("192.0.2.1", 80)))
attempt("names", lambda: socket.getaddrinfo("example.com", 80))
attempt("abstract socket", lambda: connect(socket.AF_UNIX, "\\0" + ABSTRACT))
attempt("vsock", lambda: socket.socket(40, socket.SOCK_STREAM))
attempt("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("write /usr", lambda: write("/usr/bin/x"))
attempt("write /", lambda: write("/x"))
attempt("write /etc", lambda: write("/etc/x"))
attempt("write the environment", lambda: write("/env/base/x"))
attempt("write the parts", lambda: write("/env/parts/chisel/x.py"))
attempt("write the interpreter", lambda: write(os.__file__))
attempt("mknod", lambda: os.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(254, 0)) is None)
attempt("core_pattern", lambda: write("/proc/sys/kernel/core_pattern"))
attempt("sysrq", lambda: write("/proc/sysrq-trigger"))
attempt("dmesg", lambda: ctypes.CDLL(None).klogctl(3, ctypes.create_string_buffer(100), 100) > 0)
attempt("mount", lambda: subprocess.run(["mount", "-t", "tmpfs", "x", "/tmp"], capture_output=True).returncode == 0)
attempt("user namespace", lambda: subprocess.run(["unshare", "-U", "true"], capture_output=True).returncode == 0)
attempt("TIOCSTI", lambda: fcntl.ioctl(0, 0x5412, b"x"))
attempt("own oom score", lambda: write("/proc/self/oom_score_adj"))
attempt("descriptors", lambda: [
    (n, os.readlink(f"/proc/self/fd/{n}")) for n in os.listdir("/proc/self/fd")
    if int(n) > 2 and os.path.exists(f"/proc/self/fd/{n}")
    and not os.readlink(f"/proc/self/fd/{n}").startswith("/proc/")])
attempt("descriptors of process 1", lambda: [
    (n, os.readlink(f"/proc/1/fd/{n}")) for n in os.listdir("/proc/1/fd")
    if "memfd" in os.readlink(f"/proc/1/fd/{n}")])
attempt("setuid programs", lambda: os.geteuid() == 0 or subprocess.run(["su", "-c", "id"], capture_output=True, timeout=5, stdin=subprocess.DEVNULL).stdout)
attempt("signal everything", lambda: [p for p in range(2, 400) if p != os.getpid() and not os.kill(p, 0)])
print(json.dumps([reached, failed]))
"""


async def test_a_job_reaches_nothing_of_the_host(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROBOCOMPUTE_TEST_SECRET", "in the daemon's environment")
    secret = bench.data / "node.key"
    secret.write_text("KEY")
    secret.chmod(0o644)
    abstract = f"robocompute-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as hidden:
        hidden.bind("\0" + abstract)
        hidden.listen()
        aims = json.dumps([server.getsockname()[1], abstract, str(secret), str(bench.data)])
        end, records = await bench.run(("python", "-c", ATTEMPTS, aims))
    assert end.exit_code == 0, records
    reached, failed = json.loads(records[-1].data)
    assert reached == {}
    assert len(failed) == 31


async def test_no_variable_of_the_daemon_is_in_any_environment_inside(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ROBOCOMPUTE_TEST_SECRET", "hush")
    code = """
import glob
for path in glob.glob("/proc/[0-9]*/environ"):
    assert b"hush" not in open(path, "rb").read(), path
"""
    end, records = await bench.run(("python", "-c", code))
    assert end.exit_code == 0, records


async def test_a_job_cannot_forge_its_own_end(bench: Bench):
    code = """
import os
for number in os.listdir("/proc/1/fd"):
    try:
        fd = os.open(f"/proc/1/fd/{number}", os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, b'{"child-pid": 1, "exit-code": 0}\\n' * 100)
    except OSError:
        pass
os._exit(9)
"""
    with trio.fail_after(20):
        end, _ = await bench.run(("python", "-c", code))
    assert end.exit_code == 9


async def test_two_jobs_do_not_see_each_other(bench: Bench):
    code = "import os, time; open('/tmp/mine', 'w'); print('up'); time.sleep(60)"
    first = await bench.begin(("python", "-c", code))
    await bench.said(first, b"up")
    look = "import os; print(os.listdir('/tmp'), sorted(p for p in os.listdir('/proc') if p.isdigit()))"
    _, records = await bench.run(("python", "-c", look))
    assert records[0].data == b"[] ['1', '2']"
