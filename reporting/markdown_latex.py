"""The report's tables as text: Markdown to read, LaTeX to print."""

import re

from reporting.tables import Table

_LATEX = {c: "\\" + c for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "γ": r"$\gamma$",
    "–": "--",
    "|": "$|$",
    '"': "''",
}


def markdown(table: Table) -> str:
    """A caption and an aligned table; the best of a column is bold."""
    rows = [[_in_markdown(name) for name in table.headings]]
    rows += [[f"**{_in_markdown(c.text)}**" if c.best else _in_markdown(c.text) for c in row] for row in table.rows]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    lines = [_in_markdown(table.caption), ""]
    for name, *cells in rows:
        lines.append(" | ".join(["| " + name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) + " |")
    return "\n".join(lines)


def _in_markdown(text: str) -> str:
    return re.sub(r"([|\\`*_<>\[\]])", r"\\\1", " ".join(text.split()))


def latex(table: Table) -> str:
    """A tabular with booktabs' rules; the best of a column is bold."""
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{_in_latex(table.caption)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(table.headings) - 1)}}}", r"\toprule"]
    lines += [" & ".join(map(_in_latex, table.headings)) + r" \\", r"\midrule"]
    for row in table.rows:
        cells = [rf"\textbf{{{_in_latex(c.text)}}}" if c.best else _in_latex(c.text) for c in row]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in " ".join(text.split()))
