"""How the code reads, in figures: files a folder, long functions, paragraphs, comments.

    python benchmarks/structure.py [FOLDER ...] [--json FILE]

A function counts from 25 lines on, its docstring apart; a paragraph ends at a blank line; a comment counts
where it has a line of its own.
"""

import argparse
import ast
import io
import json
import statistics
import tokenize
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LONG, TOO_LONG = 25, 60


def own_line_comments(text: str) -> set[int]:
    """Return the numbers of the lines that hold a comment alone."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and token.line[: token.start[1]].strip() == ""
    }


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> range:
    """Return the numbers of the lines after the signature and the docstring."""
    statements = function.body
    first = statements[1] if ast.get_docstring(function) and len(statements) > 1 else statements[0]
    return range(first.lineno, (function.end_lineno or first.lineno) + 1)


def measure(paths: list[Path]) -> dict[str, Any]:
    """Count over the given modules."""
    blanks: list[int] = []
    num_comments = num_body_lines = 0
    crowded = Counter(str(path.parent.relative_to(ROOT)) for path in paths if path.name != "__init__.py")
    too_long, without_paragraphs = [], []

    for path in paths:
        text = path.read_text(encoding="utf-8")
        lines, comments = text.splitlines(), own_line_comments(text)
        for function in ast.walk(ast.parse(text)):
            if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            body = body_lines(function)
            num_body_lines += len(body)
            num_comments += len(comments & set(body))
            name = f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
            if (function.end_lineno or 0) - function.lineno + 1 > TOO_LONG:
                too_long.append(name)
            if len(body) >= LONG:
                blanks.append(sum(not lines[number - 1].strip() for number in body))
                if blanks[-1] <= 1:
                    without_paragraphs.append(name)

    return {
        "lines": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths),
        "files": len(paths),
        "most_files_of_a_folder": crowded.most_common(1)[0][1],
        "functions_over_60_lines": too_long,
        "blank_lines_in_a_function_of_25_or_more": round(statistics.mean(blanks or [0]), 2),
        "comments_per_100_body_lines": round(100 * num_comments / max(1, num_body_lines), 2),
        "functions_of_25_or_more_with_at_most_one_blank_line": without_paragraphs,
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", default=["pipeline", "stin", "workflows"])
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    paths = sorted(path for folder in options.folders for path in (ROOT / folder).rglob("*.py"))
    figures = measure(paths)
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
