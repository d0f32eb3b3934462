"""Rank-k, mAP and mINP from the ranks of the matches, which are found in chunks of queries.

A query's matches are the gallery items of its identity. All metrics follow from the places of the matches in the
ranking, so only these are kept (`MatchRanks`), never a ranking of the whole gallery.

Ties are counted against the system, whatever the order of the gallery: among equal scores the other items stand before
the matches, and the matches stand one after the other. A constant score therefore does not reach 100.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from cffa_hf.errors import InputError
from cffa_hf.matrix_product import multiply

CHUNK_BYTES = 256 * 2**20  # scores and temporaries of one chunk
GALLERY_BLOCK = 1024  # gallery rows compared at once

Ids = Tensor | np.ndarray | Sequence[int]
Cameras = Tensor | np.ndarray | Sequence[str] | Sequence[int] | Sequence[str | None]


@dataclass(frozen=True)
class MatchRanks:
    """Hold the 1-based ranks of every query's matches.

    Attributes:
        ranks: Ranks of the matches, ascending within a query, int64 `(matches,)` on the CPU.
        offsets: The ranks of query i are `ranks[offsets[i]:offsets[i + 1]]`, int64 `(queries + 1,)`.
        query_ids: Identity of every query, int64 `(queries,)`.
        gallery_size: Number of gallery items.
    """

    ranks: Tensor
    offsets: Tensor
    query_ids: Tensor
    gallery_size: int

    @property
    def match_counts(self) -> Tensor:
        """Return the number of matches of every query, int64 `(queries,)`."""
        return self.offsets.diff()

    @property
    def evaluated(self) -> Tensor:
        """Return the indices of the queries that have a match, int64 `(evaluated,)`."""
        return self.match_counts.nonzero().flatten()

    @property
    def excluded_queries(self) -> int:
        """Return the number of queries without a match, which no metric counts."""
        return int((self.match_counts == 0).sum())

    def tolist(self) -> list[list[int]]:
        """Return the ranks as one list per query; a query without a match has an empty one."""
        return [part.tolist() for part in self.ranks.split(self.match_counts.tolist())]

    @classmethod
    def from_lists(cls, ranks: Sequence[Sequence[int]], query_ids: Ids, gallery_size: int) -> "MatchRanks":
        """Rebuild match ranks from one sequence of 1-based ranks per query, in any order.

        Raises:
            InputError: If a rank is given twice for a query or lies outside the gallery.

        Example:
            >>> MatchRanks.from_lists([[3, 1], []], query_ids=[1, 2], gallery_size=3).excluded_queries
            1
        """
        ids = _as_ids(query_ids, "query_ids", len(ranks))
        counts = torch.tensor([len(row) for row in ranks], dtype=torch.int64)
        for row, places in enumerate(ranks):
            valid = all(isinstance(place, int | np.integer) and 1 <= place <= gallery_size for place in places)
            if not valid or len(set(places)) != len(places):
                raise InputError(
                    f"The ranks of query {row} must be different integers from 1 to the gallery size, {gallery_size}."
                )
        flat = torch.tensor([place for row in ranks for place in sorted(row)], dtype=torch.int64)
        return cls(flat, _offsets(counts), ids, gallery_size)


def match_ranks(
    query_embeddings: Tensor,
    gallery_embeddings: Tensor,
    query_ids: Ids,
    gallery_ids: Ids,
    *,
    query_cameras: Cameras | None = None,
    gallery_cameras: Cameras | None = None,
    rerank: Callable[[Tensor], None] | None = None,
    chunk_size: int | None = None,
) -> MatchRanks:
    """Rank the matches of every query by dot product.

    Text-to-image passes captions as queries and images as gallery; image-to-text swaps the two. The products are taken
    on the gallery's device, in float32 (float64 if an input has it) and outside autocast. Equal gallery rows get equal
    scores, which a matrix product alone does not promise. Another chunk size may change the last bit of a score.

    Args:
        query_embeddings: `(queries, width)`, any float type; normalise them for a cosine score.
        gallery_embeddings: `(gallery, width)`.
        query_ids: Identity of every query.
        gallery_ids: Identity of every gallery item.
        query_cameras: With `gallery_cameras`, removes the items of the query's identity from the query's camera, as in
            re-identification. An unknown camera (None) equals no other.
        gallery_cameras: Camera of every gallery item.
        rerank: Changes the scores of some queries, `(queries, gallery)`, in place; see `cffa_hf.metrics.reranking`.
        chunk_size: Queries scored at once; by default as many as fit into 256 MiB.

    Raises:
        InputError: If shapes and lengths do not fit together, or an embedding is not finite.

    Example:
        >>> queries, gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.0, 1.0]])
        >>> match_ranks(queries, gallery, query_ids=[1, 2], gallery_ids=[1, 2, 1]).tolist()
        [[1, 3], [2]]
    """
    _check_embeddings(query_embeddings, gallery_embeddings)
    device = gallery_embeddings.device
    wide = torch.float64 in (query_embeddings.dtype, gallery_embeddings.dtype)
    dtype = torch.float64 if wide else torch.float32
    queries, gallery = query_embeddings.detach(), gallery_embeddings.detach()
    copies, originals = _duplicate_rows(gallery)

    def write_scores(start: int, stop: int, scores: Tensor) -> None:
        multiply(queries[start:stop], gallery, scores)
        if rerank is not None:
            rerank(scores)
        if len(copies):
            scores[:, copies] = scores[:, originals]

    matches = _Matches(query_ids, gallery_ids, query_cameras, gallery_cameras, len(queries), len(gallery))
    return _rank_in_chunks(write_scores, matches, dtype, device, chunk_size)


def _check_embeddings(query_embeddings: Tensor, gallery_embeddings: Tensor) -> None:
    """Refuse embeddings of a wrong shape or with a number that is not finite, naming the row."""
    for name, embeddings in (("query_embeddings", query_embeddings), ("gallery_embeddings", gallery_embeddings)):
        if not isinstance(embeddings, Tensor) or embeddings.ndim != 2:
            shape = tuple(embeddings.shape) if isinstance(embeddings, Tensor) else type(embeddings).__name__
            raise InputError(f"{name} must be a tensor of the shape (items, width), not {shape}.")
        for start in range(0, len(embeddings), GALLERY_BLOCK):
            finite = embeddings[start : start + GALLERY_BLOCK].detach().isfinite().all(dim=1)
            if not finite.all():
                row = start + int((~finite).nonzero()[0])
                raise InputError(f"Row {row} of {name} holds NaN or infinity; encode that item again.")
    if query_embeddings.shape[1] != gallery_embeddings.shape[1]:
        raise InputError(
            f"Queries have width {query_embeddings.shape[1]} and the gallery {gallery_embeddings.shape[1]}; "
            "encode both with the same model."
        )


def match_ranks_from_scores(
    scores: Tensor | np.ndarray,
    query_ids: Ids,
    gallery_ids: Ids,
    *,
    query_cameras: Cameras | None = None,
    gallery_cameras: Cameras | None = None,
    chunk_size: int | None = None,
) -> MatchRanks:
    """Rank the matches of every query in a score matrix, greater is better.

    Args:
        scores: `(queries, gallery)`, left unchanged; infinities are allowed, and integers to 2**53.
        query_ids: Identity of every query.
        gallery_ids: Identity of every gallery item.
        query_cameras: See `match_ranks`.
        gallery_cameras: See `match_ranks`.
        chunk_size: Queries ranked at once; by default as many as fit into 256 MiB.

    Raises:
        InputError: If shapes and lengths do not fit together, or a score is NaN.

    Example:
        >>> match_ranks_from_scores([[0.9, 0.8, 0.1]], query_ids=[1], gallery_ids=[2, 1, 1]).tolist()
        [[2, 3]]
    """
    given = torch.as_tensor(scores).detach()
    if given.ndim != 2:
        raise InputError(f"scores must have the shape (queries, gallery), not {tuple(given.shape)}.")
    narrow = given.dtype in (torch.float32, torch.float16, torch.bfloat16)
    dtype = torch.float32 if narrow else torch.float64

    def write_scores(start: int, stop: int, out: Tensor) -> None:
        out.copy_(given[start:stop])

    matches = _Matches(query_ids, gallery_ids, query_cameras, gallery_cameras, given.shape[0], given.shape[1])
    return _rank_in_chunks(write_scores, matches, dtype, given.device, chunk_size)


class _Matches:
    """Find the gallery columns of every query's identity, and those of them that its camera removes."""

    def __init__(
        self,
        query_ids: Ids,
        gallery_ids: Ids,
        query_cameras: Cameras | None,
        gallery_cameras: Cameras | None,
        queries: int,
        gallery: int,
    ):
        self.query_ids = _as_ids(query_ids, "query_ids", queries)
        gallery_identities = _as_ids(gallery_ids, "gallery_ids", gallery)
        self.gallery_size = gallery
        sorted_ids, self.order = gallery_identities.sort(stable=True)
        self.start = torch.searchsorted(sorted_ids, self.query_ids)
        self.count = torch.searchsorted(sorted_ids, self.query_ids, right=True) - self.start
        self.cameras = None
        if (query_cameras is None) != (gallery_cameras is None):
            raise InputError(
                "Camera-aware evaluation needs both query_cameras and gallery_cameras; give both or neither."
            )
        if query_cameras is not None and gallery_cameras is not None:
            self.cameras = _encode_cameras(query_cameras, gallery_cameras, queries, gallery)

    def columns(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the columns of the queries' identities, which are real and which count as matches, `(rows, most)`."""
        count = self.count[start:stop, None]
        place = torch.arange(int(count.max()))
        real = place < count
        columns = self.order[torch.where(real, self.start[start:stop, None] + place, 0)]
        if self.cameras is None:
            return columns, real, real
        query_cameras, gallery_cameras = self.cameras
        return columns, real, real & (gallery_cameras[columns] != query_cameras[start:stop, None])


@torch.no_grad()
def _rank_in_chunks(
    write_scores: Callable[[int, int, Tensor], None],
    matches: _Matches,
    dtype: torch.dtype,
    device: torch.device,
    chunk_size: int | None,
) -> MatchRanks:
    """Rank the matches; `write_scores` fills the scores of the queries from start to stop into `(rows, gallery)`."""
    queries, gallery = len(matches.query_ids), matches.gallery_size
    if chunk_size is not None and chunk_size < 1:
        raise InputError(f"chunk_size must be at least 1, not {chunk_size}.")
    ranks, counts = [], []
    if queries and gallery:
        # On the CPU rows are sorted in place; elsewhere torch returns sorted copies with int64 indices.
        score_bytes = dtype.itemsize if device.type == "cpu" else 3 * dtype.itemsize + 16
        row_bytes = score_bytes * gallery + 96 * int(matches.count.max())
        chunk_size = min(chunk_size or max(1, CHUNK_BYTES // row_bytes), queries)
        buffer = torch.empty(chunk_size, gallery, dtype=dtype, device=device)
        for start in range(0, queries, chunk_size):
            stop = min(start + chunk_size, queries)
            scores = buffer[: stop - start]
            write_scores(start, stop, scores)
            columns, real, counted = (part.to(device) for part in matches.columns(start, stop))
            own = scores.gather(1, columns)
            ordered = _sort_rows(scores)
            unordered = ordered[:, -1].isnan().nonzero().flatten()  # a sort puts NaN last
            if len(unordered):
                raise InputError(
                    f"The scores of query {start + int(unordered[0])} hold NaN; replace them before ranking."
                )
            ranks.append(_ranks_of_matches(ordered, own, real, counted).cpu())
            counts.append(counted.sum(dim=1).cpu())
    empty = torch.zeros(0, dtype=torch.int64)
    match_counts = torch.cat(counts) if counts else torch.zeros(queries, dtype=torch.int64)
    return MatchRanks(torch.cat([empty, *ranks]), _offsets(match_counts), matches.query_ids, gallery)


def _ranks_of_matches(ordered: Tensor, own: Tensor, real: Tensor, counted: Tensor) -> Tensor:
    """Return the ranks of the counted matches of all rows one after the other, `(matches,)`, ascending within a row.

    The j-th best match stands behind j - 1 matches and behind every other item with at least its score. The latter are
    all items with at least its score without those of the query's identity, removed by the camera or not.

    Args:
        ordered: All scores of every query, ascending, `(rows, gallery)`.
        own: Scores of the items of the query's identity, `(rows, most)`.
        real: Which of these are no padding.
        counted: Which of these count as matches.
    """
    best_first = own.masked_fill(~counted, -torch.inf).sort(dim=1, descending=True).values
    at_least = ordered.shape[1] - torch.searchsorted(ordered, best_first)
    ascending = own.masked_fill(~real, -torch.inf).sort(dim=1).values
    own_at_least = own.shape[1] - torch.searchsorted(ascending, best_first)
    # Padding equals a match whose score is minus infinity, hence the limit.
    own_at_least = torch.minimum(own_at_least, real.sum(dim=1, keepdim=True))
    place = torch.arange(own.shape[1], device=own.device)
    ranks = place + 1 + at_least - own_at_least
    return ranks[place < counted.sum(dim=1, keepdim=True)]


def _sort_rows(scores: Tensor) -> Tensor:
    """Sort every row ascending; on the CPU in place.

    torch sorts values together with their indices, which are not needed here; numpy sorts values alone, in vector
    instructions, more than ten times as fast.
    """
    if scores.device.type != "cpu":
        return scores.sort(dim=1).values
    rows = scores.numpy()
    threads = torch.get_num_threads()
    if threads == 1 or len(rows) < threads:
        rows.sort(axis=1)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda part: part.sort(axis=1), np.array_split(rows, threads)))
    return scores


def _duplicate_rows(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of the rows that repeat an earlier row, and the indices of those earlier rows.

    The last bit of a dot product depends on the column's place in the block that is multiplied, so that equal rows may
    score differently; the copies take the score of the original instead.
    """
    weights = torch.randint(-(2**62), 2**62, (embeddings.shape[1],), generator=torch.Generator().manual_seed(0))
    weights = weights.to(embeddings.device) * 2 + 1
    # Written in place: small results between large temporaries would keep the heap from reusing these.
    hashes = torch.empty(len(embeddings), dtype=torch.int64, device=embeddings.device)
    dtype, integer = torch.float32, torch.int32
    if embeddings.dtype == torch.float64:
        dtype, integer = torch.float64, torch.int64
    for block, out in zip(embeddings.split(GALLERY_BLOCK), hashes.split(GALLERY_BLOCK), strict=True):
        # Adding zero turns -0.0 into 0.0. Integer sums wrap around and are exact in any order.
        bits = (block.to(dtype) + 0.0).view(integer)
        torch.sum(bits * weights, dim=1, out=out)
    values, order = hashes.sort(stable=True)
    repeats = torch.zeros_like(values, dtype=torch.bool)
    repeats[1:] = values[1:] == values[:-1]
    first = torch.where(repeats, 0, torch.arange(len(values), device=values.device)).cummax(0).values
    copies, originals = order[repeats], order[first[repeats]]
    parts = zip(copies.split(GALLERY_BLOCK), originals.split(GALLERY_BLOCK), strict=True)
    # Two rows may share a hash by chance.
    equal = torch.cat([(embeddings[left] == embeddings[right]).all(dim=1) for left, right in parts])
    return copies[equal], originals[equal]


def _offsets(counts: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])


def _as_ids(ids: Ids, name: str, length: int) -> Tensor:
    """Return identities as int64 on the CPU."""
    try:
        values = torch.as_tensor(ids).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be integers; number the identities ({error}).") from error
    if values.numel() == 0:
        values = values.to(torch.int64)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise InputError(f"{name} must be integers, not {values.dtype}.")
    if values.shape != (length,):
        raise InputError(f"{name} must hold one identity for each of the {length} items, not {tuple(values.shape)}.")
    return values.to(torch.int64)


def _encode_cameras(query: Cameras, gallery: Cameras, queries: int, items: int) -> tuple[Tensor, Tensor]:
    """Number the cameras; unknown ones get numbers that equal no other."""
    names = [list(part.tolist() if isinstance(part, Tensor | np.ndarray) else part) for part in (query, gallery)]
    for label, part, length in zip(("query_cameras", "gallery_cameras"), names, (queries, items), strict=True):
        if len(part) != length:
            raise InputError(f"{label} must hold one camera for each of the {length} items, not {len(part)}.")
    # NaN, which tables write for what is missing, equals not even itself.
    names = [[None if name != name else name for name in part] for part in names]
    known = sorted({name for name in chain(*names) if name is not None}, key=str)
    codes = {name: code for code, name in enumerate(known)}
    return (
        torch.tensor([codes.get(name, -1) for name in names[0]], dtype=torch.int64),
        torch.tensor([codes.get(name, -2) for name in names[1]], dtype=torch.int64),
    )
