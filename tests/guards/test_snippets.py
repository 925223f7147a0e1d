"""README and docs tell the truth: their Python runs, and their commands have these options.

A ```` ```python ```` block runs by itself, in a namespace that already holds ``provider`` (a
`FixedProvider` for the test's own PostgreSQL), and ``conninfo`` and ``dsn`` (where that is).
``await`` and ``async with`` may stand at the top level. A comment right before a block keeps it
from running; it is compiled, and what it takes from the library has to exist::

    <!-- not run: needs a Kubernetes cluster -->

In ```` ```console ```` blocks, each ``--option`` of a line ``$ ephemeral-creds …`` has to occur in
that command's ``--help``. A provider's URL has to make a provider, wherever it stands.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds.providers.fixed import FixedProvider
from ephemeral_creds.providers.url import provider_from_url, url_schemes

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = [page for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))] if page.exists()]

FENCE = re.compile(
    r"(?:^[ ]*<!--[ ]*not[ ]run:[ ]*(?P<reason>[^\n]*?)[ ]*-->[ ]*\n\s*)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w+)[^\n]*\n(?P<body>.*?)^(?P=indent)```[ ]*$",
    re.DOTALL | re.MULTILINE,
)
# Each is what the extra of its name brings.
LIBRARIES = ("asyncpg", "django", "opentelemetry", "prometheus_client", "sqlalchemy", "structlog")
# Sphinx has directives for code as well: nothing would run theirs.
HIDDEN = re.compile(
    r"^\s*[`~:]{3,}\{(?:code|code-block|code-cell|sourcecode|doctest|literalinclude)\}",
    re.MULTILINE,
)
# Of the schemes that `provider_from_url` knows.
PROVIDER_URL = re.compile(rf"(?<![\w+])(?:{'|'.join(url_schemes())})://[^\s\"'`|)>\]]+")
NOT_RUN = re.compile(r"<!--\s*not run(?!: \S)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def id(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def compiled(self) -> CodeType:
        # Empty lines in front, so that a traceback names the page's own line.
        source = "\n" * self.line + self.text
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(source, str(self.page), "exec", flags=flags, dont_inherit=True)
        assert isinstance(code, CodeType)
        return code


def blocks(page: Path, text: str) -> Iterator[Block]:
    for match in FENCE.finditer(text):
        yield Block(
            page,
            text.count("\n", 0, match.start("language")) + 1,
            match["language"],
            textwrap.dedent(match["body"]),
            match["reason"],
        )


ALL = [block for page in PAGES for block in blocks(page, page.read_text(encoding="utf-8"))]
PYTHON = [block for block in ALL if block.language == "python"]
RUNNABLE = [block for block in PYTHON if block.reason is None]
KEPT = [block for block in PYTHON if block.reason is not None]
COMMANDS = [
    (block, line)
    for block in ALL
    if block.language == "console"
    for line in block.text.replace("\\\n", " ").splitlines()
    if re.match(r"\$ (\w+=\S+ )*ephemeral-creds\b", line)
]


# In prose and in all kinds of blocks. Those with `?…` or a name in capitals stand for others.
URLS = sorted(
    {
        match[0].rstrip(".,")
        for page in PAGES
        for match in PROVIDER_URL.finditer(page.read_text(encoding="utf-8"))
        if not re.search(r"\?…|=…$|//[A-Z]", match[0])
    }
)


def execute(code: CodeType, namespace: dict[str, object]) -> None:
    result = eval(code, namespace)
    if inspect.iscoroutine(result):
        asyncio.run(result)


def check_options(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Compare a command line's options with what the command's help tells."""
    main = importlib.import_module("ephemeral_creds.cli").main
    words = shlex.split(line.removeprefix("$ "), comments=True)
    arguments = words[words.index("ephemeral-creds") + 1 :]
    # What follows belongs to the program that `exec` runs.
    arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments
    options = [word.split("=")[0] for word in arguments if word.startswith("-")]
    command = arguments[:1] if arguments and not arguments[0].startswith("-") else []
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0, f"there is no command {command}"
    known = set(re.findall(r"(?<![\w-])--?[\w-]+", capsys.readouterr().out))
    assert set(options) <= known, f"{line}: no such option: {set(options) - known}"


@pytest.mark.parametrize("block", PYTHON, ids=[block.id for block in PYTHON])
def test_python_compiles(block: Block) -> None:
    block.compiled()


@pytest.mark.parametrize("block", RUNNABLE, ids=[block.id for block in RUNNABLE])
def test_python_runs(block: Block, request: pytest.FixtureRequest) -> None:
    postgres = request.getfixturevalue("postgres")
    namespace: dict[str, object] = {
        "__name__": "__main__",
        "provider": FixedProvider(postgres.superuser, postgres.password),
        "conninfo": f"host={postgres.host} port={postgres.port} dbname=postgres",
        "dsn": f"postgresql://{postgres.host}:{postgres.port}/postgres",
    }
    try:
        execute(block.compiled(), namespace)
    except ModuleNotFoundError as error:
        # That of an extra, which not every session installs; a page may import it before ours.
        if "ephemeral-creds[" not in str(error) and error.name not in LIBRARIES:
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("block", KEPT, ids=[block.id for block in KEPT])
def test_python_that_cannot_run_uses_what_exists(block: Block) -> None:
    tree = ast.parse(block.text)
    found: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ephemeral_creds"):
            try:
                module = importlib.import_module(str(node.module))
            except ModuleNotFoundError as error:
                pytest.skip(str(error))
            for name in node.names:
                found[name.asname or name.name] = getattr(module, name.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in found:
            keywords = {keyword.arg: None for keyword in node.keywords}
            if None not in keywords:  # **options may be anything
                signature = inspect.signature(found[node.func.id])  # type: ignore[arg-type]
                signature.bind(*node.args, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", URLS)
def test_urls_make_providers(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_ADDR", "https://vault:8200")
    monkeypatch.setenv("VAULT_ID_TOKEN", "a token")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    for name in ("HOST", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.setenv(f"DATABRICKS_{name}", "not-asked-here")
    try:
        provider_from_url(url.replace("…", "x")).close()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))  # that of an extra


@pytest.mark.parametrize("line", [line for _, line in COMMANDS], ids=[b.id for b, _ in COMMANDS])
def test_command_has_these_options(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_options(line, capsys)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_blocks_that_do_not_run_say_why(page: Path) -> None:
    assert not NOT_RUN.search(page.read_text(encoding="utf-8")), "write: <!-- not run: reason -->"


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_no_directive_hides_code(page: Path) -> None:
    found = HIDDEN.findall(page.read_text(encoding="utf-8"))
    assert not found, f"write ```python in place of {found}"


# --- the machinery itself, so that it can be relied on while there are no pages ----------------

PAGE = """
# A page

```python
ran.append(1)
```

<!-- not run: a reason -->
```python
raise SystemExit
```

1. in a list

   ```python
   import asyncio
   await asyncio.sleep(0)
   ran.append(2)
   ```

```console
$ ephemeral-creds demo --speed 10
```
"""


def test_machinery_finds_blocks() -> None:
    found = list(blocks(ROOT / "x.md", PAGE))
    assert [(b.line, b.language, b.reason) for b in found] == [
        (4, "python", None),
        (9, "python", "a reason"),
        (15, "python", None),
        (21, "console", None),
    ]
    assert found[2].text.startswith("import asyncio\n")


def test_machinery_runs_blocks() -> None:
    ran: list[int] = []
    for block in blocks(ROOT / "x.md", PAGE):
        if block.language == "python" and block.reason is None:
            execute(block.compiled(), {"ran": ran})
    assert ran == [1, 2]


def test_machinery_names_the_line_of_an_error() -> None:
    (block,) = blocks(ROOT / "x.md", "text\n\n```python\nx = 1\nraise KeyError\n```\n")
    with pytest.raises(KeyError) as caught:
        execute(block.compiled(), {})
    assert caught.traceback[-1].lineno == 4  # counted from 0
