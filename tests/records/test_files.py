import pytest

from cffa_hf.errors import InputError
from cffa_hf.records.files import make_output_folder


def test_a_folder_is_made_and_left_empty(tmp_path):
    folder = make_output_folder(tmp_path / "new" / "run")
    assert list(folder.iterdir()) == []
    assert make_output_folder(folder) == folder


def test_what_cannot_be_a_folder_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", tmp_path / "file" / "run", "/proc/run"):
        with pytest.raises(InputError, match=f"{wrong} cannot be written .*; choose another output_dir"):
            make_output_folder(wrong)
