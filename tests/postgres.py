"""A PostgreSQL server of a test's own: a cluster in a folder of its own, with a password, gone with the test."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from services import missing

SECRET = "f7:w@rd"  # what a URL has to quote, too


def _programs() -> Path | None:
    """The folder of initdb: on the PATH, or where Debian puts it, the newest."""
    found = shutil.which("initdb")
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: float(file.parts[-3]))
    return Path(found).parent if found else versions[-1].parent if versions else None


class Server:
    """Listens on this machine alone. It refuses to run as root, so it runs as `postgres` then."""

    def __init__(self) -> None:
        programs = _programs()
        if programs is None:
            missing("needs PostgreSQL (Debian: apt install postgresql)")
        assert programs
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="dinov2lab-postgres-"))
        password = self._folder / "password"
        password.write_text(SECRET)
        if os.geteuid() == 0:
            for path in (self._folder, password):
                shutil.chown(path, "postgres", "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._do("initdb", f"--pwfile={password}", "--username=me", "--auth=scram-sha-256", "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+pg8000://me:{SECRET.replace(':', '%3A').replace('@', '%40')}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._do("pg_ctl", "--wait", f"--log={self._folder}/log", f"--options={options}", "start")

    def stop(self) -> None:
        """At once, as when its machine goes down."""
        self._do("pg_ctl", "--wait", "--mode=immediate", "stop")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def _do(self, program: str, *words: str) -> None:
        as_other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        command = [*as_other, str(self._programs / program), f"--pgdata={self._folder}/data", *words]
        answer = subprocess.run(
            command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
        assert answer.returncode == 0, answer.stderr
