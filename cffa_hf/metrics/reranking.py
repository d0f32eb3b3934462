"""Re-ranking by k-reciprocal neighbours of the gallery, for queries of the other modality.

Source: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017.
Two gallery items that show one person have the same neighbours in the gallery. The paper compares the neighbours of a
query with those of each item (Jaccard). A caption has no reciprocal neighbours among images, whose own neighbours are
images throughout; in their place stands the mean of those of its best images, which is the paper's local query expansion.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cffa_hf.errors import InputError
from cffa_hf.matrix_product import multiply

ROWS = 256  # queries, or gallery items, worked on at once
MOST_NEIGHBOURS = 200  # time and memory grow with their cube
COMPARED = 2**26  # neighbours compared with neighbours at once
PAIRS = 2**12  # gallery items compared pair by pair at once: 2 x 24 MiB at width 1536


class KReciprocalReranking:
    """Mix the scores of queries with how alike the neighbours of query and item are; pass it to `match_ranks`.

    The score becomes `(1 - weight) * score + weight * similarity`, where the similarity is 1 minus the Jaccard distance of
    the weighted neighbours, between 0 and 1.

    Args:
        gallery: Embeddings of the gallery, `(gallery, width)`; rows are normalised.
        neighbours: `k1` of the paper, nearest items that may be reciprocal ones; best is one to two times the number of
            items that show one person.
        query_neighbours: `k2` of the paper, best items of a query that lend it their neighbours.
        weight: Share of the similarity in the score (1 - lambda of the paper).

    Raises:
        InputError: If a number makes no sense.

    Example:
        >>> gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> scores = torch.tensor([[0.9, 0.8, 0.1]])
        >>> KReciprocalReranking(gallery, neighbours=1, query_neighbours=1)(scores)
        >>> scores
        tensor([[0.9300, 0.8564, 0.0700]])
    """

    method = "k_reciprocal"

    def __init__(self, gallery: Tensor, *, neighbours: int = 8, query_neighbours: int = 3, weight: float = 0.3):
        if gallery.ndim != 2:
            raise InputError(f"Re-ranking needs a gallery of the shape (items, width), not {tuple(gallery.shape)}.")
        if not 1 <= neighbours <= MOST_NEIGHBOURS or query_neighbours < 1 or not 0 <= weight <= 1:
            raise InputError(
                f"Re-ranking needs 1 to {MOST_NEIGHBOURS} neighbours, at least 1 neighbour of the query and a weight "
                f"from 0 to 1, not {neighbours}, {query_neighbours} and {weight}."
            )
        self.neighbours, self.query_neighbours, self.weight = neighbours, query_neighbours, weight
        self.gallery_size = len(gallery)
        gallery = F.normalize(gallery.detach().float(), dim=1)
        owners, self.members, self.shares = neighbour_shares(gallery, neighbours)
        self.starts = _starts(owners, len(gallery))
        order = self.members.argsort(stable=True)
        self.listed_by, self.listed_shares = owners[order], self.shares[order]
        self.listed_starts = _starts(self.members[order], len(gallery))

    @property
    def settings(self) -> dict[str, str | int | float]:
        """Return what results name: the method and its numbers."""
        numbers = {"neighbours": self.neighbours, "query_neighbours": self.query_neighbours, "weight": self.weight}
        return {"method": self.method, **numbers}

    def __call__(self, scores: Tensor) -> None:
        """Change the scores of queries in place, `(queries, gallery)`.

        Raises:
            InputError: If the gallery has another size.
        """
        if scores.shape[1] != self.gallery_size:
            raise InputError(f"Re-ranking knows {self.gallery_size} items, but there are scores of {scores.shape[1]}.")
        for rows in scores.split(ROWS):
            rows.mul_(1 - self.weight).add_(self.similarity(rows), alpha=self.weight)

    def similarity(self, scores: Tensor) -> Tensor:
        """Return 1 minus the Jaccard distance of the neighbours of queries and items, both `(queries, gallery)`.

        Weighted sets that each sum to 1 share s and span 2 - s (the sum of the smaller and of the larger weights).
        """
        best = scores.topk(min(self.query_neighbours, self.gallery_size), dim=1).indices
        lender, place = _expand(self.starts, best.flatten())
        cell = lender // best.shape[1] * self.gallery_size + self.members[place]
        lent = scores.new_zeros(scores.numel()).index_add_(0, cell, self.shares[place].to(scores.dtype))
        cells = lent.nonzero().flatten()
        shares = lent[cells] / best.shape[1]
        entry, place = _expand(self.listed_starts, cells % self.gallery_size)
        cell = cells[entry] // self.gallery_size * self.gallery_size + self.listed_by[place]
        smaller = torch.minimum(shares[entry], self.listed_shares[place].to(scores.dtype))
        shared = lent.zero_().index_add_(0, cell, smaller).view_as(scores)
        return shared / (2 - shared)


def neighbour_shares(gallery: Tensor, neighbours: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the expanded k-reciprocal neighbours of each gallery item (equations 2 to 7 of the paper).

    Args:
        gallery: Unit embeddings, `(gallery, width)`.
        neighbours: K; of an item's k nearest items, those stay that have it among theirs. Their own, of k / 2, join where
            two thirds of them are known already.

    Returns:
        Of each pair of item and neighbour, in order of the items: item, neighbour and the neighbour's share, which falls
        with the squared distance; the shares of one item sum to 1, and each is its own neighbour.
    """
    nearest = _nearest(gallery, neighbours)
    wide = _reciprocal(nearest)
    narrow = _reciprocal(nearest[:, : round(neighbours / 2) + 1])
    pairs = []
    rows = max(1, min(ROWS, COMPARED // (nearest.shape[1] ** 2 * narrow.shape[1])))
    for items in torch.arange(len(gallery), device=gallery.device).split(rows):
        own, known = nearest[items], wide[items]
        theirs, real = nearest[own][..., : narrow.shape[1]], narrow[own]  # (items, k + 1, k / 2 + 1)
        among = (theirs[..., None] == own[:, None, None]) & known[:, None, None]
        shared = (among.any(-1) & real).sum(dim=-1)
        joined = real & (known & (3 * shared >= 2 * real.sum(dim=-1)))[..., None]
        for members, chosen in ((own, known), (theirs.flatten(1), joined.flatten(1))):
            row, column = chosen.nonzero(as_tuple=True)
            pairs.append(items[row] * len(gallery) + members[row, column])
    unique = torch.cat(pairs).unique() if pairs else torch.zeros(0, dtype=torch.int64)
    owners, members = unique // max(1, len(gallery)), unique % max(1, len(gallery))
    cosines = gallery.new_empty(len(owners))
    for left, right, out in zip(owners.split(PAIRS), members.split(PAIRS), cosines.split(PAIRS), strict=True):
        torch.sum(gallery[left] * gallery[right], dim=1, out=out)
    shares = (2 * cosines - 2).exp()
    return owners, members, shares / shares.new_zeros(len(gallery)).index_add_(0, owners, shares)[owners]


def _nearest(gallery: Tensor, neighbours: int) -> Tensor:
    """Return each item and its nearest others, `(gallery, k + 1)`, itself first."""
    # Written in place: small results between large temporaries would keep the heap from reusing these.
    count = max(1, min(neighbours + 1, len(gallery)))
    nearest = torch.empty(len(gallery), count, dtype=torch.int64, device=gallery.device)
    buffer = gallery.new_empty(min(ROWS, len(gallery)), len(gallery))
    for start in range(0, len(gallery), ROWS):
        block = gallery[start : start + ROWS]
        cosines = buffer[: len(block)]
        multiply(block, gallery, cosines)
        items = torch.arange(len(block), device=gallery.device)
        cosines[items, start + items] = torch.inf
        nearest[start : start + ROWS] = cosines.topk(count, dim=1).indices
    return nearest


def _reciprocal(nearest: Tensor) -> Tensor:
    """Tell which of an item's nearest have it among theirs, `(gallery, k + 1)`."""
    items = torch.arange(len(nearest), device=nearest.device)
    parts = [(nearest[nearest[part]] == part[:, None, None]).any(-1) for part in items.split(ROWS)]
    return torch.cat(parts)


def _starts(owners: Tensor, count: int) -> Tensor:
    """Return where the entries of each owner begin, `(count + 1,)`; owners ascend."""
    return torch.searchsorted(owners, torch.arange(count + 1, device=owners.device))


def _expand(starts: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
    """List all entries of each owner: the number of the owner in the list, and the place of the entry."""
    counts = starts[owners + 1] - starts[owners]
    number = torch.repeat_interleave(torch.arange(len(owners), device=owners.device), counts)
    within = torch.arange(len(number), device=owners.device) - (counts.cumsum(0) - counts)[number]
    return number, starts[owners][number] + within
