"""Programs that nobody here wrote, each brought to rest with some work done: name → starter.

A starter is a context manager: given a folder and an environment it yields the id of the
process to look at. Whatever is missing is a skip that names the package.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import rig

Environment = Mapping[str, str]
Starter = Callable[[Path, Environment], AbstractContextManager[int]]


@contextmanager
def _started(
    command: list[str | Path], folder: Path, environment: Environment, text: str = ""
) -> Iterator[int]:
    """A program that gets `text` on its standard input, which then stays open."""
    with rig.running(
        command, folder, ready=None, environment=environment, stdin=subprocess.PIPE
    ) as process:
        assert process.popen.stdin is not None
        process.popen.stdin.write(text.encode())
        process.popen.stdin.flush()
        process.read_until("ready")
        process.settle()
        yield process.pid


PYTHON = r"""
import collections, decimal, json, os, re, sqlite3, threading, xml.dom.minidom, zlib
rows = [{"id": i, "name": "n" * (i % 90), "values": list(range(i % 50))} for i in range(3000)]
text = json.dumps(rows)
again = json.loads(text)
words = collections.Counter(re.findall(r"\w+", text))
tree = xml.dom.minidom.parseString("<a>" + "<b c='d'>e</b>" * 500 + "</a>")
base = sqlite3.connect(":memory:", check_same_thread=False)
base.execute("create table t (a integer primary key, b text, c blob)")
base.executemany("insert into t values (?, ?, ?)", [(i, str(i) * 9, b"x" * i) for i in range(900)])
packed = [zlib.compress(os.urandom(i)) for i in range(500)]
del again, packed[::2]
hold = threading.Event()
def work():
    mine = [bytes(700 + i) for i in range(300)]
    del mine[::3]
    started.release()
    hold.wait()
started = threading.Semaphore(0)
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
for _ in range(4):
    started.acquire()
print("ready", flush=True)
hold.wait()
"""


def python(folder: Path, environment: Environment) -> AbstractContextManager[int]:
    return _started([rig.need("python3"), "-c", PYTHON], folder, environment)


def python_malloc(folder: Path, environment: Environment) -> AbstractContextManager[int]:
    """Every Python object in a chunk of its own."""
    environment = {**environment, "PYTHONMALLOC": "malloc"}
    return _started([rig.need("python3"), "-c", PYTHON], folder, environment)


def sqlite(folder: Path, environment: Environment) -> AbstractContextManager[int]:
    script = """
create table t (a integer primary key, b text, c real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)
insert into t select i, hex(randomblob(i % 100)), i * 0.5 from n;
create index tb on t (b);
create temp table u as select b, count(*) k from t group by substr(b, 1, 3);
begin;
update t set b = b || 'x' where a % 7 = 0;
.mode column
select count(*), sum(length(b)) from t join u using (b);
.shell echo ready
"""
    return _started([rig.need("sqlite3"), "base.db"], folder, environment, script)


def bash(folder: Path, environment: Environment) -> AbstractContextManager[int]:
    script = r"""
declare -A table
for ((i = 0; i < 4000; i++)); do table[key$i]="value $i $((i * i))"; list+=("$i ${i}x"); done
for ((i = 0; i < 4000; i += 3)); do unset "table[key$i]"; done
f() { local a=("$@"); text="${a[*]/1/one}"; }
f "${list[@]}"
while read -r line; do lines+=("$line"); done < <(compgen -v)
echo ready
read -r forever
"""
    return _started([rig.need("bash"), "--norc", "-c", script], folder, environment)


def perl(folder: Path, environment: Environment) -> AbstractContextManager[int]:
    script = r"""
use strict; use warnings; $| = 1;
my %words; my @rows;
for my $i (1 .. 8000) { push @rows, { id => $i, name => "n" x ($i % 80), list => [1 .. $i % 20] } }
$words{$_->{name} . ($_->{id} % 1000)}++ for @rows;
my $text = join ",", map { "$_=$words{$_}" } sort keys %words;
my @found = $text =~ /(n+\d+)=(\d+)/g;
@rows = grep { $_->{id} % 3 } @rows;
print "ready\n"; my $forever = <STDIN>;
"""
    return _started([rig.need("perl"), "-e", script], folder, environment)


def gawk(folder: Path, environment: Environment) -> AbstractContextManager[int]:
    script = r"""
BEGIN {
    for (i = 0; i < 20000; i++) { a["k" i] = "v" i * i; if (i % 3 == 0) delete a["k" (i - 9)] }
    n = asorti(a, b); s = ""
    for (i = 1; i <= 2000; i++) s = s b[i] gensub(/k/, "q", "g", b[i])
    split(s, parts, "q"); print "ready"; fflush(); getline forever < "-"
}
"""
    return _started([rig.need("gawk"), script], folder, environment)


def vim(folder: Path, environment: Environment) -> AbstractContextManager[int]:
    (folder / "text.c").write_text("int main(void) { return 0; } /* text */\n" * 3000)
    script = [
        "set nocompatible undolevels=1000 hidden",
        "edit text.c",
        "%s/return/RETURN/g",
        "g/text/normal A tail",
        "undo",
        "split other",
        "call append(0, map(range(2000), {i, v -> string(v) . repeat('x', v % 50)}))",
        "let table = map(range(5000), {i, v -> {'a': v, 'b': string(v)}})",
        "call writefile(['ready'], '/dev/stdout')",
    ]
    command: list[str | Path] = [rig.need("vim"), "-N", "-u", "NONE", "-i", "NONE", "-n", "-es"]
    return _started(command, folder, environment, "\n".join(script) + "\n")


@contextmanager
def git(folder: Path, environment: Environment) -> Iterator[int]:
    program = rig.need("git")
    tree = folder / "tree"
    for i in range(300):
        file = tree / f"d{i % 10}" / f"f{i}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{i}\n" * (i + 1))
    plain = {"PATH": os.defpath, "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    who = ["-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "gc.auto=0"]
    for command in (
        ["init", "-q"],
        ["add", "."],
        [*who, "commit", "-qm", "all"],
        ["repack", "-qad"],
    ):
        subprocess.run([program, *command], cwd=tree, env=plain, check=True, capture_output=True)
    names = "".join(f"HEAD:d{i % 10}/f{i}\n" for i in range(300))
    text = names + "HEAD^{tree}\nready\n"
    batch: list[str | Path] = [program, "-C", tree, "cat-file", "--batch-check"]
    with _started(batch, folder, {**plain, **environment}, text) as pid:
        yield pid


@contextmanager
def postgres(folder: Path, environment: Environment) -> Iterator[int]:
    """One backend of a private cluster, idle in a transaction after some work."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        pytest.skip("needs PostgreSQL's server (apt-get install postgresql)")
    binaries = folders[-1]
    user = _other_user("postgres", "nobody") if os.geteuid() == 0 else None
    # Sockets have short names, and the server's user must reach the folder.
    home = Path(tempfile.mkdtemp(prefix="km-pg-"))
    try:
        if user is not None:
            os.chown(home, user, -1)
        plain = {"PATH": f"{binaries}:{os.defpath}", "HOME": str(home), "LC_ALL": "C.UTF-8"}
        data, sockets = home / "data", str(home)
        subprocess.run(
            [binaries / "initdb", "-D", data, "-A", "trust", "-U", "tester", "-N"],
            env=plain,
            user=user,
            cwd=home,
            check=True,
            capture_output=True,
            timeout=rig.PATIENCE,
        )
        server: list[str | Path] = [binaries / "postgres", "-D", data, "-k", sockets, "-h", ""]
        server += ["-c", "shared_buffers=2MB", "-c", "fsync=off", "-c", "max_connections=10"]
        moved = {**environment, **plain, "KM_STATS": environment["KM_STATS"]}
        with (
            rig.running(
                server, home, ready="ready to accept", environment=moved, user=user
            ) as postmaster,
            # The server's user may not write into the test's folder, nor the test's user ….
            _shared(folder),
        ):
            script = """
create table t as select i, md5(i::text) m, repeat('x', i % 200) r from generate_series(1, 20000) i;
create index on t (m);
prepare p as select * from t where m > $1 order by r limit 100;
select count(*) from t a join t b using (m) group by a.i % 10;
begin;
create temp table u as execute p('8');
do $$ declare r record; begin
  for r in select * from t limit 500 loop perform pg_sleep(0), lower(r.m); end loop; end $$;
select 'backend' || pg_backend_pid();
\\echo ready
"""
            client: list[str | Path] = [binaries / "psql", "-XAtq", "-h", sockets]
            client += ["-U", "tester", "postgres"]
            with rig.running(
                client, home, ready=None, environment=plain, stdin=subprocess.PIPE
            ) as psql:
                assert psql.popen.stdin is not None
                psql.popen.stdin.write(script.encode())
                psql.popen.stdin.flush()
                lines = psql.read_until("ready")
                backend = int(next(s[7:] for s in lines if s.startswith("backend")))
                postmaster.settle(backend)
                yield backend
            os.kill(postmaster.pid, signal.SIGQUIT)
            postmaster.popen.wait(rig.PATIENCE)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _shared(folder: Path) -> Iterator[None]:
    """Let another user write into a folder and reach it."""
    changed: list[tuple[Path, int]] = []
    if os.geteuid() == 0:
        for place in (folder, *folder.parents):
            mode = place.stat().st_mode & 0o7777
            wanted = mode | (0o777 if place == folder else 0o711)
            if wanted != mode:
                changed.append((place, mode))
                place.chmod(wanted)
    try:
        yield
    finally:
        for place, mode in changed:
            place.chmod(mode)


def _other_user(*names: str) -> int:
    for name in names:
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:  # noqa: PERF203
            continue
    pytest.skip(f"no user to run as: none of {names}")


def connect(port: int) -> socket.socket:
    deadline = time.monotonic() + rig.PATIENCE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=30)
        except ConnectionRefusedError:  # noqa: PERF203
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def memcached(folder: Path, environment: Environment) -> Iterator[int]:
    """Under load: thousands of values set, read and deleted over eight connections."""
    port = free_port()
    command: list[str | Path] = [rig.need("memcached"), "-l", "127.0.0.1", "-p", str(port)]
    command += ["-U", "0", "-m", "32", "-t", "4", "-c", "64"]
    if os.geteuid() == 0:
        command += ["-u", "root"]
    with rig.running(command, folder, ready=None, environment=environment) as server:
        clients = [connect(port) for _ in range(8)]
        try:
            for number, client in enumerate(clients):
                for i in range(3000):
                    value = b"v" * (i % 900)
                    key = b"key-%d-%d" % (number, i)
                    client.sendall(b"set %s 0 0 %d noreply\r\n%s\r\n" % (key, len(value), value))
                    if i % 3 == 0:
                        client.sendall(b"delete %s noreply\r\n" % key)
                client.sendall(b"get key-%d-7\r\nversion\r\n" % number)
                read_until(client, b"VERSION")
            # Hang up on some, so that connections are kept for reuse.
            for client in clients[::2]:
                client.close()
            time.sleep(0.2)
            server.settle()
            yield server.pid
        finally:
            for client in clients:
                client.close()


def read_until(client: socket.socket, end: bytes) -> None:
    data = b""
    while end not in data:
        more = client.recv(1 << 16)
        if not more:
            raise ConnectionError("the server hung up")
        data += more


@contextmanager
def nginx(folder: Path, environment: Environment) -> Iterator[int]:
    """One process that has answered some requests."""
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    paths = "".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"""{user} daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{ worker_connections 64; }}
http {{ access_log off; {paths}
  server {{ listen 127.0.0.1:{port}; root {folder}; location /a {{ return 200 "hello\\n"; }} }} }}
"""
    )
    (folder / "page").write_text("page\n" * 5000)
    command: list[str | Path] = [rig.need("nginx", "nginx-light"), "-p", folder]
    command += ["-c", configuration]
    with rig.running(command, folder, ready=None, environment=environment) as server:
        with connect(port) as client:
            for path in (b"/a", b"/page", b"/missing") * 20:
                client.sendall(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
            client.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            while client.recv(1 << 16):
                pass
        server.settle()
        yield server.pid


@contextmanager
def redis(folder: Path, environment: Environment) -> Iterator[int]:
    """Not on glibc's heap: Debian's is linked with jemalloc."""
    port = free_port()
    command: list[str | Path] = [rig.need("redis-server"), "--port", str(port)]
    command += ["--bind", "127.0.0.1", "--save", "", "--dir", folder]
    with rig.running(command, folder, ready=None, environment=environment) as server:
        with connect(port) as client:
            for i in range(2000):
                client.sendall(b"SET key%d %s\r\n" % (i, b"v" * (i % 300 + 1)))
            client.sendall(b"ECHO ready-now\r\n")
            read_until(client, b"ready-now")
        time.sleep(0.1)
        server.settle()
        yield server.pid


ON_GLIBC: dict[str, Starter] = {
    "python3": python,
    "python3-malloc": python_malloc,
    "sqlite3": sqlite,
    "bash": bash,
    "perl": perl,
    "git": git,
    "gawk": gawk,
    "vim": vim,
    "postgres": postgres,
    "memcached": memcached,
    "nginx": nginx,
}
