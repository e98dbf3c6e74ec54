"""The CPUs that a process may use: every file as the kernel writes it."""

import os

import pytest

from fusion_engine import _cpus
from fusion_engine.audio import ahead

V2 = "31 23 0:28 / {root} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "32 31 0:29 {inside} {root} rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /elsewhere rw - cgroup cgroup rw,cpuset\n"
)


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Writes a host's files; 32 CPUs by affinity."""
    monkeypatch.setattr(_cpus, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(32)))

    def write(mounts, groups, **files):
        (tmp_path / "proc").mkdir(exist_ok=True)
        (tmp_path / "proc" / "mountinfo").write_text(mounts)
        (tmp_path / "proc" / "cgroup").write_text(groups)
        for name, text in files.items():
            file = tmp_path / name.replace("__", "/").replace("_max", ".max").replace("-", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return _cpus.usable_cpus()

    write.root = str(tmp_path / "sys")
    return write


def files(tmp_path, folder, **contents):
    where = tmp_path / "sys" / folder
    where.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (where / name.replace("cpu_", "cpu.", 1)).write_text(text)


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        ("max 100000\n", 32),
        ("100000 100000\n", 1),
        ("150000 100000\n", 2),
        ("1000 100000\n", 1),
        ("400000 50000\n", 8),
        ("9900000 100000\n", 32),
        ("nonsense\n", 32),
        ("", 32),
    ],
)
def test_the_quota_of_version_2(host, tmp_path, quota, cpus):
    files(tmp_path, "a/b", cpu_max=quota)
    assert host(V2.format(root=host.root), "0::/a/b\n") == cpus


def test_a_group_above_may_be_tighter(host, tmp_path):
    files(tmp_path, "", cpu_max="max 100000\n")
    files(tmp_path, "pod", cpu_max="200000 100000\n")
    files(tmp_path, "pod/container", cpu_max="800000 100000\n")
    assert host(V2.format(root=host.root), "0::/pod/container\n") == 2


def test_a_container_that_sees_its_group_as_the_root(host, tmp_path):
    files(tmp_path, "", cpu_max="300000 100000\n")
    assert host(V2.format(root=host.root), "0::/\n") == 3
    assert host(V2.format(root=host.root), "0::/../other\n") == 3


@pytest.mark.parametrize("quota", [("-1\n", 32), ("250000\n", 3)])
def test_the_quota_of_version_1(host, tmp_path, quota):
    text, cpus = quota
    files(tmp_path, "docker", cpu_cfs_quota_us=text, cpu_cfs_period_us="100000\n")
    mounts = V1.format(root=host.root, inside="/")
    assert host(mounts, "4:cpuset:/x\n3:cpu,cpuacct:/docker\n0::/\n") == cpus
    # Docker mounts the group itself, under the path that it has on the host.
    files(tmp_path, "", cpu_cfs_quota_us=text, cpu_cfs_period_us="100000\n")
    mounts = V1.format(root=host.root, inside="/docker/1f")
    assert host(mounts, "3:cpu,cpuacct:/docker/1f\n") == cpus


def test_a_mount_with_a_blank_in_its_name(host, tmp_path):
    files(tmp_path, "c group", cpu_max="100000 100000\n")
    assert host(V2.format(root=f"{host.root}/c\\040group"), "0::/\n") == 1


def test_without_the_files_the_affinity_counts(host, tmp_path, monkeypatch):
    assert _cpus.usable_cpus() == 32
    assert host("\n1 2\n", "\n0\n") == 32
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert _cpus.usable_cpus() == 1


def test_decoding_takes_as_many_workers(monkeypatch):
    monkeypatch.setattr(ahead, "usable_cpus", lambda: 3)
    with ahead.decode_ahead([], 16_000) as decode:
        assert decode._workers == 3
