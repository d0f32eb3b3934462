"""`cffa-hf app` from the command line: without a gallery, and what goes wrong before a page is there."""

import socket
import sys

import pytest

from cffa_hf.cli import main
from tests.page.conftest import running


@pytest.mark.slow
def test_without_a_gallery_rendered_people_are_shown(home, tmp_path):
    with running(tmp_path, "--checkpoint", home / "model", "--device", "cpu") as site:
        status, page = site.get("/")
        assert status == 200
        assert b"48 pictures, compared by model" in page
        assert f"{site.address} shows the page" in site.log.read_text()
    # `running` has seen that nothing temporary is left


def test_a_gallery_or_a_model_is_needed(capsys, tmp_path):
    assert main(["app"]) == 2
    assert "give --checkpoint with its folder or Hub name." in capsys.readouterr().err
    assert main(["app", str(tmp_path)]) == 2
    assert "name the model with --checkpoint." in capsys.readouterr().err


@pytest.mark.slow
def test_a_port_that_is_taken_is_one_sentence(home, indexed, monkeypatch, capsys):
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "GRADIO_SHARE"):
        monkeypatch.setenv(name, "")  # put back afterwards
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["app", str(home / "gallery"), "--port", str(taken.getsockname()[1])]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert line.endswith("choose another --port.")


def test_without_gradio_the_extra_is_named(home, indexed, monkeypatch, capsys):
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "GRADIO_SHARE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", str(home / "gallery")]) == 2
    assert "install it with pip install 'cffa_hf[app]'." in capsys.readouterr().err
