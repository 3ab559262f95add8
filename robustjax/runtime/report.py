"""A page that explains a result: one HTML file with everything in it, to be read anywhere and printed."""

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from robustjax.runtime import provenance
from robustjax.runtime.files import write_whole

CSS = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5f656d; --rule: #d9dce0; --page: #fff;
  --band: #f5f6f8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e9; --soft: #a0a6ae; --rule: #3a3f46; --page: #16181b; --band: #202327 }
}
body { margin: 0 auto; max-width: 54rem; padding: 2.5rem 1.25rem 4rem; color: var(--ink);
  background: var(--page); font: 16px/1.55 system-ui, sans-serif }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--rule) }
p { max-width: 44rem; margin: .7rem 0; white-space: pre-line }
.made { color: var(--soft); font-size: .88rem; margin: 0; max-width: none }
.made code { overflow-wrap: anywhere }
.wide { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums }
figcaption { color: var(--soft); font-size: .88rem; padding: .4rem 0; max-width: 44rem }
th, td { padding: .32rem .9rem .32rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule) }
th { font-weight: 600; border-bottom: 2px solid var(--rule) }
.number { text-align: right; white-space: nowrap }
figure { margin: 1.2rem 0 }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px }
details { margin: 2.4rem 0 0; font-size: .88rem }
summary { cursor: pointer; color: var(--soft) }
pre { background: var(--band); padding: .9rem; overflow-x: auto; border-radius: 4px; line-height: 1.4 }
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt } pre { white-space: pre-wrap }
  h2 { break-after: avoid } figure, tr { break-inside: avoid }
}
"""


class Report:
    """Collect sections, paragraphs, tables and pictures in the order of the calls, then write them.

    Everything given is text: it is escaped, never read as HTML. Versions, devices, commit and command are
    those of this process.

    Args:
      title: the heading.
      config: what the result was asked with, a dataclass or mapping; shown at the end.
    """

    def __init__(self, title: str, config: Any = None) -> None:
        self._title = title
        self._config = provenance.plain(config)
        self._made = provenance.made_with()
        self._parts: list[str] = []
        self._figures: dict[str, bytes] = {}

    def section(self, title: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{html.escape(title)}</h2>")

    def text(self, paragraph: str) -> None:
        """Add a paragraph; its line breaks are kept."""
        self._parts.append(f"<p>{html.escape(paragraph)}</p>")

    def table(
        self, rows: Sequence[Mapping[str, Any]], *, caption: str = "", columns: Sequence[str] | None = None
    ) -> None:
        """Add a table. Numbers are aligned right, floats get four digits; give text to choose otherwise.

        Args:
          rows: one mapping each, from the column's name; what is absent or None is shown as a dash.
          caption: below the table.
          columns: which and in what order; by default all, as they first appear.
        """
        names = (
            list(columns)
            if columns is not None
            else list(dict.fromkeys(name for row in rows for name in row))
        )
        decimals = {name: _decimals([row.get(name) for row in rows]) for name in names}
        numeric = {
            name: all(_is_number(row.get(name)) for row in rows)
            and any(row.get(name) is not None for row in rows)
            for name in names
        }

        def cell(tag: str, name: str, text: str) -> str:
            align = ' class="number"' if numeric[name] else ""
            return f"<{tag}{align}>{html.escape(text)}</{tag}>"

        lines = ['<figure><div class="wide"><table>']
        lines.append(f"<thead><tr>{''.join(cell('th', name, name) for name in names)}</tr></thead><tbody>")
        lines += [
            f"<tr>{''.join(cell('td', name, written(row.get(name), decimals[name])) for name in names)}</tr>"
            for row in rows
        ]
        below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
        self._parts.append("\n".join([*lines, f"</tbody></table></div>{below}</figure>"]))

    def picture(
        self, png: bytes, *, caption: str, name: str | None = None, width: float | None = None
    ) -> None:
        """Add a picture, embedded in the page.

        Args:
          png: its bytes.
          name: `write` also puts it into figures/NAME.png beside the page, for use in a paper or a talk.
          caption: what it shows; also read out to those who cannot see it.
          width: in inches; by default that of a picture of 200 dots per inch, as `figures` makes them.
        Raises:
          ValueError: if these are not the bytes of a PNG file.
        """
        if not png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ValueError("Report.picture: png is no PNG file, must be the bytes of one")
        if name is not None:
            self._figures[name] = png
        inches = width or int.from_bytes(png[16:20]) / 200
        source = base64.b64encode(png).decode()
        text = html.escape(caption)
        self._parts.append(
            f'<figure><img src="data:image/png;base64,{source}" alt="{text}" style="width: {inches:.2f}in">'
            f"<figcaption>{text}</figcaption></figure>"
        )

    def scope(self, *, attacked: Sequence[str], attacks: Sequence[str], not_attacked: Sequence[str]) -> None:
        """Add what a robustness number covers and what it does not, so that nobody reads more into it.

        Args:
          attacked: the models, layers or scores attacked, and on which data.
          attacks: with what: norm, radius, steps, restarts.
          not_attacked: what an adversary could do and this evaluation did not.
        """
        self.section("What was attacked, with what, and what was not")
        for name, lines in (("Attacked", attacked), ("With", attacks), ("Not attacked", not_attacked)):
            items = "".join(f"<li>{html.escape(line)}</li>" for line in lines) or "<li>nothing</li>"
            self._parts.append(f"<p><strong>{name}</strong></p><ul>{items}</ul>")

    def html(self) -> str:
        """Return the page."""
        made = self._made
        versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
        devices = ", ".join(f"{count} × {kind}" for kind, count in made["devices"].items())  # noqa: RUF001
        commit = made["git"]
        head = [f"{made['date']} on {devices}", versions]
        if commit:
            head.append(
                f"commit {commit['commit'][:12]}{', with uncommitted changes' if commit['dirty'] else ''}"
            )
        lines = "".join(f'<p class="made">{html.escape(line)}</p>' for line in head)
        command = f'<p class="made"><code>{html.escape(made["command"])}</code></p>'
        config = ""
        if self._config is not None:
            text = html.escape(json.dumps(self._config, indent=2, ensure_ascii=False))
            config = f"<details open><summary>Configuration</summary><pre>{text}</pre></details>"
        title = html.escape(self._title)
        body = "\n".join(self._parts)
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title}</title><style>{CSS}</style></head>\n"
            f"<body><header><h1>{title}</h1>{lines}{command}</header>\n{body}\n{config}</body></html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page, whole or not at all, and the named pictures, from process 0; return where it is."""
        path = Path(path)
        if jax.process_index() == 0:
            for name, png in self._figures.items():
                write_whole(path.parent / "figures" / f"{name}.png", png)
            write_whole(path, self.html())
        return path


def written(value: Any, decimals: int | None = None) -> str:
    """Write a value for a reader: thousands apart, None as a dash, floats with four digits or `decimals`."""
    if value is None:
        return "–"  # noqa: RUF001
    if hasattr(value, "item") and np.size(value) == 1:
        value = value.item()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u2009")
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}" if decimals is None else f"{value:.{decimals}f}"
    return str(value)


def _decimals(column: Sequence[Any]) -> int | None:
    """The decimals that give the largest number of a column four digits; None if they would blur others."""
    sizes = [abs(float(v)) for v in column if _is_number(v) and v is not None and math.isfinite(v) and v != 0]
    if not sizes or min(sizes) < 1e-2 * max(sizes):
        return None
    return max(0, 3 - math.floor(math.log10(max(sizes))))


def _is_number(value: Any) -> bool:
    value = value.item() if hasattr(value, "item") and np.size(value) == 1 else value
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
