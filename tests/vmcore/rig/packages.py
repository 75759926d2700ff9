"""Turns the name of a Debian suite into a kernel's files and a busybox, without installing either.

The mirror is the one that this machine's apt uses; its other suites are reached with sources,
lists and a cache of our own, so that the machine's own configuration is only read.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: The package that depends on the newest kernel for virtual machines, by architecture.
KERNELS = {"amd64": "linux-image-cloud-amd64", "arm64": "linux-image-cloud-arm64"}


class RigError(Exception):
    """Something that a guest needs is not to be had here; the message says what."""


@dataclass(frozen=True, slots=True)
class Packages:
    """A suite's files, unpacked.

    Parameters
    ----------
    suite, architecture
        As Debian names them.
    root
        The folder that the packages were unpacked into.
    version
        Of the kernel's package.
    """

    suite: str
    architecture: str
    root: Path
    version: str

    @property
    def image(self) -> Path:
        """The kernel that is booted."""
        return self._one("boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz")

    @property
    def config(self) -> Path:
        """What the kernel was built with."""
        return self._one("boot/config-*", "usr/lib/modules/*/config")

    @property
    def release(self) -> str:
        """What ``uname -r`` says."""
        return self._one("lib/modules/*", "usr/lib/modules/*").name

    @property
    def busybox(self) -> Path:
        """A static busybox of the same suite and architecture."""
        return self._one("usr/bin/busybox", "bin/busybox")

    def module(self, name: str) -> Path | None:
        """Return a module's file, which may be compressed; None where there is none."""
        same = re.compile(rf"{name.replace('_', '[-_]')}\.ko(\.xz|\.zst|\.gz)?$")
        found = (f for f in self.root.rglob(f"*{name[-3:]}.ko*") if same.fullmatch(f.name))
        return next(found, None)

    def _one(self, *patterns: str) -> Path:
        for pattern in patterns:
            if found := sorted(self.root.glob(pattern)):
                return found[-1]
        raise RigError(f"the packages of {self.suite} hold no {' and no '.join(patterns)}")


def mirror() -> str:
    """Return the address of the Debian mirror that this machine's apt uses."""
    if shutil.which("apt-get") is None:
        raise RigError("no apt-get: kernels come from Debian's packages")
    form = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", form], capture_output=True, text=True, check=False
    )
    for line in listed.stdout.splitlines():
        origin, label, component, address = line.split("|", 3)
        if (origin, label, component) == ("Debian", "Debian", "main"):
            return address
    raise RigError("this machine's apt has no Debian mirror (or no lists: run apt-get update)")


def fetch(suite: str, architecture: str, cache: Path) -> Packages:
    """Return a suite's newest cloud kernel and busybox, downloaded unless they are there.

    Raises
    ------
    RigError
        There is no apt, no mirror, or no such package.
    """
    folder = cache / "packages" / f"{suite}-{architecture}"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        root, done = folder / "root", folder / "version"
        if not done.exists():
            shutil.rmtree(root, ignore_errors=True)
            apt = _Apt(suite, architecture, folder)
            apt.run("apt-get", "update")
            names = [KERNELS[architecture], *apt.depends(KERNELS[architecture])]
            kernel = next((n for n in names if re.match(r"linux-image-\d", n)), None)
            if kernel is None:
                raise RigError(f"{suite} has no package {KERNELS[architecture]}")
            # From 7.x on, an image's files lie in packages of their own.
            wanted = [kernel, *(n for n in apt.depends(kernel) if _holds_files(n))]
            for name in [*wanted, "busybox-static"]:
                apt.unpack(name, root)
            done.write_text(apt.version(kernel))
    return Packages(suite, architecture, root, done.read_text())


def fetch_source(suite: str, cache: Path) -> Path:
    """Return the tree of a suite's newest kernel source, unpacked unless it is there."""
    folder = cache / "sources" / suite
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        if not (folder / "done").exists():
            apt = _Apt(suite, "all", folder)
            apt.run("apt-get", "update")
            newest = [n for n in apt.depends("linux-source") if n.startswith("linux-source-")]
            if not newest:
                raise RigError(f"{suite} has no package linux-source")
            apt.unpack(newest[0], folder / "package")
            (archive,) = (folder / "package/usr/src").glob("*.tar.xz")
            _check(["tar", "-C", str(folder), "-xf", str(archive)])
            shutil.rmtree(folder / "package")
            (folder / "done").touch()
        return next(path for path in folder.glob("linux-source-*") if path.is_dir())


def _holds_files(name: str) -> bool:
    return re.match(r"linux-(image|modules|binary|base)-.*\d", name) is not None


class _Apt:
    """The machine's apt with one suite of the mirror as its only source."""

    def __init__(self, suite: str, architecture: str, folder: Path) -> None:
        self.suite = suite
        state, cache, parts = (folder / name for name in ("state", "cache", "sources"))
        for each in (state / "lists" / "partial", cache / "archives" / "partial", parts):
            each.mkdir(parents=True, exist_ok=True)
        status = folder / "status"
        status.touch()
        source = f"Types: deb\nURIs: {mirror()}\nSuites: {suite}\nComponents: main\n"
        if KEYRING.exists():
            source += f"Signed-By: {KEYRING}\n"
        (parts / "rig.sources").write_text(source)
        settings = {
            "Dir::Etc::SourceList": "/dev/null",
            "Dir::Etc::SourceParts": parts,
            "Dir::State": state,
            "Dir::State::status": status,
            "Dir::Cache": cache,
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Sandbox::User": "root",
            "APT::Update::Post-Invoke-Success::": "true",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        self.options = [text for item in settings.items() for text in ("-o", "{}={}".format(*item))]
        self.archives = cache / "archives"

    def run(self, command: str, *arguments: str) -> str:
        done = subprocess.run(
            [command, *self.options, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.archives,
            timeout=300,
        )
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise RigError(f"{command} {' '.join(arguments)} ({self.suite}): {''.join(last)}")
        return done.stdout

    def depends(self, package: str) -> list[str]:
        text = self.run("apt-cache", "depends", "--important", package)
        return re.findall(r"Depends: ([^\s<>]+)$", text, re.MULTILINE)

    def version(self, package: str) -> str:
        text = self.run("apt-cache", "show", "--no-all-versions", package)
        found = re.search(r"^Version: (.*)$", text, re.MULTILINE)
        return found[1] if found else ""

    def unpack(self, package: str, root: Path) -> None:
        for old in self.archives.glob(f"{package}_*.deb"):
            old.unlink()
        self.run("apt-get", "download", package)
        for archive in self.archives.glob(f"{package}_*.deb"):
            _check(["dpkg-deb", "-x", str(archive), str(root)])
            archive.unlink()


def _check(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RigError(f"{' '.join(command)}: {done.stderr.strip()}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time in: tests may run in several."""
    with path.open("w") as file:
        flock(file, LOCK_EX)
        yield
