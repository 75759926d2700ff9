"""Unpacks the C libraries of other Debian suites into a folder, ready to link and run against.

The packages come through apt itself, with a configuration of their own (sources, lists and
cache live in the cache folder), from the mirror that this machine's apt uses. Nothing is
installed. Whatever cannot be had is a skip that says why.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

#: The glibc versions the tests ask for, and the Debian suites that may have them, best first.
#: The last is a moving target: whatever is newest there is what gets tested.
SUITES = {
    "2.31": ("bullseye",),
    "2.36": ("bookworm",),
    "2.41": ("trixie",),
    "2.43": ("forky", "sid"),
}
#: Programs are compiled and linked once against the oldest: its symbol versions exist in all.
OLDEST = "2.31"
MULTIARCH = "x86_64-linux-gnu"
#: More mirrors to try, separated by spaces: old suites move to an archive some day.
EXTRA_MIRRORS = "KMEMLEAK_DEBIAN_MIRRORS"


@dataclass(frozen=True)
class Glibc:
    """One unpacked C library.

    Parameters
    ----------
    version
        As asked for: ``"2.31"``.
    package
        The package's version: ``"2.31-13+deb11u11"``.
    root
        The folder it was unpacked into: a small sysroot.
    """

    version: str
    package: str
    root: Path

    @property
    def folder(self) -> Path:
        """Where its shared libraries are."""
        for prefix in ("lib", "usr/lib"):
            folder = self.root / prefix / MULTIARCH
            if (folder / "libc.so.6").exists():
                return folder
        raise FileNotFoundError(f"no libc.so.6 below {self.root}")

    @property
    def loader(self) -> Path:
        """Its dynamic loader."""
        return self.folder / "ld-linux-x86-64.so.2"


def cache_folder() -> Path:
    """Where packages and compiled programs are kept between runs (``KMEMLEAK_CACHE``)."""
    default = Path(__file__).resolve().parents[2] / ".cache"
    folder = Path(os.environ.get("KMEMLEAK_CACHE", default)).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against other test sessions."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def glibc(version: str) -> Glibc:
    """Return the C library of that version, unpacked; skip with the reason if there is none."""
    found = _find(version)
    if isinstance(found, str):
        pytest.skip(f"glibc {version}: {found}")
    return found


@cache
def _find(version: str) -> Glibc | str:
    """Return the C library, or why there is none: that is not tried twice in a session."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return "needs apt-get and dpkg-deb"
    if os.uname().machine != "x86_64":
        return "the packages tested are amd64"
    root = cache_folder() / "glibc" / version
    with locked(root.parent):
        stamp = root / "package-version"
        if not stamp.is_file():
            problem = _get(version, root)
            if problem:
                return problem
        return Glibc(version, stamp.read_text().strip(), root)


def _get(version: str, root: Path) -> str:
    """Download and unpack; returns why that failed, or nothing."""
    reasons = []
    packages = ["libc6", "libgcc-s1"]
    if version == OLDEST:
        packages += ["libc6-dev", "linux-libc-dev"]
    work = root.with_name(f"{version}.part")
    for suite in SUITES[version]:
        for uri, keyring in mirrors():
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            try:
                files = _download(work / "apt", uri, keyring, suite, packages)
                for file in files:
                    _run(["dpkg-deb", "-x", str(file), str(work / "root")])
                relink(work / "root")
                package = _run(["dpkg-deb", "-f", str(files[0]), "Version"]).strip()
                (work / "root" / "package-version").write_text(package + "\n")
                shutil.rmtree(root, ignore_errors=True)
                (work / "root").rename(root)
            except (OSError, subprocess.SubprocessError) as error:
                reasons.append(f"{suite}: {_reason(error)}")
            else:
                return ""
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return f"cannot be had: {'; '.join(reasons) or 'apt knows no Debian mirror'}"


def mirrors() -> list[tuple[str, str]]:
    """Return the Debian mirrors that apt uses here, as (URI, keyring or empty)."""
    listing = _run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)",
            "Created-By: Packages",
        ]
    )
    codenames = {suite for suites in SUITES.values() for suite in suites} | {"stable", "testing"}
    found: dict[str, str] = {}
    for line in listing.splitlines():
        uri, release, component, keyring = line.split("|", 3)
        if component == "main" and release in codenames:
            found.setdefault(uri, keyring)
    for uri in os.environ.get(EXTRA_MIRRORS, "").split():
        found.setdefault(uri, "")
    return list(found.items())


def _download(folder: Path, uri: str, keyring: str, suite: str, packages: list[str]) -> list[Path]:
    for name in ("state/lists/partial", "cache/archives/partial", "debs", "parts"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    # Where the sources name no keyring, apt writes the format's own word back.
    default = "/usr/share/keyrings/debian-archive-keyring.gpg"
    signed = keyring if Path(keyring).is_file() else default
    option = f" [signed-by={signed}]" if Path(signed).is_file() else ""
    (folder / "sources.list").write_text(f"deb{option} {uri} {suite} main\n")
    configuration = folder / "apt.conf"
    # The signature is still checked; only its age is not, for suites that are no longer renewed.
    configuration.write_text(
        f"""Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "{folder}/parts";
Dir::Etc::preferencesparts "{folder}/parts";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "";
APT::Update::Post-Invoke {{}};
APT::Update::Post-Invoke-Success {{}};
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
"""
    )
    environment = dict(os.environ, APT_CONFIG=str(configuration), LC_ALL="C")
    _run(["apt-get", "-q", "--error-on=any", "update"], env=environment)
    _run(["apt-get", "-q", "download", *packages], cwd=folder / "debs", env=environment)
    files = sorted((folder / "debs").glob("*.deb"), key=lambda f: not f.name.startswith("libc6_"))
    if len(files) != len(packages):
        raise OSError(f"apt gave {[f.name for f in files]} for {packages}")
    return files


def relink(root: Path) -> None:
    """Make absolute links relative: they mean a path below `root`, not this machine's."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            link = Path(folder, name)
            if link.is_symlink() and os.readlink(link).startswith("/"):
                target = root / os.readlink(link).lstrip("/")
                link.unlink()
                link.symlink_to(os.path.relpath(target, link.parent))


def _run(command: list[str], **options: object) -> str:
    done = subprocess.run(  # type: ignore[call-overload]
        command, check=True, capture_output=True, text=True, timeout=240, **options
    )
    return str(done.stdout)


def _reason(error: Exception) -> str:
    said = str(getattr(error, "stderr", "") or error).strip().splitlines()
    errors = [line for line in said if line.startswith("E:")]
    return (errors or said or [type(error).__name__])[0]
