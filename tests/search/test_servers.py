"""Galleries on servers: a real PostgreSQL with pgvector, and Qdrant in its client's local mode."""

import multiprocessing
import socket
import threading
import time
import zlib
from importlib.util import find_spec

import numpy as np
import pytest

from cffa_hf.errors import InputError, RunStopped
from cffa_hf.search.filters import Condition
from cffa_hf.search.indexes.addresses import parse_address
from cffa_hf.search.indexes.pgvector_index import PgvectorIndex
from cffa_hf.search.indexes.qdrant_index import QdrantIndex
from cffa_hf.search.indexes.servers import connect_index, recorded_address, synchronise
from tests.search import postgres_server

WIDTH = 24
ROWS = {"pgvector": 400, "qdrant": 100}  # the local mode of Qdrant's client is slow
KINDS = [
    pytest.param(
        "pgvector",
        marks=pytest.mark.skipif(not postgres_server.INSTALLED, reason=postgres_server.REASON),
        id="pgvector",
    ),
    pytest.param(
        "qdrant", marks=pytest.mark.skipif(not find_spec("qdrant_client"), reason="needs qdrant-client"), id="qdrant"
    ),
]
needs_postgres = KINDS[0].marks[0]


@pytest.fixture(scope="module")
def server():
    if not postgres_server.INSTALLED:
        pytest.skip(postgres_server.REASON)
    with postgres_server.running_postgres() as running:
        yield running


@pytest.fixture
def connect(request, tmp_path):
    """Open galleries of a back end; all are closed at the end."""
    opened = []

    def open_index(kind, name="lobby", width=WIDTH, fingerprint="model one", **options):
        if kind == "pgvector":
            # Each test has tables of its own: the name of a test is part of the gallery's.
            unique = f"{name}_{zlib.crc32(request.node.nodeid.encode())}"
            address = parse_address(f"{request.getfixturevalue('server').url}#{unique}")
            index = PgvectorIndex(address, width, fingerprint, **options)
        else:
            index = QdrantIndex(parse_address(f"{tmp_path / 'qdrant'}#{name}"), width, fingerprint, **options)
        opened.append(index)
        return index

    yield open_index
    for index in opened:
        index.close()


def make_rows(count=400, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, WIDTH)).astype(np.float32)
    vectors[5] = vectors[9]  # a tie
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    metadata = [
        {
            "camera": f"cam_{row % 7}",
            "time": f"2024-01-{1 + row % 28:02d}T{row % 24:02d}:00:00.000000",
            "height": 150 + row % 40 + 0.5,
        }
        for row in range(count)
    ]
    for row in range(0, count, 11):
        del metadata[row]["height"]
    return np.arange(count, dtype=np.int64), vectors, metadata


def passes(row, condition):
    value = row.get(condition.column)
    if value is None or (condition.values is not None and value not in condition.values):
        return False
    if (condition.low is not None or condition.high is not None) and isinstance(value, str) != isinstance(
        condition.low if condition.low is not None else condition.high, str
    ):
        return False
    return (condition.low is None or value >= condition.low) and (condition.high is None or value <= condition.high)


def slow_search(ids, vectors, metadata, queries, k, conditions=()):
    stored = vectors.astype(np.float16).astype(np.float32)
    found = []
    for query in queries:
        rows = [
            (-float(np.float32(np.einsum("j,j->", stored[place], query))), int(ids[place]))
            for place in range(len(ids))
            if all(passes(metadata[place], condition) for condition in conditions)
        ]
        found.append(sorted(rows)[:k])
    return found


def same(found, expected, k):
    scores, ids = found
    for place, rows in enumerate(expected):
        filled = [number for _, number in rows] + [-1] * (k - len(rows))
        assert ids[place].tolist() == filled
        np.testing.assert_allclose(scores[place][: len(rows)], [-score for score, _ in rows], atol=1e-5)
        assert np.isneginf(scores[place][len(rows) :]).all()


CONDITIONS = [
    (),
    (Condition("camera", ("cam_1",)),),
    (Condition("camera", ("cam_1", "cam_5", "nobody's")),),
    (Condition("camera", tuple(f"cam_{number}" for number in range(3, 40))),),
    (Condition("height", (150.5, 171.5)),),
    (Condition("height", None, 160.5, 165.5), Condition("camera", ("cam_2", "cam_3"))),
    (Condition("height", None, None, 151.0),),
    (Condition("time", None, "2024-01-10T00:00:00.000000", "2024-01-12T23:59:59.999999"),),
    (Condition("time", None, "2024-01-28T00:00:00.000000", None), Condition("height", None, 170.0, None)),
    (Condition("height", ("150.5",)),),
    (Condition("missing", ("x",)),),
    (Condition("camera", None, 1.0, None),),
]


@pytest.mark.parametrize("kind", KINDS)
def test_filters_return_what_a_slow_search_does(connect, kind):
    ids, vectors, metadata = make_rows(ROWS[kind])
    index = connect(kind, batch_size=150)
    index.add(ids, vectors, metadata)
    queries = np.concatenate([vectors[:1], vectors[9:10]])
    for conditions in CONDITIONS:
        found = index.search(queries, 12, conditions)
        same(found, slow_search(ids, vectors, metadata, queries, 12, conditions), 12)
    scores, found = index.search(queries[1:], 2)
    assert found.tolist() == [[5, 9]]
    assert scores[0, 0] == scores[0, 1]
    # More than there are; then removed; then added again with other metadata.
    assert (index.search(queries, len(ids) + 3)[1][:, -3:] == -1).all()
    index.remove(np.array([5, 7, 10**6]))
    assert len(index) == len(ids) - 2
    assert set(index.ids()) == set(ids) - {5, 7}
    assert index.search(queries[1:], 1)[1].tolist() == [[9]]
    index.add(ids[9:10], vectors[9:10], [{"camera": "new"}])
    assert index.search(queries[1:], 2, (Condition("camera", ("new",)),))[1].tolist() == [[9, -1]]


@pytest.mark.parametrize("kind", KINDS)
def test_approximate_search_finds_filtered_rows_too(connect, kind):
    ids, vectors, metadata = make_rows(ROWS[kind])
    index = connect(kind, exact_rows=20)
    index.add(ids, vectors, metadata)
    queries = vectors[:5]
    for conditions in ((), (Condition("camera", ("cam_1", "cam_2")),)):
        _, found = index.search(queries, 10, conditions)
        expected = slow_search(ids, vectors, metadata, queries, 10, conditions)
        hits = sum(
            len(set(row.tolist()) & {number for _, number in rows}) for row, rows in zip(found, expected, strict=True)
        )
        assert hits >= 0.95 * sum(map(len, expected))
    rare = (Condition("time", None, "2024-01-03T00:00:00.000000", "2024-01-04T23:59:59.999999"),)
    same(index.search(queries, 50, rare), slow_search(ids, vectors, metadata, queries, 50, rare), 50)


@pytest.mark.parametrize("kind", KINDS)
def test_another_model_or_width_is_refused(connect, kind):
    ids, vectors, metadata = make_rows(10)
    first = connect(kind)
    first.add(ids, vectors, metadata)
    with pytest.raises(InputError, match="finite"):
        first.add(ids, vectors[:, :3], metadata)
    with pytest.raises(InputError, match="finite"):
        first.add(ids, vectors * np.nan, metadata)
    if kind == "qdrant":  # a folder has one user
        with pytest.raises(RunStopped, match="another program has this collection open"):
            connect(kind)
        first.close()
    with pytest.raises(InputError, match=r"holds vectors of another model \(24 dimensions\)"):
        connect(kind, fingerprint="model two")
    with pytest.raises(InputError, match="another model"):
        connect(kind, width=WIDTH + 1)
    assert len(connect(kind)) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_comes_to_hold_what_the_gallery_holds(connect, kind):
    ids, vectors, metadata = make_rows(30)

    class Rows:
        def __init__(self):
            self.vectors = vectors.astype(np.float16)

        def get(self, numbers):
            return {number: (f"{number}.jpg", metadata[number]) for number in numbers}

    index = connect(kind)
    index.add(ids[:12], vectors[:12], metadata[:12])
    synchronise(index, Rows(), ids[3:])
    synchronise(index, Rows(), ids[3:])
    assert index.ids().tolist() == list(range(3, 30))
    same(index.search(vectors[:2], 5), slow_search(ids[3:], vectors[3:], metadata[3:], vectors[:2], 5), 5)


HOSTILE = [
    "x'); DROP TABLE gallery_lobby; --",
    'a"; DELETE FROM cffa_hf_galleries; --',
    "%s %(name)s {table}",
    "' OR true --",
    "\\' OR 1=1",
    "straße 😀",
]


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_texts_are_only_texts(connect, kind):
    ids, vectors, _ = make_rows(10)
    ids, vectors = ids[: len(HOSTILE)], vectors[: len(HOSTILE)]
    index = connect(kind)
    index.add(ids, vectors, [{"camera": text} for text in HOSTILE])
    for place, text in enumerate(HOSTILE):
        _, found = index.search(vectors[:1], 9, (Condition("camera", (text,)),))
        assert found[0][found[0] >= 0].tolist() == [place]
        if kind == "pgvector":  # names reach Qdrant only as plain words
            for condition in (
                Condition(text, ("x",)),
                Condition(text, None, 1.0, 2.0),
                Condition(text, None, "a", "z"),
            ):
                assert (index.search(vectors[:1], 9, (condition,))[1] == -1).all()
            _, found = index.search(vectors[:1], 9, (Condition("camera", None, text, text),))
            assert found[0][found[0] >= 0].tolist() == [place]
        else:
            with pytest.raises(InputError, match="letters, digits and underscores"):
                index.search(vectors[:1], 9, (Condition(text, ("x",)),))
            with pytest.raises(InputError, match="no ranges of texts"):
                index.search(vectors[:1], 9, (Condition("camera", None, text, text),))
    assert len(index) == len(HOSTILE)
    for name in ('x"; DROP TABLE y', "Lobby", "a" * 41, "1a"):
        with pytest.raises(InputError, match="named, behind the #"):
            parse_address(f"postgresql://host/db#{name}")


def test_values_that_postgres_cannot_store_are_refused(connect):
    ids, vectors, _ = make_rows(10)
    index = connect("pgvector")
    with pytest.raises(InputError, match="character NUL"):
        index.add(ids[:1], vectors[:1], [{"camera": "a\0b"}])
    with pytest.raises(InputError, match="finite numbers"):
        index.add(ids[:1], vectors[:1], [{"camera": float("inf")}])
    with pytest.raises(InputError, match="cannot store or compare"):
        index.search(vectors[:1], 1, (Condition("camera", None, "a\0b", None),))
    assert len(index) == 0
    index.add(ids[:1], vectors[:1], [{}])
    with pytest.raises(InputError, match="id 0 belongs to another image"):
        index.add(ids[:2], vectors[3:5], [{}, {}])
    assert index.ids().tolist() == [0]


def test_threads_search_while_another_adds(connect):
    ids, vectors, metadata = make_rows()
    index = connect("pgvector", batch_size=20)
    index.add(ids[:50], vectors[:50], metadata[:50])
    failures = []

    def search():
        for _ in range(15):
            _, found = index.search(vectors[:1], 1)
            if found.tolist() != [[0]]:
                failures.append(found)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    index.add(ids[50:], vectors[50:], metadata[50:])
    for thread in threads:
        thread.join()
    assert not failures
    assert len(index) == 400


def write_rows(address, seed, barrier, ids):
    index = connect_index(address, WIDTH, "model one")
    _, vectors, metadata = make_rows(200, seed=seed)
    barrier.wait()
    for start in range(0, len(vectors), 25):
        part = slice(start, start + 25)
        reserved = index.reserve(len(vectors[part]))
        index.add(reserved, vectors[part], metadata[part])
        ids.put(reserved.tolist())
    index.close()


def test_two_processes_add_at_once(server):
    address = f"{server.url}#two_processes"
    context = multiprocessing.get_context("fork")
    barrier, queues = context.Barrier(2), [context.Queue(), context.Queue()]
    writers = [
        context.Process(target=write_rows, args=(address, seed, barrier, ids))
        for seed, ids in enumerate(queues, start=1)
    ]
    for writer in writers:
        writer.start()
    ids = [[number for _ in range(8) for number in own.get(timeout=60)] for own in queues]
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    index = connect_index(address, WIDTH, "model one")
    assert sorted(ids[0] + ids[1]) == list(range(400)) == index.ids().tolist()
    for seed, own in zip((1, 2), ids, strict=True):
        _, vectors, _ = make_rows(200, seed=seed)
        assert index.search(vectors[20:60], 1)[1][:, 0].tolist() == own[20:60]
    index.close()


def test_a_killed_server_keeps_what_was_committed_and_the_add_goes_on(server):
    address = parse_address(f"{server.url}#killed")
    index = PgvectorIndex(address, WIDTH, "model one", batch_size=10)
    ids, vectors, metadata = make_rows(3000)
    stopped = []

    def add():
        try:
            index.add(ids, vectors, metadata)
        except RunStopped as error:
            stopped.append(str(error))

    thread = threading.Thread(target=add)
    watcher = PgvectorIndex(address, WIDTH, "model one")
    thread.start()
    while not (committed := len(watcher)):
        time.sleep(0.005)
    server.kill()
    thread.join()
    try:
        assert len(stopped) == 1
        assert "what was committed is there" in stopped[0]
        assert "let me in" not in stopped[0]
        with pytest.raises(RunStopped, match="cannot be reached or broke off"):
            watcher.search(vectors[:1], 1)
    finally:
        server.start()
    there = watcher.ids()  # by a new connection
    assert committed <= len(there) < 3000
    assert len(there) % 10 == 0
    assert there.tolist() == list(range(len(there)))
    index.add(ids, vectors, metadata)
    assert len(watcher) == 3000
    same(watcher.search(vectors[:2], 5), slow_search(ids, vectors, metadata, vectors[:2], 5), 5)
    index.close()
    watcher.close()


def test_what_the_server_refuses_is_one_sentence_without_the_password(server, monkeypatch):
    import psycopg

    wrong = f"postgresql://postgres:not%20this@127.0.0.1:{server.port}/postgres#lobby"
    absent = server.url.replace("/postgres", "/nowhere").replace("//nowhere", "//postgres")
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'let me in'")
        connection.execute("CREATE DATABASE empty")
    guest = server.url.replace("postgres:let", "guest:let").rpartition("/")[0] + "/empty"
    for address, words in (
        (wrong, "refuses the user or the password; set PGPASSWORD"),
        (wrong.replace(":not%20this", ""), "refuses the user or the password"),
        (f"{absent}#lobby", "no such database"),
        (f"{guest}#lobby", "the user may not do this"),
        (server.url, "lacks the gallery's name"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            connect_index(address, WIDTH, "model one")
        assert not [word for word in ("not%20this", "not this", "let me", "let%20me") if word in str(caught.value)]
        assert str(caught.value).endswith(".")
    # From the environment it is taken, and what is recorded has none.
    monkeypatch.setenv("PGPASSWORD", "let me in")
    index = connect_index(f"{server.url.replace(':let%20me%20in', '')}#recorded", WIDTH, "model one")
    index.address = parse_address(f"{server.url}#recorded")  # as if it had been opened with the password
    recorded = recorded_address(index)
    assert "let" not in recorded
    index.close()
    again = connect_index(recorded, WIDTH, "model one")
    assert len(again) == 0
    again.close()


def test_a_server_that_is_down_slow_or_full_stops_the_run(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(RunStopped, match="cannot be reached"):
            connect_index(f"postgresql://me:secret@127.0.0.1:{port}/db#lobby", WIDTH, "model one")
        free.listen()  # accepts and never answers
        address = parse_address(f"postgresql://me:secret@127.0.0.1:{port}/db?connect_timeout=2#lobby")
        with pytest.raises(RunStopped, match="cannot be reached") as caught:
            PgvectorIndex(address, WIDTH, "model one")
        assert "secret" not in str(caught.value)
    import psycopg

    address = parse_address(f"{server.url}#slow")
    index = PgvectorIndex(address, WIDTH, "model one")
    index.close()
    index = PgvectorIndex(address, WIDTH, "model one", timeout=0.2)
    _, vectors, _ = make_rows(10)
    with psycopg.connect(server.url) as connection:
        connection.execute("LOCK TABLE gallery_slow")
        with pytest.raises(RunStopped, match=r"longer than 0\.2 seconds"):
            index.search(vectors[:1], 1)
    assert (index.search(vectors[:1], 1)[1] == -1).all()
    # A full disk, as the server reports it.
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
        )
        connection.execute("CREATE TRIGGER full_disk BEFORE INSERT ON gallery_slow EXECUTE FUNCTION full_disk()")
    with pytest.raises(RunStopped, match=r"the server is full \(could not extend file"):
        index.add(np.array([1]), vectors[:1], [{}])
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP TABLE gallery_slow")
    with pytest.raises(InputError, match="table of this gallery is gone"):
        index.search(vectors[:1], 1)
    index.close()


@pytest.mark.skipif(not find_spec("qdrant_client"), reason="needs qdrant-client")
def test_a_qdrant_server_that_is_down_stops_the_run():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RunStopped, match="cannot be reached"):
        connect_index(f"qdrant:http://127.0.0.1:{port}#lobby", WIDTH, "model one")
    index = connect_index("qdrant::memory:#lobby", WIDTH, "model one")
    assert recorded_address(index) == "qdrant::memory:#lobby"
    index.close()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("postgresql://u:p%40ss@h:5/db?sslmode=require&password=hh#l", "postgresql://u@h:5/db?sslmode=require"),
        ("postgresql:///db#l", "postgresql:///db"),
        ("postgresql://h1,h2/db#l", "postgresql://h1,h2/db"),
        ("http://key:secret@h:6333?api_key=x#l", "http://key@h:6333"),
    ],
)
def test_passwords_are_taken_out_of_addresses(address, public):
    parsed = parse_address(address)
    assert (parsed.public, parsed.name) == (public, "l")
    assert parsed.hide("the words p%40ss and p@ss") == (
        "the words ... and ..." if "p%40ss" in address else "the words p%40ss and p@ss"
    )
    for unreadable in ("postgresql://[::1/db#l", "postgresql://u:a#b@h/db"):
        with pytest.raises(InputError) as caught:
            parse_address(unreadable)
        assert "b@h" not in str(caught.value)
    with pytest.raises(InputError, match="begins with postgresql:// or qdrant:"):
        connect_index("mysql://h/db#l", 3, "x")
