"""Draw README's picture of the demo: a run in a terminal of its own, which takes a minute.

    python tools/record_demo.py [SECONDS]

It shows one moment of the last rotation, as the live view drew it, and the figures at the end.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

TARGET = Path(__file__).parents[1] / "docs" / "images" / "demo.svg"
# As many columns as are legible on a phone, and pixels of each if there is room.
COLUMNS, LINES = 57, 32
COLUMN = 10
# The live view is on the alternate screen, where each picture begins at the upper left corner.
NEXT_PICTURE, LAST_PICTURE = "\x1b[H", "\x1b[?1049l"
# A rotation that has begun, and no event says yet that it has ended: events come first.
ROTATING = re.compile(r"generation (\d+): █.*generation \d+: █(?!.*tion \1: last )", re.DOTALL)

# That of rich without its font, which an image in a page may not load.
SVG = """\
<svg width="WIDTH" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
}}
.{unique_id}-title {{ font: bold 18px sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def recorded(*command: str) -> str:
    """Return what a command writes to a terminal.

    Raises:
        SystemExit: it failed.
    """
    process, terminal = pty.fork()
    if process == 0:
        os.environ |= {"TERM": "xterm-256color"}
        os.environ.pop("NO_COLOR", None)
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", LINES, COLUMNS, 0, 0))
    output = bytearray()
    try:
        while part := os.read(terminal, 1 << 16):
            output += part
    except OSError:  # its end, as Linux reports it
        pass
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    text = output.decode().replace("\r\n", "\n")
    if status != 0:
        sys.exit(f"{' '.join(command)} ended with {status}:\n{text.rpartition(LAST_PICTURE)[2]}")
    return text


def moment(output: str) -> str:
    """Return the last picture with connections of two generations, and the figures at the end."""
    live, _, end = output.rpartition(LAST_PICTURE)
    pictures = [picture for picture in live.split(NEXT_PICTURE) if ROTATING.search(picture)]
    if not pictures:
        sys.exit("no picture shows connections of two generations: record for longer")
    lines = pictures[-1].rstrip().split("\n")
    result = end.strip("\n").split("\n")
    if wide := [line for line in result if len(line) > COLUMNS]:
        sys.exit(f"wider than the picture: record again, or widen it: {wide}")
    return "\n".join([*lines, "", *result])


def main(arguments: list[str]) -> None:
    """Record it and write the picture."""
    seconds = arguments[0] if arguments else "60"
    shown = moment(recorded("ephemeral-creds", "demo", "--seconds", seconds))
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(f"\x1b[1m$ ephemeral-creds demo\x1b[0m\n{shown}"), soft_wrap=True)
    TARGET.parent.mkdir(exist_ok=True)
    svg = SVG.replace("WIDTH", str(COLUMNS * COLUMN))
    picture = console.export_svg(title="", theme=MONOKAI, code_format=svg, unique_id="demo")
    TARGET.write_text(picture, encoding="utf-8")
    print(f"{TARGET} written")


if __name__ == "__main__":
    main(sys.argv[1:])
