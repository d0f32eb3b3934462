"""Results that papers report on the test splits of the benchmarks, to be compared with."""

from collections.abc import Mapping
from typing import Any

from cffa_hf.errors import InputError

# Text-to-image, percent, as the papers print them; what a paper does not report is left out. All of them chose their
# epoch on the test split.
PUBLISHED_RESULTS: dict[str, dict[str, dict[str, float]]] = {
    "cuhk_pedes": {
        "CFFA": {"rank1": 75.44, "rank5": 89.88, "rank10": 94.01, "mAP": 67.03},
        "baseline of CFFA": {"rank1": 66.96},
        "RDE": {"rank1": 75.94},
        "IRRA": {"rank1": 73.38},
        "baseline of IRRA": {"rank1": 68.19},
    },
    "icfg_pedes": {
        "CFFA": {"rank1": 66.50, "rank5": 81.68, "rank10": 86.82, "mAP": 39.44},
        "baseline of CFFA": {"rank1": 55.52},
        "RDE": {"rank1": 67.68},
        "IRRA": {"rank1": 63.46},
        "baseline of IRRA": {"rank1": 56.74},
    },
    "rstpreid": {
        "CFFA": {"rank1": 62.85, "rank5": 83.10, "rank10": 89.65, "mAP": 49.68},
        "baseline of CFFA": {"rank1": 53.80},
        "RDE": {"rank1": 65.35},
        "IRRA": {"rank1": 60.20},
        "baseline of IRRA": {"rank1": 54.05},
    },
}


def check_published(dataset: str, split: str, rendered: bool) -> None:
    """Refuse to compare with papers what they did not measure.

    Args:
        dataset: Its name.
        split: Its name.
        rendered: Whether the images are of the demo.

    Raises:
        InputError: If it is not the test split of a benchmark's own images.
    """
    if dataset in PUBLISHED_RESULTS and split == "test" and not rendered:
        return
    found = f"the {split} split of {'rendered images in the layout of ' if rendered else ''}{dataset}"
    known = ", ".join(PUBLISHED_RESULTS)
    raise InputError(
        f"compare_published: papers report results on the test splits of {known}, not on {found}; leave the option out."
    )


def published_entry(
    dataset: str, metrics: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]
) -> list[dict[str, Any]]:
    """Compare text-to-image metrics with those that papers report.

    Args:
        dataset: One of `PUBLISHED_RESULTS`.
        metrics: Ours, in percent.
        intervals: Ends of our 95% intervals.

    Returns:
        One entry a method and metric: `method`, `metric`, `published`, `this`, `difference`, `low`, `high` (of our
        interval), `inside` (whether the published value lies in it).

    Example:
        >>> entry = published_entry("cuhk_pedes", {"rank1": 75.0}, {"rank1": (73.6, 76.3)})[0]
        >>> entry["method"], entry["published"], entry["difference"], entry["inside"]
        ('CFFA', 75.44, -0.44, True)
    """
    return [
        {
            **{"method": method, "metric": metric, "published": value, "this": metrics[metric]},
            "difference": round(metrics[metric] - value, 4),
            **{"low": intervals[metric][0], "high": intervals[metric][1]},
            "inside": intervals[metric][0] <= value <= intervals[metric][1],
        }
        for method, values in PUBLISHED_RESULTS[dataset].items()
        for metric, value in values.items()
        if metric in metrics
    ]
