"""What PostgreSQL's errors mean, and connections that are opened again when they break."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from cffa_hf.errors import InputError, RunStopped, one_line
from cffa_hf.search.indexes.addresses import ServerAddress

WRITING = 20  # writes may take this many times the time of a search: they wait for an index that is being built


def import_psycopg() -> tuple[Any, Any]:
    """Import psycopg, and what teaches a connection pgvector's types.

    Raises:
        InputError: If they are not installed.
    """
    try:
        import psycopg
        from pgvector.psycopg import register_vector
    except ImportError as error:
        raise InputError(
            "A gallery on PostgreSQL needs psycopg and pgvector; install them with pip install 'cffa_hf[pgvector]'."
        ) from error
    return psycopg, register_vector


class Connections:
    """Connections to one database, one for each thread that is at work; idle ones are kept.

    Args:
        address: Of the database.
        connect_timeout: In seconds, unless the address has its own.
        timeout: Of a search, in seconds.
    """

    def __init__(self, address: ServerAddress, connect_timeout: int, timeout: float):
        self.address, self.connect_timeout, self.timeout = address, connect_timeout, timeout
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()

    @contextmanager
    def transaction(self, *, writes: bool = False, vectors: bool = True) -> Iterator[Any]:
        """Give a cursor within a transaction that is committed at the end.

        Args:
            writes: It changes something and may take longer.
            vectors: Vectors are sent or received.

        Raises:
            InputError: If the user can mend it.
            RunStopped: If the server is down, slow or full.
        """
        psycopg, _ = import_psycopg()
        connection = None
        try:
            connection = self._take(vectors)
            milliseconds = int(self.timeout * 1000) * (WRITING if writes else 1)
            with connection.transaction(), connection.cursor(binary=True) as cursor:
                cursor.execute("SELECT set_config('statement_timeout', %s, true)", (str(milliseconds),))
                yield cursor
        except psycopg.Error as error:
            raise explain(error, self.address, milliseconds / 1000 if connection else 0) from error
        finally:
            if connection is not None and not connection.closed:
                self._idle.put(connection)

    def close(self) -> None:
        """Close the idle connections."""
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def _take(self, vectors: bool) -> Any:
        psycopg, register_vector = import_psycopg()
        with suppress(queue.Empty):
            while True:
                connection = self._idle.get_nowait()
                with suppress(psycopg.Error):  # the server may have gone and come back since
                    connection.execute("SELECT 1")
                    return connection
                connection.close()
        given = psycopg.conninfo.conninfo_to_dict(self.address.full)
        given.setdefault("connect_timeout", self.connect_timeout)
        # Prepared plans would outlive the settings of a transaction.
        connection = psycopg.connect(**given, autocommit=True, prepare_threshold=None)
        if vectors:
            try:
                register_vector(connection)
            except BaseException:
                connection.close()
                raise
        return connection


def explain(error: Exception, address: ServerAddress, seconds: float) -> Exception:
    """Return what an error of PostgreSQL means: the InputError or RunStopped to raise in its place.

    Args:
        error: Of psycopg.
        address: For the sentence; its password is hidden.
        seconds: That a statement might take.
    """
    psycopg, _ = import_psycopg()
    state, reason = getattr(error, "sqlstate", None) or "", address.hide(one_line(error, 200))
    where = address.public
    if state in ("28P01", "28000") or "password" in reason.lower():
        return InputError(
            f"{where}: the server refuses the user or the password; set PGPASSWORD or a line of ~/.pgpass, and check the "
            "user in the address."
        )
    if state == "3D000" or ("database" in reason and "does not exist" in reason):
        return InputError(f"{where}: there is no such database; make it with createdb or correct the address.")
    if state == "57014":
        return RunStopped(
            f"{where}: the server took longer than {seconds:g} seconds and was told to stop; what was committed is there, "
            "run the same again when it is less busy."
        )
    if state in ("53100", "53200"):
        return RunStopped(
            f"{where}: the server is full ({reason}); what was committed is there, make room and run the same again."
        )
    if state == "42501":
        return InputError(f"{where}: the user may not do this ({reason}); ask the owner of the database to grant it.")
    if state == "42P01":
        return InputError(f"{where}: the table of this gallery is gone ({reason}); embed the images again.")
    if isinstance(error, psycopg.DataError):
        return InputError(f"{where}: PostgreSQL cannot store or compare this ({reason}).")
    if not state or state[:2] in ("08", "57", "53"):
        return RunStopped(
            f"{where}: the server cannot be reached or broke off ({reason}); what was committed is there, run the same "
            "again when the server is up."
        )
    return RunStopped(f"{where}: the server reports {reason}; what was committed is there.")
