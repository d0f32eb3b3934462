"""The description of the service for readers: one page that loads nothing."""

import json
from html import escape
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
section { border-top: 1px solid; margin-top: 1.5rem; } code, pre { font-size: 0.9em; overflow-x: auto; }
:root { color-scheme: light dark; }
"""


def description_page(schema: dict[str, Any]) -> str:
    """Write the endpoints of an OpenAPI description as an HTML page.

    Args:
        schema: The description.

    Returns:
        A page without scripts, that needs no other file.
    """
    sections = [
        _section(path, method, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    messages = escape(json.dumps(schema.get("components", {}).get("schemas", {}), indent=2, ensure_ascii=False))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(schema["info"]["title"])}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(schema['info']['title'])}</h1>"
        f"<p>{escape(schema['info'].get('summary', ''))} For programs: <code>/openapi.json</code>.</p>"
        f"{''.join(sections)}<section><h2>Messages</h2><pre>{messages}</pre></section></body></html>"
    )


def _section(path: str, method: str, operation: dict[str, Any]) -> str:
    statuses = "".join(
        f"<li><code>{escape(status)}</code> {escape(answer['description'])}</li>"
        for status, answer in operation["responses"].items()
    )
    takes = [
        f"<code>{escape(kind)}</code>: <code>{escape(content['schema'].get('$ref', '').rpartition('/')[2])}</code>"
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
    ]
    body = f"<p>Takes {', '.join(takes)}.</p>" if takes else ""
    return (
        f"<section><h2><code>{escape(method.upper())} {escape(path)}</code></h2><p>{escape(operation['summary'])}</p>"
        f"<p>{escape(operation.get('description', ''))}</p>{body}<ul>{statuses}</ul></section>"
    )
