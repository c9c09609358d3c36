"""A network of namespaces: one for each member, a hub between them and this machine, links that can be cut."""

import os
import shutil
import subprocess


def possible():
    """Whether namespaces can be made here."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    name = f"hw-{os.getpid()}-try"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if done.returncode == 0:
        _ip("netns", "delete", name)
    return done.returncode == 0


class Network:
    """Members at addresses of their own; nothing of it is left behind.

    Parameters
    ----------
    members : sequence of str
    """

    HERE = "here"

    def __init__(self, members):
        self.members = list(members)
        # Packets of two networks at a time must not meet.
        self._base = f"10.{64 + os.getpid() % 64}"
        self._cut = set()

    def __enter__(self):
        self._namespaces = [self._hub, *(self.namespace(each) for each in self.members)]
        try:
            for each in self._namespaces:
                _ip("netns", "add", each)
                _in(each, "link", "set", "lo", "up")
            for number, each in enumerate([self.HERE, *self.members]):
                self._link(number, each)
            forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
            subprocess.run(["ip", "netns", "exec", self._hub, "sh", "-c", forward], check=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for each in self._namespaces:
            subprocess.run(["ip", "netns", "delete", each], capture_output=True, check=False)

    def namespace(self, member):
        return f"hw-{os.getpid()}-{member}"

    def address(self, member):
        return f"{self._base}.{[self.HERE, *self.members].index(member)}.2"

    def inside(self, member):
        """What a command has to begin with to run there."""
        return ["ip", "netns", "exec", self.namespace(member)]

    def cut(self, one, other):
        """Neither hears the other any more, and nobody is told: packets go nowhere."""
        for pair in ((one, other), (other, one)):
            if pair not in self._cut:
                self._rule("add", pair)
                self._cut.add(pair)

    def isolate(self, member):
        """From all other members; the training platform is still reached."""
        for each in self.members:
            if each != member:
                self.cut(member, each)

    def heal(self):
        """All hear all."""
        for pair in self._cut:
            self._rule("delete", pair)
        self._cut = set()

    def _rule(self, what, pair):
        sender, receiver = map(self.address, pair)
        _in(self._hub, "rule", what, "from", sender, "to", receiver, "blackhole")

    @property
    def _hub(self):
        return f"hw-{os.getpid()}-hub"

    def _link(self, number, member):
        near, far = f"hwm{os.getpid() % 10_000}-{number}", f"hwh{os.getpid() % 10_000}-{number}"
        gateway = f"{self._base}.{number}.1"
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", self._hub)
        _in(self._hub, "address", "add", f"{gateway}/24", "dev", far)
        _in(self._hub, "link", "set", far, "up")
        if member == self.HERE:  # gone with the hub, which has the other end
            _ip("address", "add", f"{self.address(member)}/24", "dev", near)
            _ip("link", "set", near, "up")
            _ip("route", "add", f"{self._base}.0.0/16", "via", gateway)
        else:
            _ip("link", "set", near, "netns", self.namespace(member))
            _in(self.namespace(member), "address", "add", f"{self.address(member)}/24", "dev", near)
            _in(self.namespace(member), "link", "set", near, "up")
            _in(self.namespace(member), "route", "add", "default", "via", gateway)


def _ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"


def _in(namespace, *arguments):
    _ip("-n", namespace, *arguments)
