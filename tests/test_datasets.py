"""Prepared data sets: opened by name, or one clear error."""

from pathlib import Path

import pytest

from hyperface.data import datasets
from hyperface.errors import InputError


def test_a_data_set_that_is_not_there_names_the_command(tmp_path, tiny_data):
    with pytest.raises(InputError, match=r"found nothing.*hyperface prepare"):
        datasets.open_split("orl_faces", "train", tmp_path)
    (tmp_path / "orl_faces").mkdir()
    with pytest.raises(InputError, match="found an empty folder"):
        datasets.open_split("orl_faces", "train", tmp_path)
    with pytest.raises(InputError, match=r"unknown split of tiny 'tset'.*'test'"):
        datasets.open_split("tiny", "tset", tiny_data)


def test_the_data_folder_is_the_option_then_the_variable_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERFACE_DATA_DIR", "/from/variable")
    assert datasets.data_directory(tmp_path) == tmp_path
    assert datasets.data_directory() == Path("/from/variable")
    monkeypatch.delenv("HYPERFACE_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert datasets.data_directory() == Path("/cache/hyperface")
