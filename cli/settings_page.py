"""docs/settings.md, from the one table of settings: ``python -m cli.settings_page > docs/settings.md``."""

from __future__ import annotations

from shared.settings import PREFIX, SETTINGS

_HEAD = """\
# Settings

Every setting is an environment variable; each process reads them once, when it starts, and refuses names it
does not know. Options of the command line (`--port`, `--data` …) win over them. This page is made from
`shared/settings.py` by `make docs`.

| Variable | Default | Meaning |
| --- | --- | --- |
"""


def page() -> str:
    rows = (
        f"| `{PREFIX}{s.name.upper()}` | {f'`{s.default}`' if s.default else ''} | {s.help} |"
        for s in SETTINGS
    )
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - the page is this program's output
