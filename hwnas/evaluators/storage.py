"""Studies of Optuna as the memory that several processes share."""

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
    """The study of a name; made if there is none.

    Args:
        storage: a database's URL, or a file for a journal.
        name: of the study.
        direction: `minimize` or `maximize`.
        where: names the storage in errors.

    Raises:
        InputError: when it cannot be opened.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if "://" not in storage and not Path(storage).parent.is_dir():
        raise InputError("no such folder", where=where, actual=storage)
    try:
        return optuna.create_study(
            study_name=name, storage=_storage(storage), load_if_exists=True, direction=direction
        )
    except Exception as error:  # of whichever driver or format it is
        raise InputError("cannot be opened", where=f"{where} {storage}", actual=error) from None


def _storage(storage: str) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if "://" in storage:
        return RDBStorage(storage)
    return JournalStorage(JournalFileBackend(storage))
