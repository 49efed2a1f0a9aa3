"""Whether the machine gives runs what they need: cores, memory, disk, shared memory, open files, Slurm, MLflow's store."""

import os
import re
import resource
import shutil
import sqlite3
import subprocess
import tempfile
import urllib.error
import urllib.request
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from dinov2lab.lab import devices
from dinov2lab.lab.findings import Finding
from dinov2lab.store import disk
from dinov2lab.store.folders import Workspace

GIB = 2**30
SECONDS = 5  # for a server or a controller to answer
ENOUGH_MEMORY = 2 * GIB  # of a process that trains a small network: libraries, images and all
ENOUGH_DISK = 5 * GIB  # decoded images and checkpoints
ENOUGH_SHARED = GIB  # views on their way to the process that trains: 128 images of 224 px are a quarter of it
ENOUGH_FILES = 1024
CGROUP = Path("/sys/fs/cgroup")
MEMINFO, MOUNTS, SHARED = Path("/proc/meminfo"), Path("/proc/mounts"), Path("/dev/shm")


def cores() -> Finding:
    allowed, given = len(os.sched_getaffinity(0)), devices.quota()
    if given is not None and given < allowed:
        return Finding("cores", "ok", f"{allowed} seen, time for {given:.1f}: {devices.cores()} are used")
    return Finding("cores", "ok", str(allowed))


def memory() -> Finding:
    free = available_memory()
    if free is None:
        return Finding("memory", "lacking", "unknown: no /proc/meminfo", "nothing is known of how many runs fit")
    count = devices.cores()
    if free < ENOUGH_MEMORY:
        cost = f"a run takes one to two GiB; with less, the system kills it; now {_gib(free)} are free"
        return Finding("memory", "lacking", _gib(free), cost, "close what else runs, or add swap: fallocate, mkswap")
    if free < ENOUGH_MEMORY * count:
        cost = f"{count} runs at a time, one a core, do not fit"
        return Finding("memory", "lacking", f"{_gib(free)} free", cost, f"--jobs {int(free / ENOUGH_MEMORY)}")
    return Finding("memory", "ok", f"{_gib(free)} free")


def available_memory() -> float | None:
    """Bytes that are free here, or within the limit of the container."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", _read(MEMINFO))
    if not found:
        return None
    limit, used = _read(CGROUP / "memory.max").strip(), _read(CGROUP / "memory.current").strip()
    room = float(limit) - float(used) if limit.isdecimal() and used.isdecimal() else float("inf")
    return min(float(found[1]) * 1024, max(room, 0.0))


def space(workspace: Workspace) -> Finding:
    if trouble := disk.trouble(workspace.path):
        return Finding("disk", "broken", trouble, "nothing can be written", "--workspace ANOTHER, or dinov2lab gc")
    place = next(each for each in (workspace.path, *workspace.path.resolve().parents) if each.exists())
    if not os.access(place, os.W_OK):
        return Finding("disk", "broken", f"{place} may not be written to", "every run", "--workspace ANOTHER")
    free = shutil.disk_usage(place).free
    if free < ENOUGH_DISK:
        cost = "decoded images take up to 2 GiB a set; a run that finds the disk full ends, and goes on later"
        return Finding("disk", "lacking", f"{_gib(free)} free for {workspace.path}", cost, "dinov2lab gc --remove")
    return Finding("disk", "ok", f"{_gib(free)} free for {workspace.path}")


def shared_memory() -> Finding:
    cost = "processes that make views ahead of the step, and so keep the GPU busy, die with `bus error`"
    mend = "docker run --shm-size=8g, or as root: mount -o remount,size=8g /dev/shm"
    try:
        with tempfile.TemporaryFile(dir=SHARED) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        return Finding("shared memory", "lacking", f"{SHARED}: {error.strerror}", cost, mend)
    free = shutil.disk_usage(SHARED).free
    if free < ENOUGH_SHARED:
        return Finding("shared memory", "lacking", f"{free / 2**20:.0f} MiB free", cost, mend)
    return Finding("shared memory", "ok", f"{_gib(free)} free")


def open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < ENOUGH_FILES:
        most = ENOUGH_FILES * 4 if hard == resource.RLIM_INFINITY else min(ENOUGH_FILES * 4, hard)
        cost = "many workers, or a large Parquet glob, end with `Too many open files`"
        mend = f"ulimit -n {most}" if most > soft else "as root, in /etc/security/limits.conf: * - nofile 4096"
        return Finding("open files", "lacking", f"at most {soft}", cost, mend)
    return Finding("open files", "ok", f"at most {'any number' if soft == resource.RLIM_INFINITY else soft}")


def slurm() -> Finding:
    cost, conf = "no --launcher slurm; all else works", os.environ.get("SLURM_CONF")
    gone = [name for name in ("sbatch", "squeue", "scontrol", "scancel") if shutil.which(name) is None]
    if gone:
        mend = "go to a login node of a cluster, or try one on this machine: make slurm-up, in the repository"
        return Finding("Slurm", "lacking", f"no {', '.join(gone)} on the PATH", cost, mend)
    if conf and not Path(conf).is_file():
        return Finding("Slurm", "lacking", f"SLURM_CONF names {conf}, which is not there", cost, "unset SLURM_CONF")
    try:
        answer = subprocess.run(
            ["sinfo", "--noheader", "--format=%D %T"], capture_output=True, text=True, check=True, timeout=SECONDS
        )
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["no reason given"])[0]
        return Finding("Slurm", "lacking", said, cost, f"is SLURM_CONF right? {conf or 'it is not set'}; sinfo")
    except (OSError, subprocess.TimeoutExpired):
        return Finding("Slurm", "lacking", f"the controller has not answered within {SECONDS} s", cost, "scontrol ping")
    nodes = ", ".join(" ".join(line.split()) for line in answer.stdout.splitlines()) or "no nodes"
    return Finding("Slurm", "ok", f"nodes: {nodes}" + (f" ({conf})" if conf else ""))


def mlflow(workspace: Workspace) -> Finding:
    uri = os.environ.get("MLFLOW_TRACKING_URI") or ""
    if uri.startswith("http"):
        return _server(uri)
    if uri:
        return Finding("MLflow's store", "ok", f"MLFLOW_TRACKING_URI: {_public(uri)} (not opened)")
    if not workspace.database.exists():
        return Finding("MLflow's store", "ok", f"{workspace.database} will be made by the first study")
    return _database(workspace)


def _server(uri: str) -> Finding:
    cost = "runs end all the same; their pages are behind until `dinov2lab sync`"
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SECONDS) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        mend = "mlflow server --allowed-hosts NAME:PORT" if error.code == 403 else "look at the server's log"
        return Finding("MLflow's store", "lacking", f"{_public(uri)} answers {error.code}", cost, mend)
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        mend = "start it: mlflow server; or: unset MLFLOW_TRACKING_URI"
        return Finding("MLflow's store", "lacking", f"{_public(uri)}: {why}", cost, mend)
    return Finding("MLflow's store", "ok", f"{_public(uri)} answers")


def _database(workspace: Workspace) -> Finding:
    """Whether the MLflow that is installed opens it: each version knows a chain of schemas, and wants its last."""
    file = workspace.database
    cost = "no MLflow pages of this workspace until then; runs and reports do not need them"
    anew = f"mv {file} {file}.old && dinov2lab sync --workspace {workspace.path}   (made anew from disk)"
    try:
        with closing(sqlite3.connect(f"file:{file.resolve()}?mode=ro", uri=True, timeout=SECONDS)) as base:
            row = base.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        return Finding("MLflow's store", "lacking", f"{file}: {error}", cost, anew)
    known, last = _schemas()
    version = row[0] if row else "none"
    if known and version not in known:
        return Finding("MLflow's store", "lacking", f"{file} was made by a newer MLflow ({version})", cost, anew)
    if known and version != last:
        mend = f"dinov2lab sync --workspace {workspace.path}   (on a copy; the old one is kept)"
        return Finding("MLflow's store", "lacking", f"{file} was made by an older MLflow ({version})", cost, mend)
    if (kind := _file_system(file)).startswith(("nfs", "cifs", "lustre", "fuse")):
        cost = "SQLite is not safe where several machines write to it; one process writes at a time"
        mend = "a server for all: mlflow server, and export MLFLOW_TRACKING_URI=http://HOST:5000"
        return Finding("MLflow's store", "lacking", f"{file} on {kind}", cost, mend)
    return Finding("MLflow's store", "ok", f"{file}, schema {version}")


def _schemas() -> tuple[set[str], str | None]:
    """(All schemas that the installed MLflow knows, the last one), read from its migrations, which need no import."""
    spec = find_spec("mlflow")
    folder = Path(spec.origin).parent / "store/db_migrations/versions" if spec and spec.origin else Path("nowhere")
    texts = [file.read_text() for file in folder.glob("*.py")]
    after = {
        made[1]: re.findall(r"[\"'](\w+)[\"']", before[1])
        for text in texts
        if (made := re.search(r"^revision\b[^=]*= *[\"'](\w+)", text, re.MULTILINE))
        and (before := re.search(r"^down_revision\b[^=]*= *(.*)$", text, re.MULTILINE))
    }
    ends = set(after) - {each for earlier in after.values() for each in earlier}
    return set(after), ends.pop() if len(ends) == 1 else None


def _file_system(file: Path) -> str:
    """Its type, by the mount that holds `file`."""
    place, best, kind = str(file.resolve()), "", ""
    for line in _read(MOUNTS).splitlines():
        words = line.split()
        if len(words) > 2 and f"{place}/".startswith(f"{words[1].rstrip('/')}/") and len(words[1]) >= len(best):
            best, kind = words[1], words[2]
    return kind


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _gib(count: float) -> str:
    return f"{count / GIB:,.1f} GiB"


def _public(uri: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//", uri)
