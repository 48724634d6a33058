"""Every peer as a context manager: started from what is installed, in its own directory, ended by its process id."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from attrs import define
from tests.redis_servers import CHANNEL, RedisServer, eventually, free_port, redis_server

GRACE: Final = 20.0  # seconds for a peer to end


@define(eq=False)
class Peer:
    """Something that takes lines on a Unix socket, and its process."""

    name: str
    socket: str
    process: subprocess.Popen[bytes]
    acks: bool = False
    http: int = 0

    def cpu(self) -> float:
        """Return the processor seconds that it and its workers have used, all threads and modes."""
        return sum(_cpu(pid) for pid in self._family())

    def rss(self) -> float:
        """Return the resident memory of it and its workers in MB."""
        return sum(_rss(pid) for pid in self._family())

    def _family(self) -> list[int]:
        pid = self.process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def status(self) -> Any:
        """Return /status."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/status") as answer:
            return json.load(answer)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


@contextmanager
def directory() -> Iterator[Path]:
    """Return a new directory with a short name, on the disk that temporary files are on."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        yield Path(name)


@contextmanager
def process(command: Sequence[str], log: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program; its output goes to a file."""
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | env)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def connectable(path: Path) -> bool:
    """Return whether something listens at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def listening(port: int) -> bool:
    """Return whether something listens at a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def a_redis() -> Iterator[RedisServer]:
    """Run a Redis on a loopback port that saves nothing and never cuts a subscriber off."""
    with redis_server("redis-system", "--client-output-buffer-limit", "pubsub 0 0 0", tcp=True) as server:
        yield server


@contextmanager
def ours(redis: RedisServer | None, **settings: str) -> Iterator[Peer]:
    """Run synceventsd with fsync and HTTP on; `settings` are those of the environment, without their prefix."""
    port = free_port()
    with directory() as home:
        env = {"REDIS_BACKLOG_RATE": "0", "LOGGING_LEVEL": "warning"} | settings
        url = "none" if redis is None else f"redis://127.0.0.1:{redis.port}/0"
        command = [sys.executable, "-m", "synceventsd", "run", "--socket", str(home / "s"), "--state-dir"]
        command += [settings.get("state", str(home / "state")), "--redis-url", url, "--http", f"127.0.0.1:{port}"]
        prefixed = {f"SYNCEVENTSD_{key}": value for key, value in env.items() if key != "state"}
        with process(command, home / "log", **prefixed) as child:
            eventually(lambda: listening(port), "synceventsd serves")
            yield Peer("synceventsd", str(home / "s"), child, acks=True, http=port)


RSYSLOG: Final = """\
global(workDirectory="{home}" maxMessageSize="256k")
main_queue(queue.type="{queue}" queue.filename="main" queue.maxDiskSpace="8g" queue.size="2000000"
  queue.dequeueBatchSize="1024")
module(load="imptcp")
module(load="omhiredis")
template(name="raw" type="string" string="%rawmsg%")
input(type="imptcp" path="{home}/s")
action(type="omhiredis" server="127.0.0.1" serverport="{port}" mode="publish" key="{channel}" template="raw")
"""


@contextmanager
def rsyslog(redis: RedisServer, queue: str = "Disk") -> Iterator[Peer]:
    """Run rsyslog: `imptcp` on a Unix socket, one main queue, `omhiredis`. It syncs and acknowledges nothing."""
    with directory() as home:
        conf = home / "conf"
        conf.write_text(RSYSLOG.format(home=home, queue=queue, port=redis.port, channel=CHANNEL))
        command = ["/usr/sbin/rsyslogd", "-n", "-f", str(conf), "-i", str(home / "pid")]
        with process(command, home / "log") as child:
            eventually(lambda: (home / "s").exists() and connectable(home / "s"), (home / "log").read_text)
            yield Peer(f"rsyslog {queue}", str(home / "s"), child)


SYSLOG_NG: Final = """\
@version: 3.38
options {{ log-fifo-size(2000000); stats-freq(0); }};
source s {{ unix-stream("{home}/s" flags(no-parse) log-iw-size(100000) log-fetch-limit(1000) log-msg-size(262144)); }};
destination d {{ redis(host("127.0.0.1") port({port}) command("PUBLISH", "{channel}", "${{MESSAGE}}")
  disk-buffer(dir("{home}/buffer") reliable(yes) disk-buf-size(8589934592) mem-buf-size(67108864))); }};
log {{ source(s); destination(d); flags(flow-control); }};
"""


def syslog_ng_root() -> Path | None:
    """Return where syslog-ng is unpacked: as a package it conflicts with rsyslog, so it is not installed."""
    root = Path(os.environ.get("SYSLOG_NG_ROOT", Path.home() / ".cache/synceventsd-benchmarks/syslog-ng"))
    if not (root / "usr/sbin/syslog-ng").exists() and shutil.which("apt-get"):
        _unpack_syslog_ng(root)
    return root if (root / "usr/sbin/syslog-ng").exists() else None


def _unpack_syslog_ng(root: Path) -> None:
    packages = [
        "syslog-ng-core",
        "syslog-ng-mod-redis",
        "libivykis0",
        "libnet1",
        "libhiredis0.14",
        "libjson-c5",
        "libwrap0",
        "libpcre3",
    ]
    with directory() as home:
        found = subprocess.run(["apt-get", "download", "-q", *packages], cwd=home, capture_output=True, check=False)
        root.mkdir(parents=True, exist_ok=True)
        if found.returncode == 0:
            for package in home.glob("*.deb"):
                subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)


@contextmanager
def syslog_ng(redis: RedisServer) -> Iterator[Peer]:
    """Run syslog-ng: a Unix socket, a reliable disk buffer, `redis()`. It syncs and acknowledges nothing."""
    root = syslog_ng_root()
    assert root is not None
    with directory() as home:
        conf = home / "conf"
        conf.write_text(SYSLOG_NG.format(home=home, port=redis.port, channel=CHANNEL))
        libraries = root / "usr/lib/x86_64-linux-gnu"
        command = [str(root / "usr/sbin/syslog-ng"), "-F", "--no-caps", "-f", str(conf), "-R", str(home / "persist")]
        command += [
            "-p",
            str(home / "pid"),
            "-c",
            str(home / "ctl"),
            "--module-path",
            str(root / "usr/lib/syslog-ng/3.38"),
        ]
        env = {"LD_LIBRARY_PATH": f"{root / 'lib/x86_64-linux-gnu'}:{libraries}:{root / 'usr/lib/syslog-ng'}"}
        (home / "buffer").mkdir()
        with process(command, home / "log", **env) as child:
            eventually(lambda: (home / "s").exists() and connectable(home / "s"), (home / "log").read_text)
            yield Peer("syslog-ng", str(home / "s"), child)


NCHAN: Final = """\
load_module /usr/lib/nginx/modules/ngx_nchan_module.so;
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
error_log {home}/error.log;
pid {home}/pid;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 10000000;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  nchan_max_reserved_memory 512M;
  server {{
    listen 127.0.0.1:{port};
    location /pub {{ nchan_publisher; nchan_channel_id one; nchan_message_buffer_length 10000; }}
    location /sub {{ nchan_subscriber eventsource; nchan_channel_id one; nchan_subscriber_first_message newest; }}
  }}
}}
"""


@contextmanager
def nchan() -> Iterator[Peer]:
    """Run nginx with nchan: one worker, messages in memory, published with POST /pub, read at /sub."""
    port = free_port()
    with directory() as home:
        home.chmod(0o755)
        conf = home / "conf"
        conf.write_text(NCHAN.format(home=home, port=port))
        with process(["/usr/sbin/nginx", "-p", str(home), "-c", str(conf)], home / "log") as child:
            eventually(lambda: listening(port), "nginx serves")
            yield Peer("nchan", "", child, http=port)


@contextmanager
def sse_starlette() -> Iterator[Peer]:
    """Run sse-starlette on uvicorn with uvloop: a queue for each reader, published with POST /pub, read at /sub."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.benchmarks.starlette_app:app", "--port", str(port)]
    command += ["--loop", "uvloop", "--log-level", "warning"]
    with directory() as home, process(command, home / "log") as child:
        eventually(lambda: listening(port), (home / "log").read_text)
        yield Peer("sse-starlette", "", child, http=port)
