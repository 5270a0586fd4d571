"""Text tables for a terminal, and texts that are safe and short enough to stand in one."""

from actalign.console import one_line

TERMINAL_COLUMNS = 80
NARROWEST_TEXT = 12  # columns; shorter texts of a table tell too little


def table(rows, texts=1):
    """Lines of a text table whose first row is a header: so many columns of texts, then numbers.

    Texts are shortened until the lines fit into a terminal, the widest first; numbers never are.
    """
    from rich.cells import cell_len, set_cell_size

    rows = [[*(one_line(text).replace("\ufffd", "") for text in row[:texts]), *row[texts:]] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    while sum(widths) + 2 * (len(widths) - 1) > TERMINAL_COLUMNS and max(widths[:texts]) > NARROWEST_TEXT:
        widths[widths.index(max(widths[:texts]))] -= 1
    cells = [[set_cell_size(shortened(cell, width), width) if column < texts else cell.rjust(width)
              for column, (cell, width) in enumerate(zip(row, widths, strict=True))] for row in rows]
    lines = ["  ".join(row).rstrip() for row in cells]
    return [lines[0], "-" * max(map(cell_len, lines)), *lines[1:]]


def shortened(text, width):
    """A text in at most so many columns of a terminal, ending in an ellipsis where it was longer."""
    from rich.text import Text

    text = Text(one_line(text))
    text.truncate(width, overflow="ellipsis")
    return text.plain.rstrip()


def score_text(value):
    """A score in four decimals, or where these would show nothing of it, in two digits and a power of ten."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.1e}"
