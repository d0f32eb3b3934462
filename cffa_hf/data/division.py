"""How the identities were divided into splits, kept with the data for records and cards."""

from collections.abc import Mapping, Sequence
from typing import Literal

from datasets import Dataset, DatasetDict
from pydantic import BaseModel, ConfigDict

from cffa_hf.data.rows import PersonRow, count


class Division(BaseModel):
    """How the identities of a dataset were divided.

    Attributes:
        how: "source": the splits are the source's own; "held out": validation was drawn from its train split; "divided":
            it had no splits, and all were drawn.
        seed: Drew the identities; None where nothing was drawn.
        identities: Number of identities in each split.
    """

    model_config = ConfigDict(frozen=True)

    how: Literal["source", "held out", "divided"]
    seed: int | None = None
    identities: dict[str, int] = {}

    @property
    def drawn(self) -> tuple[str, ...]:
        """Return the splits whose people were drawn here."""
        return {"source": (), "held out": ("train", "validation"), "divided": ("train", "validation", "test")}[self.how]

    @property
    def sentence(self) -> str:
        """Say how the people were divided."""
        if self.how == "source":
            return "The splits are those of the source."
        if self.how == "held out":
            drawn = count(self.identities.get("validation", 0), "identity")
            return f"{drawn} of the source's train split, drawn with seed {self.seed}, are held out for validation."
        parts = ", ".join(f"{number:,} for {split}" for split, number in self.identities.items())
        return f"The source has no splits; its identities were divided with seed {self.seed}: {parts}."


class PersonDatasetDict(DatasetDict):
    """Splits in the dataset form, and how their people were divided.

    Args:
        splits: By name.
        division: How people came into them.
    """

    def __init__(self, splits: Mapping[str, Dataset], division: Division):
        super().__init__(splits)
        self.division = division


def division_between(before: Sequence[PersonRow], after: Sequence[PersonRow], seed: int) -> Division:
    """Describe what was done to the splits of rows.

    Args:
        before: As the source has them.
        after: As they are used.
        seed: Drew the identities, if any were.
    """
    people: dict[str, set[int]] = {}
    for row in after:
        people.setdefault(str(row.split), set()).add(row.person_id)
    order = [split for split in ("train", "validation", "test") if split in people]
    identities: dict[str, int] = {split: len(people[split]) for split in order}
    if any(row.split is None for row in before):
        return Division(how="divided", seed=seed, identities=identities)
    if any(one.split != other.split for one, other in zip(before, after, strict=True)):
        return Division(how="held out", seed=seed, identities=identities)
    return Division(how="source", identities=identities)
