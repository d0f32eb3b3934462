"""`cffa-hf serve` as a process: what it prints, whom it lets in, and how it ends."""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from cffa_hf.cli import main
from cffa_hf.service import listening_socket
from cffa_hf.service.keys import KEY_VARIABLE
from tests.service.serving import KEY, wait_until


def start(folder, checkpoint, *words, **environment):
    command = [sys.executable, "-m", "cffa_hf.cli", "serve", str(folder), "--checkpoint", str(checkpoint)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.Popen(
        [*command, "--port", "0", *words], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_sigterm_ends_it_with_status_0_and_everything_that_was_taken_is_answered(gallery_folder, checkpoint):
    # A batch waits a second for more, so that the signal comes while these are in the queue.
    process = start(gallery_folder, checkpoint, "--gather", "1000", "--access-log", **{KEY_VARIABLE: KEY})
    try:
        line = process.stdout.readline()
        address = re.search(r"serving 12 images on (http://127\.0\.0\.1:\d+)", line).group(1)
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=address, headers=headers, timeout=60) as client, ThreadPoolExecutor(8) as pool:
            assert httpx.post(f"{address}/search", json={"query": "red"}).status_code == 401
            asked = [pool.submit(client.post, "/search", json={"query": "a secret sentence"}) for _ in range(8)]
            wait_until(lambda: "cffa_queue_length 8.0" in client.get("/metrics").text)
            process.send_signal(signal.SIGTERM)
            answers = [future.result() for future in asked]
        assert [answer.status_code for answer in answers] == [200] * 8
        assert all(len(answer.json()["answers"][0]["results"]) == 10 for answer in answers)
        assert process.wait(60) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")
    finally:
        process.kill()
        out, err = process.communicate()
    assert "POST /search" in out + err
    assert KEY not in out + err
    assert "secret" not in out + err
    assert "Traceback" not in err


@pytest.mark.parametrize("seconds", [0.0, 0.5, 2.0])
def test_a_signal_while_it_starts_ends_it(seconds, gallery_folder, checkpoint):
    process = start(gallery_folder, checkpoint)
    try:
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        _, err = process.communicate()
    assert "Traceback" not in err


def mistake(capsys, *words):
    status = main(["serve", *map(str, words)])
    printed = capsys.readouterr().err.splitlines()
    assert (status, sum(line.startswith("error: ") for line in printed)) == (2, 1)
    return printed[-1]


def test_mistakes_on_the_command_line_are_one_sentence(gallery_folder, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with listening_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert "address already in use" in mistake(capsys, gallery_folder, "--checkpoint", checkpoint, "--port", port)
    assert str(tmp_path / "missing") in mistake(capsys, tmp_path / "missing", "--checkpoint", checkpoint, "--port", 0)
    assert "--without-key" in mistake(capsys, gallery_folder, "--host", "0.0.0.0")
    assert "key" in mistake(capsys, gallery_folder, "--key-file", tmp_path / "missing")
    assert "deadline_seconds is 0.0" in mistake(capsys, gallery_folder, "--deadline", 0)


def test_a_missing_extra_is_one_sentence(gallery_folder, capsys, monkeypatch):
    monkeypatch.setattr("cffa_hf.service.start.PACKAGES", ("fastapi", "no_such_package"))
    assert "no_such_package; install it with pip install 'cffa_hf[serve]'" in mistake(capsys, gallery_folder)
