"""Keys, rates and settings, without a server."""

import pytest

from cffa_hf.errors import InputError
from cffa_hf.service import ServiceSettings
from cffa_hf.service.keys import KEY_VARIABLE, matching_key, read_keys
from cffa_hf.service.limits import MOST_CLIENTS, RateLimiter
from cffa_hf.service.server import check_exposure, listening_socket
from cffa_hf.service.settings import is_loopback

KEY, OTHER = "k" * 32, "o" * 16


def test_keys_of_the_file_and_of_the_environment_count_both(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# of the reception\n\n  {KEY}  \n")
    assert read_keys(file, {}) == (KEY,)
    assert read_keys(file, {KEY_VARIABLE: f"{OTHER}\n"}) == (KEY, OTHER)
    assert read_keys(None, {}) == ()


@pytest.mark.parametrize("content", ["", "# nothing\n", "short\n", "ключ" * 8, f"{KEY} {KEY}", "\x07" * 20])
def test_files_without_a_good_key_are_refused_and_no_key_is_quoted(content, tmp_path):
    file = tmp_path / "keys"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_keys(file, {})
    assert all(word not in str(caught.value) for word in content.replace("# nothing", "").split())
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(tmp_path / "missing", {})
    with pytest.raises(InputError, match=KEY_VARIABLE):
        read_keys(None, {KEY_VARIABLE: ""})


def test_only_the_whole_key_opens():
    keys = (KEY, OTHER)
    assert matching_key(f"Bearer {OTHER}".encode(), keys) == 1
    assert matching_key(f"bearer  {KEY}".encode(), keys) == 0
    for wrong in (b"", KEY.encode(), f"Basic {KEY}".encode(), f"Bearer {KEY[:-1]}".encode(), b"Bearer \xff\xfe"):
        assert matching_key(wrong, keys) is None
    assert matching_key(b"Bearer ", ()) is None


def test_settings_hide_their_keys_and_know_their_ranges():
    assert KEY not in repr(ServiceSettings(keys=(KEY,)))
    for name, value in (("batch_size", 0), ("queue_size", 3), ("deadline_seconds", 0), ("gather_milliseconds", -1)):
        with pytest.raises(InputError, match=f"{name} is {value}; it must lie between"):
            ServiceSettings(**{name: value})


def test_a_bucket_fills_up_again():
    now = [0.0]
    limiter = RateLimiter(60, clock=lambda: now[0])
    assert [limiter.seconds_to_wait("a") for _ in range(60)] == [0] * 60
    assert limiter.seconds_to_wait("a") == 1
    assert limiter.seconds_to_wait("b") == 0
    now[0] += 1
    assert limiter.seconds_to_wait("a") == 0
    assert limiter.seconds_to_wait("a") == 1
    now[0] += 3600
    assert [limiter.seconds_to_wait("a") for _ in range(61)] == [0] * 60 + [1]


def test_slow_rates_say_how_long_to_wait_and_0_is_no_limit():
    limiter = RateLimiter(2, clock=lambda: 0.0)
    assert [limiter.seconds_to_wait("a") for _ in range(3)] == [0, 0, 30]
    assert not any(RateLimiter(0).seconds_to_wait("a") for _ in range(5000))


def test_a_crowd_of_clients_takes_no_memory_for_ever():
    limiter = RateLimiter(5, clock=lambda: 0.0)
    for number in range(MOST_CLIENTS + 50):
        limiter.seconds_to_wait(str(number))
    assert len(limiter.buckets) == MOST_CLIENTS


def test_a_network_needs_a_key_or_a_word():
    assert not is_loopback("example.org")
    assert not check_exposure("127.0.0.1", (), behind_proxy=False, without_key=False)
    assert not check_exposure("0.0.0.0", (KEY,), behind_proxy=True, without_key=False)
    assert check_exposure("0.0.0.0", (), behind_proxy=False, without_key=True)
    for host, behind_proxy in (("0.0.0.0", False), ("127.0.0.1", True)):
        with pytest.raises(InputError, match="--without-key"):
            check_exposure(host, (), behind_proxy=behind_proxy, without_key=False)


def test_a_port_in_use_is_one_sentence():
    with listening_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(InputError, match=rf"^127\.0\.0\.1:{port} cannot be listened on \(address already in use"):
            listening_socket("127.0.0.1", port)
    with pytest.raises(InputError, match="cannot be listened on"):
        listening_socket("127.0.0.1", 70000)
    with pytest.raises(InputError, match="cannot be listened on"):
        listening_socket("192.0.2.1", 0)
