"""Chunks written as files are those that Zarr writes, and are replaced whole."""

import os

import numpy as np
import pytest
import zarr

from fastdln.sweeps.chunks import chunk_writer

# name: dtype, shape of the axes after those of cells, a value, the fill value
KINDS = {
    "losses": ("float64", (3,), [1.5, np.inf, np.nan], np.nan),
    "number": ("float64", (), 0.1, np.nan),
    "steps": ("int64", (), 12, -1),
    "text": (str, (), "größte", "pending"),
}


def created(path, kind, **options):
    dtype, further, _, fill = KINDS[kind]
    group = zarr.create_group(path, zarr_format=3)
    return group.create_array(
        "a",
        shape=(2, 3, *further),
        chunks=(1, 1, *further),
        dtype=dtype,
        fill_value=fill,
        **options,
    )


def files(path):
    found = [p for p in (path / "a").rglob("*") if p.is_file() and p.name != "zarr.json"]
    return {str(p.relative_to(path)): p.read_bytes() for p in found}


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_are_those_of_zarr(kind, tmp_path):
    value = KINDS[kind][2]
    theirs, ours = created(tmp_path / "theirs", kind), created(tmp_path / "ours", kind)
    write = chunk_writer(ours, tmp_path / "ours" / "a")
    for index in ((0, 2), (1, 0), (0, 2)):
        theirs[index] = value
        write(index, value)
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    assert len(files(tmp_path / "ours")) == 2
    np.testing.assert_array_equal(ours[...], theirs[...])


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": None},
        {"compressors": zarr.codecs.GzipCodec()},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
        {"chunk_key_encoding": {"name": "default", "separator": "."}},
    ],
    ids=["plain", "gzip", "big-endian", "dots"],
)
def test_what_zarr_encodes_otherwise_zarr_writes(options, tmp_path):
    array = created(tmp_path, "number", **options)
    write = chunk_writer(array, tmp_path / "a")
    write((1, 2), 2.5)
    assert zarr.open_group(tmp_path, mode="r")["a"][1, 2] == 2.5
    assert np.isnan(array[0, 0])


def test_a_chunk_that_is_cut_off_leaves_the_one_before(tmp_path, monkeypatch):
    array = created(tmp_path, "steps")
    write = chunk_writer(array, tmp_path / "a")
    write((0, 0), 1)

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write((0, 0), 2)
    with pytest.raises(KeyboardInterrupt):
        write((1, 1), 3)
    monkeypatch.undo()
    np.testing.assert_array_equal(array[...], [[1, -1, -1], [-1, -1, -1]])
    write((0, 0), 4)
    assert array[0, 0] == 4
