"""CPU quotas of control groups, as Linux shows them, from files that stand for its own."""

import pytest

from fastdln.utils import cgroups


@pytest.fixture
def linux(tmp_path):
    """Return a function that writes a process's files, and the quotas of groups by their path."""

    def write(groups, mounts, quotas):
        process = tmp_path / "self"
        process.mkdir()
        (process / "cgroup").write_text("".join(f"{line}\n" for line in groups))
        lines = [
            f"{30 + i} 23 0:{i} {root} {tmp_path}{point} rw {extra}- {kind} {kind} {options}\n"
            for i, (root, point, kind, options, extra) in enumerate(mounts)
        ]
        (process / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda rw\n" + "".join(lines))
        for path, text in quotas.items():
            file = tmp_path / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")
        return process

    return write


V2 = ("/", "/cg", "cgroup2", "rw", "")
V1 = ("/", "/cg/cpu", "cgroup", "rw,cpu,cpuacct", "shared:7 ")


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", None),
        ("100000 100000", 1),
        ("150000 100000", 2),
        ("400000 100000", 4),
        ("1000 100000", 1),
        ("200000 50000", 4),
        ("", None),
        ("many 100000", None),
        ("100000", None),
        ("100000 0", None),
        ("-1 100000", None),
    ],
)
def test_version_2(linux, quota, expected):
    process = linux(["0::/user/job"], [V2], {"/cg/user/job/cpu.max": quota})
    assert cgroups.processors(process) == expected


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [(-1, 100_000, None), (250_000, 100_000, 3), (50_000, 100_000, 1), (0, 100_000, None)],
)
def test_version_1(linux, quota, period, expected):
    files = {
        "/cg/cpu/user/job/cpu.cfs_quota_us": quota,
        "/cg/cpu/user/job/cpu.cfs_period_us": period,
    }
    groups = ["5:memory:/elsewhere", "4:cpu,cpuacct:/user/job", "1:name=systemd:/"]
    assert cgroups.processors(linux(groups, [V1], files)) == expected


def test_the_least_of_the_group_and_those_above_it_counts(linux):
    files = {
        "/cg/cpu.max": "800000 100000",
        "/cg/user/cpu.max": "200000 100000",
        "/cg/user/job/cpu.max": "max 100000",
        "/cg/other/cpu.max": "100000 100000",
    }
    assert cgroups.processors(linux(["0::/user/job"], [V2], files)) == 2


def test_both_versions_at_once(linux):
    files = {
        "/cg/unified/cpu.max": "300000 100000",
        "/cg/cpu/job/cpu.cfs_quota_us": 200_000,
        "/cg/cpu/job/cpu.cfs_period_us": 100_000,
    }
    mounts = [V1, ("/", "/cg/unified", "cgroup2", "rw", "")]
    assert cgroups.processors(linux(["4:cpu:/job", "0::/"], mounts, files)) == 2


@pytest.mark.parametrize("group", ["/docker/4f2a", "/docker/4f2a/inner", "/elsewhere", "/../.."])
def test_a_container_sees_its_own_group_at_the_top(linux, group):
    """A mount shows the tree from the container's group on, or a group that is not below it."""
    mount = ("/docker/4f2a", "/cg/cpu", "cgroup", "rw,cpu", "")
    files = {"/cg/cpu/cpu.cfs_quota_us": 150_000, "/cg/cpu/cpu.cfs_period_us": 100_000}
    assert cgroups.processors(linux([f"4:cpu:{group}"], [mount], files)) == 2


def test_other_controllers_and_file_systems_do_not_count(linux):
    files = {"/cg/memory/cpu.max": "100000 100000", "/cg/cpu.max": "100000 100000"}
    mounts = [("/", "/cg/memory", "cgroup", "rw,memory", ""), ("/", "/cg", "tmpfs", "rw", "")]
    assert cgroups.processors(linux(["3:cpuset:/", "2:memory:/", "0::/"], mounts, files)) is None


def test_without_the_files_there_is_no_quota(tmp_path):
    assert cgroups.processors(tmp_path / "absent") is None
    (tmp_path / "cgroup").write_bytes(b"\xff\n::\nx\n")
    (tmp_path / "mountinfo").write_text("damaged\n - \n")
    assert cgroups.processors(tmp_path) is None


def test_this_process_has_a_quota_or_none():
    found = cgroups.processors()
    assert found is None or found >= 1
