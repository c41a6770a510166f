"""Nothing is left behind: no process, no port, no folder, however the parent ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepseek_localcluster import LocalCluster
from deepseek_localcluster.processes import descendants
from deepseek_localcluster.running import running_clusters

pytestmark = pytest.mark.cluster

APPS = Path(__file__).parent / "localcluster_apps"

PARENT = """
import json, sys, time
from pathlib import Path
from deepseek_localcluster import LocalCluster
with LocalCluster(**json.loads(sys.argv[1]), pythonpath=[Path(sys.argv[2])]) as cluster:
    if cluster.components().get("raynode"):
        cluster.apply(Path(sys.argv[2]) / "rayservice.yaml")
        cluster.wait("two Ray pods are ready", lambda: cluster.kubectl("get", "pods").count("1/1") >= 2, 180)
    ports = [cluster._ports[offset] for offset in range(20)]
    folders = [str(cluster.directory), str(cluster._ray_directory)]
    print(json.dumps({"supervisor": cluster.supervisor_pid, "folders": folders, "ports": ports}), flush=True)
    time.sleep(600)
"""


class Remains:
    """What a cluster started by another process has, to be looked for when it has ended."""

    def __init__(self, request: pytest.FixtureRequest, **wanted: object) -> None:
        self.parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, json.dumps(wanted), str(APPS)], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.parent.stdout is not None
        said = json.loads(self.parent.stdout.readline())
        self.folders = [Path(folder) for folder in said["folders"]]
        self.ports: list[int] = said["ports"]
        self.processes = {said["supervisor"], *descendants(said["supervisor"])}

    def listening(self) -> list[int]:
        """Ports of the cluster's block somebody listens on."""
        return [port for port in self.ports if _accepts(port)]

    def assert_nothing_is_left(self) -> None:
        """Within 20 s."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and any(_alive(pid) for pid in self.processes):
            time.sleep(0.1)
        assert [pid for pid in self.processes if _alive(pid)] == []
        assert self.listening() == []
        assert [folder for folder in self.folders if folder.exists()] == []


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["Ctrl-C", "SIGTERM", "kill -9"])
def test_a_control_plane_ends_with_its_parent(request: pytest.FixtureRequest, number: signal.Signals) -> None:
    """Whether the parent can clean up (Ctrl-C) or not (the others)."""
    remains = Remains(request)
    assert len(remains.processes) >= 5  # supervisor, etcd, API server, controller manager, scheduler
    assert len(remains.listening()) >= 3  # etcd twice, API server
    remains.parent.send_signal(number)
    remains.parent.wait(30)
    remains.assert_nothing_is_left()


def test_a_killed_supervisor_takes_its_components_along() -> None:
    """Should even the supervisor be killed, no program of the cluster survives it, and the parent removes the folder."""
    with LocalCluster() as cluster:
        processes = descendants(cluster.supervisor_pid)
        os.kill(cluster.supervisor_pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while any(_alive(pid) for pid in processes) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [pid for pid in processes if _alive(pid)] == []
    assert not cluster.directory.exists()


def test_an_exception_in_the_block_ends_the_cluster() -> None:
    """As does every other way out of it."""
    cluster = LocalCluster()
    processes: set[int] = set()

    def fail() -> None:
        with cluster:
            processes.update({cluster.supervisor_pid, *descendants(cluster.supervisor_pid)})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [pid for pid in processes if _alive(pid)] == []
    assert not cluster.directory.exists()


def test_a_folder_that_is_not_empty_is_refused_and_kept(tmp_path: Path) -> None:
    """The folder is removed with the cluster, so it must not hold anything else."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="name an absent or empty folder"):
        LocalCluster(tmp_path).start()
    assert (tmp_path / "thesis.txt").exists()


def test_the_command_line_starts_lists_and_ends_exactly_its_cluster(tmp_path: Path) -> None:
    """up --detach, status, env, down."""
    command = [sys.executable, "-m", "deepseek_localcluster"]
    folder = tmp_path / "cluster"
    subprocess.run([*command, "up", "--detach", "--dir", str(folder)], check=True, timeout=60)
    (cluster,) = [each for each in running_clusters() if each.directory == folder]
    try:
        listed = subprocess.run([*command, "status", "--dir", str(folder)], check=True, capture_output=True, text=True).stdout
        assert f"{folder}   up   " in listed
        exported = subprocess.run([*command, "env", "--dir", str(folder)], check=True, capture_output=True, text=True).stdout
        asked = subprocess.run(["bash", "-c", f"{exported}\nkubectl get namespaces"], check=True, capture_output=True, text=True)
        assert "kube-system" in asked.stdout
    finally:
        subprocess.run([*command, "down", "--dir", str(folder)], check=True, timeout=60)
    assert not _alive(cluster.supervisor)
    assert not folder.exists()
    again = subprocess.run([*command, "down", "--dir", str(folder)], capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (1, f"deepseek-localcluster: no cluster runs in {folder}\n")


@pytest.mark.e2e
def test_kill_9_of_the_parent_ends_the_ray_pods_too(request: pytest.FixtureRequest) -> None:
    """Ray's daemons leave their session and their parent; they are found all the same."""
    remains = Remains(request, ray_nodes=2, kuberay=True)
    assert len(remains.processes) > 20  # a Ray head alone has more than ten
    remains.parent.kill()
    remains.parent.wait(10)
    remains.assert_nothing_is_left()
