"""The service as its users meet it: a real server on the loopback interface."""

import io
import json
import random
import socket
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from cffa_hf.service.gate import BODY_BYTES, UPLOAD_BYTES
from cffa_hf.service.messages import MAX_CHARACTERS, MAX_QUERIES, MAX_RESULTS
from tests.service.serving import KEY, HeldCaptions, raw_request, serving, wait_until

WORDS = ["red", "green", "blue", "white", "black", "shirt", "trousers", "a", "person", "in", "top", "and"]
WHERES = [None, {"camera": "cam_a"}, {"camera": ["cam_a", "cam_b"]}, {"number": {"min": 3, "max": 9}}]


@pytest.fixture(scope="module")
def client(gallery):
    with serving(gallery) as client:
        yield client


def plain(results):
    return [(found.id, found.path, round(found.score, 4), dict(found.metadata)) for found in results]


def received(answer):
    return [(row["id"], row["path"], round(row["score"], 4), row["metadata"]) for row in answer["results"]]


def measured(client, name, **labels):
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


def test_many_users_at_once_get_what_the_gallery_itself_finds(client, gallery):
    chance = random.Random(5)
    requests, expected = [], []
    for _ in range(60):
        texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 12))) for _ in range(chance.randint(1, 4))]
        options = {"k": chance.randint(1, 20), "where": chance.choice(WHERES)}
        options["minimum_score"] = chance.choice([None, None, 0.0])
        one = chance.random() < 0.5
        requests.append({"query": texts[0] if one else texts, **options})
        k = options.pop("k")
        expected.append([plain(gallery.search(text, k, **options)) for text in (texts[:1] if one else texts)])
    before = measured(client, "cffa_batch_size_count")
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda body: client.post("/search", json=body), requests))
    assert {answer.status_code for answer in answers} == {200}
    assert [[received(one) for one in answer.json()["answers"]] for answer in answers] == expected
    assert measured(client, "cffa_batch_size_count") - before < len(requests)


def test_more_like_an_image_leaves_it_out(client, gallery):
    answer = client.post("/search", json={"like": 3, "k": 4, "where": {"camera": "cam_a"}}).json()["answers"][0]
    assert received(answer) == plain(gallery.search_like(3, 4, where={"camera": "cam_a"}))
    assert answer["query"] is None
    assert client.post("/search", json={"like": 10**6}).status_code == 422


def test_an_uploaded_image_finds_itself_and_a_sentence_joins_in(client, gallery):
    path = gallery.image_path(5)
    files = {"image": (path.name, path.read_bytes(), "image/png")}
    found = client.post("/search/image", files=files, data={"k": 3}).json()["answers"][0]["results"]
    assert found[0]["id"] == 5
    assert found[0]["score"] == pytest.approx(1, abs=1e-4)
    data = {"k": "4", "text": "red shirt", "text_weight": "0.3", "where": json.dumps(WHERES[3])}
    both = client.post("/search/image", files=files, data=data).json()["answers"][0]
    direct = gallery.search_image(Image.open(path), 4, text="red shirt", text_weight=0.3, where=WHERES[3])
    assert received(both) == plain(direct)
    assert both["query"] == "red shirt"


def test_vectors_are_those_of_the_embedder(client, gallery):
    texts = ["a red shirt", "blue trousers"]
    answer = client.post("/embed", json={"texts": texts}).json()
    expected = gallery.embedder.captions(texts)
    assert answer["width"] == expected.shape[1]
    assert answer["vectors"] == pytest.approx(expected.numpy(), abs=1e-5)


def test_a_sentence_that_is_cut_says_so(client):
    short, long = client.post("/search", json={"query": ["a red shirt", "red shirt " * 90]}).json()["answers"]
    assert (short["truncated"], long["truncated"]) == (False, True)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"query": "  \n"}, "a sentence is blank"),
        ({"query": "&nbsp;"}, "a sentence is blank"),
        ({"query": ["red", ""]}, "query: String should have at least 1 character"),
        ({"query": "x" * (MAX_CHARACTERS + 1)}, "query: String should have at most"),
        ({"query": ["x"] * (MAX_QUERIES + 1)}, "query: List should have at most"),
        ({"query": []}, "query: List should have at least"),
        ({"query": "red", "like": 1}, "give either query or like"),
        ({}, "give either query or like"),
        ({"query": "red", "k": 0}, "k: "),
        ({"query": "red", "k": MAX_RESULTS + 1}, "k: "),
        ({"query": "red", "k": "3"}, "k: "),
        ({"query": "red", "k": True}, "k: "),
        ({"query": "red", "minimum_score": 2}, "minimum_score: "),
        ({"query": "red", "top": 3}, "top: Extra inputs are not permitted"),
        ({"query": "red", "where": {"color": "x"}}, "color"),
        ({"query": "red", "where": {"camera": {"least": 1}}}, "where: "),
        ({"query": "red", "where": {"camera": []}}, "where: "),
        ({"query": "red", "where": {str(number): 1 for number in range(20)}}, "where: "),
        ({"like": -1}, "like: "),
        ({"like": 2**70}, "like: "),
    ],
)
def test_mistakes_are_answered_in_one_sentence(body, says, client):
    answer = client.post("/search", json=body)
    assert answer.status_code == 422
    sentence = answer.json()["error"]
    assert says in sentence
    assert sentence.endswith(".")
    assert not sentence.endswith("..")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"query": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"query": "red", "minimum_score": NaN}',
        b'{"query": "red", "k": ' + b"9" * 5000 + b"}",
        b'{"query": "red", "where": ' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}",
        b'"red"',
    ],
)
def test_hostile_json_is_a_mistake_of_the_client(content, client):
    answer = client.post("/search", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"error"}


def bomb():
    """A PNG that says it has 2^31 pixels."""
    header = struct.pack(">IIBBBBB", 65535, 32767, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def png(width, height):
    content = io.BytesIO()
    Image.new("L", (width, height)).save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"no image",
        b"",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\nshowpage\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        bomb(),
        png(8000, 4000),
        png(20, 40)[:-30],
    ],
    ids=["text", "empty", "postscript", "svg", "bomb", "32 million pixels", "cut off"],
)
def test_hostile_uploads_are_refused(content, client):
    answer = client.post("/search/image", files={"image": ("a.png", content, "image/png")})
    assert answer.status_code == 422
    assert "cannot be read as an image" in answer.json()["error"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"where": "{"}, "where: "),
        ({"where": '{"color": 1}'}, "color"),
        ({"text": "  "}, "blank"),
        ({"text_weight": "nan"}, "text_weight"),
        ({"more": "1"}, "more: Extra inputs"),
        ({"k": "0"}, "k: "),
    ],
)
def test_mistakes_in_forms(data, says, client, gallery):
    files = {"image": ("a.png", gallery.image_path(0).read_bytes(), "image/png")}
    answer = client.post("/search/image", files=files, data=data)
    assert answer.status_code == 422
    assert says in answer.json()["error"]
    assert client.post("/search/image", data={"text": "red"}).status_code == 422


def test_too_large_bodies_are_refused_whether_they_say_so_or_not(client):
    said = client.post("/search", content=b" " * (BODY_BYTES + 1))
    silent = client.post("/search", content=iter([b" " * 2**16] * 6), headers={"content-type": "application/json"})
    upload = client.post("/search/image", files={"image": ("a.png", b"x" * (UPLOAD_BYTES + 1), "image/png")})
    for answer in (said, silent, upload):
        assert answer.status_code == 413
        assert "send less" in answer.json()["error"]
    liar = raw_request(client.port, b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n")
    assert b" 413 " in liar.recv(100)
    liar.close()


def test_a_body_that_does_not_arrive_is_not_waited_for(gallery):
    with serving(gallery, deadline_seconds=0.2) as client:
        head = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{"
        slow = raw_request(client.port, head)
        assert b" 408 " in slow.recv(100)
        slow.close()


def test_only_the_gallerys_own_files_are_sent(client, gallery):
    answer = client.get("/images/2")
    assert answer.content == gallery.image_path(2).read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    for path in ("../../etc/passwd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "%2Fetc%2Fpasswd", "0/../../gallery.json", "-1"):
        request = f"GET /images/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        with raw_request(client.port, request) as connection:
            content = b"".join(iter(lambda: connection.recv(2**16), b""))
        assert content.split()[1] in (b"404", b"422")
        assert b"root:" not in content
    for number in (len(gallery), 10**15, 2**63 - 1):
        assert client.get(f"/images/{number}").status_code == 404


def test_a_file_that_is_no_image_is_not_sent_whatever_the_gallery_says(client, gallery, tmp_path, monkeypatch):
    (tmp_path / "secret.png").write_text("root:x:0:0")
    monkeypatch.setattr(gallery, "image_path", lambda item: tmp_path / "secret.png", raising=False)
    answer = client.get("/images/0")
    assert answer.status_code == 404
    assert "secret" not in answer.text


def test_unknown_paths_and_methods_are_sentences_too(client):
    assert client.get("/nothing").json() == {"error": "Not Found."}
    assert client.delete("/search").status_code == 405
    assert client.get("/redoc").status_code == 404


def test_the_description_is_valid_and_its_page_loads_nothing(client):
    schema = client.get("/openapi.json").json()
    assert schema["openapi"].startswith("3.")
    paths = {"/search", "/search/image", "/embed", "/images/{item}", "/health", "/metrics"}
    assert set(schema["paths"]) == paths
    names = set(schema["components"]["schemas"])
    references = set()

    def follow(part):
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            if key == "$ref":
                references.add(value)
            elif isinstance(value, dict | list):
                follow(value)

    follow(schema)
    assert references <= {f"#/components/schemas/{name}" for name in names}
    operations = [operation for methods in schema["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    page = client.get("/docs")
    assert all(path in page.text for path in paths)
    assert not [word for word in ("<script", "src=", "<link", "http://", "https://") if word in page.text]
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_health_and_metrics(client, gallery):
    health = client.get("/health").json()
    assert health["status"] == "ready"
    assert health["gallery"]["images"] == len(gallery)
    assert measured(client, "cffa_requests_total", endpoint="/health", status="200") >= 1
    assert measured(client, "cffa_request_seconds_count", endpoint="/health") >= 1
    assert measured(client, "cffa_queue_length") == 0


def test_a_key_opens_everything_and_without_it_only_health_is_open(gallery, capsys):
    with serving(gallery, keys=("another-key-0123456789", KEY)) as client:
        allowed = {"Authorization": f"Bearer {KEY}"}
        for method, path in (("POST", "/search"), ("GET", "/metrics"), ("GET", "/docs"), ("GET", "/nothing")):
            for headers in ({}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": KEY}):
                answer = client.request(method, path, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert KEY not in answer.text
        assert client.post("/search", json={"query": "red"}, headers=allowed).status_code == 200
        assert client.get("/health").json() == {"status": "ready", "gallery": None}
        assert client.get("/health", headers=allowed).json()["gallery"]["images"] == len(gallery)
        assert KEY not in client.get("/metrics", headers=allowed).text
    captured = capsys.readouterr()
    assert KEY not in captured.out + captured.err


def test_each_client_has_its_own_rate(gallery):
    with serving(gallery, keys=(KEY, KEY[::-1]), requests_per_minute=3) as client:
        first, second = ({"Authorization": f"Bearer {key}"} for key in (KEY, KEY[::-1]))
        statuses = [client.get("/metrics", headers=first).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        refused = client.get("/metrics", headers=first)
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        assert client.get("/metrics", headers=second).status_code == 200
        assert client.get("/health", headers=first).status_code == 200


def test_other_names_are_refused_where_only_this_machine_may_ask(gallery):
    with serving(gallery, local_names_only=True) as client:
        assert client.get("/health", headers={"Host": "evil.example"}).status_code == 421
        for name in ("localhost:9", "127.0.0.1", "[::1]:80"):
            assert client.get("/health", headers={"Host": name}).status_code == 200


def test_overload_is_refused_and_what_was_admitted_is_answered_right(gallery):
    expected = {text: plain(gallery.search(text, 3)) for text in WORDS}
    with serving(gallery, queue_size=32, batch_size=8, gather_milliseconds=1) as client:
        with HeldCaptions(gallery) as held, ThreadPoolExecutor(150) as pool:
            asked = [(text, pool.submit(client.post, "/search", json={"query": text, "k": 3})) for text in WORDS * 10]
            held.started.wait(60)
            wait_until(lambda: sum(future.done() for _, future in asked) >= len(asked) - 32 - 8)
            held.released.set()
        answers = [(text, future.result()) for text, future in asked]
        statuses = [answer.status_code for _, answer in answers]
        assert set(statuses) == {200, 503}
        assert 32 < statuses.count(200) <= 40
        for text, answer in answers:
            if answer.status_code == 200:
                assert received(answer.json()["answers"][0]) == expected[text]
            else:
                assert int(answer.headers["retry-after"]) >= 1
                assert "try again" in answer.json()["error"]
        assert measured(client, "cffa_refused_total", reason="queue_full") == statuses.count(503)


def test_what_is_not_answered_in_time_is_503(gallery):
    with serving(gallery, deadline_seconds=0.3, gather_milliseconds=0) as client, HeldCaptions(gallery) as held:
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda text: client.post("/search", json={"query": text}), ["red", "blue"]))
        assert [answer.status_code for answer in answers] == [503, 503]
        assert "took too long" in answers[0].json()["error"]
        held.released.set()
        wait_until(lambda: client.post("/search", json={"query": "red"}).status_code == 200)


def test_a_client_that_hangs_up_is_not_worked_for(gallery):
    with serving(gallery, gather_milliseconds=0) as client, HeldCaptions(gallery) as held:
        service = client.app.state.service
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.post, "/search", json={"query": "red"})
            held.started.wait(60)
            body = b'{"query": "blue"}'
            head = f"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            gone = raw_request(client.port, head.encode() + b"\r\n\r\n" + body)
            wait_until(lambda: service.batcher.waiting == 1)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
            wait_until(lambda: service.batcher.waiting == 0)
            held.released.set()
            assert first.result().status_code == 200
        wait_until(lambda: measured(client, "cffa_dropped_total") == 1)
        assert measured(client, "cffa_refused_total", reason="gone") == 1


def test_a_failure_is_a_sentence_and_the_service_goes_on(gallery):
    with serving(gallery, gather_milliseconds=0) as client:
        gallery.embedder.captions = lambda texts: 1 / 0
        try:
            answer = client.post("/search", json={"query": "red"})
        finally:
            del gallery.embedder.captions
        assert answer.status_code == 500
        assert answer.json() == {"error": "The service failed at this request; its log says why."}
        assert client.post("/search", json={"query": "red"}).status_code == 200


def test_draining_answers_what_waits_and_says_so(gallery):
    with (
        serving(gallery, gather_milliseconds=0) as client,
        HeldCaptions(gallery) as held,
        ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(client.post, "/search", json={"query": "red"})
        held.started.wait(60)
        client.app.state.service.drain()
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "draining")
        assert client.post("/search", json={"query": "blue"}).status_code == 503
        held.released.set()
        assert waiting.result().status_code == 200


def test_a_server_that_ended_leaves_neither_port_nor_thread(gallery):
    before = set(threading.enumerate())
    with serving(gallery) as client:
        client.post("/search", json={"query": "red"})
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{client.port}/health")
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("answers")]
