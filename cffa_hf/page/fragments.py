"""The parts of the page as HTML; everything that is quoted in it is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from cffa_hf.page.answers import Answer, Explanation, Found
from cffa_hf.page.filters import shown
from cffa_hf.page.query import History, link_of

PURPOSE = (
    "For research and for authorised use. A score is how alike a sentence and a picture are to a model; it proves "
    "nothing about a person. Not for identifying people without a legal basis: the best result may be the wrong person, "
    "and there is a best result even if nobody in the gallery fits."
)


def heading(images: int, model: str) -> str:
    """Write the head of the page.

    Args:
        images: Number of pictures in the gallery.
        model: What to call the model; empty if it is not known.
    """
    said = f"{images:,} pictures{f', compared by {model}' if model else ''}"
    return f"<h1>Find a person by a description</h1><p class='quiet'>{escape(said)}</p>"


def examples(sentences: Sequence[str]) -> str:
    """Write the example sentences as buttons."""
    buttons = "".join(_button("example", place, sentence) for place, sentence in enumerate(sentences))
    return f"<div class='chips' role='group' aria-label='Example sentences'><span class='quiet'>For example</span>{buttons}</div>"


def status(answer: Answer, total: int, history: History, *, error: str = "") -> str:
    """Write what was searched and how much was found, or why nothing was.

    Args:
        answer: Of the present query.
        total: Number of pictures in the gallery.
        history: It says whether there is something to undo.
        error: A mistake in what was just done; the answer stays.
    """
    link = escape(link_of(answer.query))
    buttons = _button("undo", 0, "Undo") if history.can_undo else ""
    said = ""
    if error or answer.problem:
        said = f"<p class='problem' role='alert'>{escape(error or answer.problem)}</p>"
    elif answer.found:
        conditions = "".join(f" · {escape(condition)}" for condition in answer.query.conditions)
        said = f"Best {len(answer.found)} of {total:,} for <b>{escape(answer.query.title)}</b>{conditions}"
        broken = sum(one.picture is None for one in answer.found)
        if broken:
            said += f". {broken} of them cannot be shown: put their files back, or embed the gallery's folder again"
        said = f"<p role='status'>{said}</p>"
        note = "<span class='quiet'>an uploaded picture is in no link</span>"
        buttons += note if answer.query.picture else f"<a href='{link}' data-copy>Copy link</a>"
    return f"<div class='status' data-link='{link}'>{said}<span>{buttons}</span></div>"


def results(answer: Answer, *, chosen: int | None = None, labels: Iterable[str] = ()) -> str:
    """Write the results as a list of buttons.

    Args:
        answer: Of the present query.
        chosen: The id of the result that is explained.
        labels: Columns whose values are named with each result.
    """
    if not answer.found:
        return ""
    names = list(labels)
    items = []
    for one in answer.found:
        known = _metadata(one, names)
        said = [f"Result {one.place} of {len(answer.found)}", f"score {one.result.score:.2f}"]
        said += [f"{name} {value}" for name, value in known.items()]
        alt = escape(", ".join(said) + ("" if one.picture else ", the picture is missing or broken"))
        picture = f"<img src='{one.picture}' alt='{alt}'>" if one.picture else _missing(alt)
        below = f"<b>{one.place}</b> {one.result.score:.2f}"
        below += "".join(f"<br>{escape(value)}" for value in known.values())
        pressed = "true" if one.result.id == chosen else "false"
        items.append(
            f"<li><button type='button' data-action='choose' data-value='{one.result.id}' aria-pressed='{pressed}'>"
            f"{picture}<span class='below' aria-hidden='true'>{below}</span></button></li>"
        )
    return f"<ol class='results' aria-label='Results, best first'>{''.join(items)}</ol>"


def why(explanation: Explanation) -> str:
    """Write why an image is among the results: the chosen patches and words, and what is known about it."""
    one = explanation.found
    parts = [f"<h2 tabindex='-1'>Why result {one.place}?</h2>"]
    figures = (
        [_figure(explanation.picture, "The picture", f"Result {one.place}, enlarged")] if explanation.picture else []
    )
    if explanation.patches:
        said = f"{explanation.chosen[0]} of {explanation.chosen[1]} patches chosen"
        figures.append(
            _figure(explanation.patches, said, f"The same picture, faded but for the chosen patches; {said}")
        )
    parts.append(f"<div class='figures'>{''.join(figures)}</div>")
    if explanation.words:
        parts.append(f"<p class='words'>{' '.join(map(_word, explanation.words))}</p>")
        kept = [word for word, _, chosen in explanation.words if chosen]
        parts.append("<p class='quiet'>Marked words were chosen; the stronger, the more attention.</p>")
        parts.append(f"<p class='heard'>Chosen words: {escape(', '.join(kept))}</p>")
    if explanation.problem:
        parts.append(f"<p class='problem'>{escape(explanation.problem)}</p>")
    facts = {"score": f"{one.result.score:.4f}", "file": one.result.path} | _metadata(one, one.result.metadata)
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    parts.append(f"<dl>{rows}</dl>{_button('like', one.result.id, 'More like this one', 'wide')}")
    return f"<section class='why' aria-label='Why this result'>{''.join(parts)}</section>"


def hint(answer: Answer) -> str:
    """Say, while no result is explained, that each can be."""
    return "<p class='why quiet'>Press a result to see why it was found.</p>" if answer.found else ""


def recent(history: History) -> str:
    """Write the queries of this visit as buttons."""
    if not history.recent:
        return "<p class='quiet'>Nothing was searched yet.</p>"
    lines = (" · ".join((query.title, *query.conditions)) for query in history.recent)
    buttons = "".join(_button("recall", place, line) for place, line in enumerate(lines))
    return f"<div class='chips' role='group' aria-label='Queries of this visit'>{buttons}</div>"


def uploaded(picture: str | None) -> str:
    """Show the uploaded picture, with a button that removes it."""
    if picture is None:
        return ""
    image = f"<img src='{picture}' alt='The uploaded picture'>"
    return f"<div class='uploaded'>{image}{_button('remove', 0, 'Remove the picture')}</div>"


def _button(action: str, value: int, label: str, style: str = "chip") -> str:
    return f"<button type='button' class='{style}' data-action='{action}' data-value='{value}'>{escape(label)}</button>"


def _figure(picture: str, caption: str, alt: str) -> str:
    return f"<figure><img src='{picture}' alt='{escape(alt)}'><figcaption>{escape(caption)}</figcaption></figure>"


def _missing(alt: str) -> str:
    return f"<span class='missing' role='img' aria-label='{alt}'>picture missing or broken</span>"


def _word(word: tuple[str, float, bool]) -> str:
    text, strength, chosen = word
    return f"<mark style='--strength:{strength:.2f}'>{escape(text)}</mark>" if chosen else escape(text)


def _metadata(one: Found, names: Iterable[str]) -> dict[str, str]:
    known: Mapping[str, Any] = one.result.metadata
    return {name: shown(known[name]) for name in names if known.get(name) is not None}
