"""Optuna studies as storage that several processes share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hwnas.errors import InputError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage


def open_study(
    storage: str, name: str, direction: Literal["minimize", "maximize"], where: str
) -> Study:
    """Open a study, or create it if it does not exist.

    Args:
        storage: URL of a database, or path of a journal file.
        name: name of the study.
        direction: whether the study's values are minimised or maximised.
        where: key of the storage in the configuration, for error messages.

    Raises:
        InputError: the storage cannot be opened.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if "://" not in storage and not Path(storage).parent.is_dir():
        raise InputError(
            "no such folder",
            where=where,
            expected="a database URL, or a file in an existing folder",
            actual=storage,
        )
    try:
        return optuna.create_study(
            study_name=name, storage=_storage(storage), load_if_exists=True, direction=direction
        )
    except Exception as error:  # depends on the storage's driver
        raise InputError(
            "the storage cannot be opened", where=f"{where} {storage}", actual=error
        ) from None


def _storage(storage: str) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage

    from hwnas.evaluators.journal import DurableJournal

    if "://" in storage:
        return RDBStorage(storage)
    return JournalStorage(DurableJournal(storage))
