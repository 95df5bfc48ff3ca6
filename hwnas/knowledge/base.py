"""A database of finished searches: SQLite in one file, or any database that SQLAlchemy knows.

Several processes may write at once: each record is added in one transaction, and a process waits
while another one writes. The version of the schema is in the database; older ones are migrated when
they are opened, and newer ones are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.errors import InputError, first_line
from hwnas.knowledge.records import RememberedSearch
from hwnas.spaces.base import SearchSpace

if TYPE_CHECKING:
    from alembic.operations import Operations
    from sqlalchemy import Connection, Engine

WAIT_S = 60
"""Seconds for which a process waits while others write."""


def _first_tables(operations: Operations) -> None:
    """Version 1: one row for each search, with its record as JSON."""
    from sqlalchemy import Column, Integer, String, Text

    operations.create_table(
        "searches",
        Column("id", Integer, primary_key=True),
        Column("digest", String(64), nullable=False, unique=True),
        Column("space", String(200), nullable=False, index=True),
        Column("record", Text, nullable=False),
    )


MIGRATIONS: tuple[Callable[[Operations], None], ...] = (_first_tables,)
"""What each version of the schema changes in the tables of the one before."""


class KnowledgeBase:
    """The searches in a database, which is made if there is none.

    Args:
        location: a file, or the URL of a database.
        where: how errors name it, such as the key of the configuration.

    Raises:
        InputError: when it cannot be opened, or was written by a newer version of hwnas.
    """

    def __init__(self, location: str | Path, where: str = "knowledge") -> None:
        self.where = f"{where} {location}"
        self.engine = self._engine(str(location))
        with self._transaction() as connection:
            self._migrate(connection)

    @classmethod
    def existing(cls, location: str | Path, where: str = "knowledge") -> KnowledgeBase:
        """Open a base that is only read.

        Raises:
            InputError: when there is none.
        """
        if "://" not in str(location) and not Path(location).is_file():
            mend = "`hwnas remember DIR --knowledge FILE` makes one"
            raise InputError("no such knowledge base", where=f"{where} {location}", mend=mend)
        return cls(location, where)

    def add(self, search: RememberedSearch) -> bool:
        """Add a search; False if it is there already.

        Raises:
            InputError: when the database cannot be written.
        """
        return self.add_all([search]) == 1

    def add_all(self, searches: Iterable[RememberedSearch]) -> int:
        """Add those searches that are not there yet, all or none; their number.

        Raises:
            InputError: when the database cannot be written.
        """
        from sqlalchemy import text

        known = "SELECT 1 FROM searches WHERE digest = :digest"
        insert = "INSERT INTO searches (digest, space, record) VALUES (:digest, :space, :record)"
        added = 0
        with self._transaction() as connection:
            for one in searches:
                digest = {"digest": one.digest}
                if connection.execute(text(known), digest).first() is None:
                    row = digest | {"space": one.space, "record": one.model_dump_json()}
                    connection.execute(text(insert), row)
                    added += 1
        return added

    def searches(self, space: SearchSpace | None = None) -> list[RememberedSearch]:
        """All searches in the order in which they were added, or those of a space's choices.

        Raises:
            InputError: when the database cannot be read, or a record is malformed.
        """
        from sqlalchemy import text

        query = "SELECT id, record FROM searches ORDER BY id"
        if space is not None:
            query = "SELECT id, record FROM searches WHERE space = :space ORDER BY id"
        with self._transaction() as connection:
            named = {} if space is None else {"space": space.name}
            rows = connection.execute(text(query), named).all()
        found = [
            RememberedSearch.from_line(record, f"{self.where}: search {number}")
            for number, record in rows
        ]
        return [one for one in found if space is None or one.is_of(space)]

    def write_lines(self, path: Path) -> int:
        """Write all searches as lines of JSON to a file; their number."""
        from hwnas.durable import write_atomic

        searches = self.searches()
        write_atomic(path, "".join(one.model_dump_json() + "\n" for one in searches))
        return len(searches)

    def read_lines(self, path: Path) -> int:
        """Add the searches of a file that `write_lines` wrote, all or none; how many were new.

        Raises:
            InputError: when the file is missing or a line is malformed.
        """
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError("cannot be read", where=str(path), actual=error) from None
        numbered = enumerate(lines, start=1)
        return self.add_all(
            [RememberedSearch.from_line(line, f"{path}: line {n}") for n, line in numbered if line]
        )

    def _engine(self, location: str) -> Engine:
        from sqlalchemy import URL, create_engine, event

        if "://" not in location:
            path = Path(location).absolute()
            if not path.parent.is_dir():
                raise InputError("no such folder", where=self.where)
            url: str | URL = URL.create("sqlite", database=str(path))
        else:
            url = location
        is_sqlite = str(url).startswith("sqlite")
        try:
            engine = create_engine(url, connect_args={"timeout": WAIT_S} if is_sqlite else {})
        except Exception as error:  # depends on the driver
            raise self._refusal(error) from None
        if is_sqlite:
            # Python's sqlite3 begins a transaction at the first write: two processes could both
            # have read before that.
            event.listen(engine, "connect", lambda c, _: setattr(c, "isolation_level", None))
            event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
        return engine

    def _migrate(self, connection: Connection) -> None:
        """Bring the tables to the newest version of the schema."""
        from alembic.migration import MigrationContext
        from alembic.operations import Operations
        from sqlalchemy import text

        connection.execute(text("CREATE TABLE IF NOT EXISTS knowledge_schema (version INTEGER)"))
        version = connection.execute(text("SELECT MAX(version) FROM knowledge_schema")).scalar()
        if (version or 0) > len(MIGRATIONS):
            raise InputError(
                "the knowledge base was written by a newer version of hwnas",
                where=self.where,
                expected=f"schema {len(MIGRATIONS)} or older",
                actual=version,
            )
        operations = Operations(MigrationContext.configure(connection))
        for number, change in enumerate(MIGRATIONS[version or 0 :], start=(version or 0) + 1):
            change(operations)
            connection.execute(text("INSERT INTO knowledge_schema VALUES (:n)"), {"n": number})

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """A transaction that is committed at the end and rolled back after an error."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self.engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._refusal(error) from None

    def _refusal(self, error: Exception) -> InputError:
        cause = getattr(error, "orig", None) or error
        return InputError(
            "the knowledge base cannot be used",
            where=self.where,
            expected="an SQLite file that can be written, or the URL of a database",
            actual=first_line(cause),
        )
