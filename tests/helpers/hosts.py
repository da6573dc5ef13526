"""Hosts made of Linux namespaces: each has a name, network interfaces and addresses of its own.

All hosts see the file system, which stands for a cluster's shared storage, but for folders that are hidden from them.
Two networks join them, ``eth0`` and ``eth1``: what goes over one is not counted on the other. Bridges and interfaces
live in namespaces only, so that nothing of the machine's own network changes and removing the namespaces removes all.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

NETWORKS = ("eth0", "eth1")


@dataclass(frozen=True)
class Host:
    """One host: its name, the namespace it is made of, and its address in each network."""

    name: str
    namespace: str
    addresses: dict[str, str]

    def command(self, command: Sequence[str], hosts_file: Path, hidden: Sequence[Path]) -> list[str]:
        """A command line that runs on this host; ``hidden`` folders are empty there."""
        mounts = [f"mount --bind {hosts_file} /etc/hosts", *(f"mount -t tmpfs none {folder}" for folder in hidden)]
        inside = " && ".join([f"hostname {self.name}", *mounts, 'exec "$@"'])
        own_names = ["unshare", "--uts", "--mount", "sh", "-c", inside, "sh"]
        return ["ip", "netns", "exec", self.namespace, *own_names, *command]

    def bytes_sent(self, network: str) -> int:
        """What left this host through an interface so far."""
        path = f"/sys/class/net/{network}/statistics/tx_bytes"
        return int(_run("ip", "netns", "exec", self.namespace, "cat", path))


def why_not() -> str | None:
    """The reason why no hosts can be made here; None where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "unshare"):
        if not shutil.which(tool):
            return f"network namespaces need the command {tool}"
    name = f"ubp{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"network namespaces are not allowed here: {tried.stderr.strip()}"
    _run("ip", "netns", "delete", name)
    return None


@contextmanager
def made_hosts(*names: str) -> Iterator[dict[str, Host]]:
    """Hosts of these names until the block ends, when whatever runs on them is killed."""
    prefix = f"ubp{os.getpid()}"
    switch = f"{prefix}-switch"
    hosts = {
        name: Host(name, f"{prefix}-{name}", {network: f"10.77.{n}.{number}" for n, network in enumerate(NETWORKS)})
        for number, name in enumerate(names, start=1)
    }
    _remove_leftovers()
    try:
        _run("ip", "netns", "add", switch)
        for network in NETWORKS:
            _run("ip", "-n", switch, "link", "add", f"br-{network}", "type", "bridge")
            _run("ip", "-n", switch, "link", "set", f"br-{network}", "up")
        for number, host in enumerate(hosts.values()):
            _plug_in(host, switch, number)
        yield hosts
    finally:
        for namespace in [*(host.namespace for host in hosts.values()), switch]:
            _remove(namespace)


def hosts_file(hosts: dict[str, Host], folder: Path) -> Path:
    """What stands for ``/etc/hosts`` on each of them."""
    path = folder / "hosts"
    lines = [f"{host.addresses['eth0']} {host.name}" for host in hosts.values()]
    path.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    return path


def _plug_in(host: Host, switch: str, number: int) -> None:
    _run("ip", "netns", "add", host.namespace)
    _run("ip", "-n", host.namespace, "link", "set", "lo", "up")
    for network, address in host.addresses.items():
        port = f"{network}p{number}"
        _run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", network, "netns", host.namespace)
        _run("ip", "-n", switch, "link", "set", port, "master", f"br-{network}", "up")
        _run("ip", "-n", host.namespace, "address", "add", f"{address}/24", "dev", network)
        _run("ip", "-n", host.namespace, "link", "set", network, "up")


def _remove_leftovers() -> None:
    """Of a test that was killed before it could take its hosts down."""
    for line in _run("ip", "netns", "list").splitlines():
        owner = re.match(r"ubp(\d+)-\S+", line)
        if owner and not Path("/proc", owner[1]).exists():
            _remove(owner[0])


def _remove(namespace: str) -> None:
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    for pid in listed.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
