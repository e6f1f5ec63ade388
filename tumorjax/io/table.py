"""Tables of text: CSV files as spreadsheets write them."""

import csv
from pathlib import Path

from tumorjax.io.errors import InputError


def read_rows(path: Path, what: str = "patient") -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header of a CSV file, and each row with the number of its line.

    Cells are separated by commas, semicolons or tabulators, and lose the blanks around them; rows of empty cells are
    left out.

    Parameters
    ----------
    path
        The file, in UTF-8.
    what
        What a row is, for messages.

    Raises
    ------
    InputError
        If the file cannot be read, is no CSV file, has no row, or a row of another length than the header.
    """
    try:
        # Spreadsheets put a byte-order mark in front.
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip(" ,;\t\r\n")), "")
            file.seek(0)
            # Where the comma is the decimal sign, spreadsheets write semicolons.
            reader = csv.reader(file, strict=True, delimiter=max(",;\t", key=first.count))
            rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a CSV file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no CSV file in UTF-8 ({error}); give one with a header") from None
    rows = [(line, cells) for line, cells in rows if any(cells)]
    if len(rows) < 2:
        raise InputError(f"{path}: lists no {what}; give a header, and a row for each")
    header = rows.pop(0)[1]
    for line, cells in rows:
        if len(cells) != len(header):
            raise InputError(f"{path}, line {line}: has {len(cells)} cells, the header {len(header)}")
    return header, rows


def read_columns(
    path: Path, what: str, needed: tuple[str, ...], known: tuple[str, ...]
) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV file as cells by the name of their column, without empty ones, each with its line.

    Parameters
    ----------
    path, what
        See `read_rows`.
    needed, known
        Columns that must be there, and others that may be.

    Raises
    ------
    InputError
        If a column is missing, unknown or there twice; and as of `read_rows`.
    """
    header, rows = read_rows(path, what)
    if repeated := [column for column in header if header.count(column) > 1]:
        raise InputError(f"{path}: the column {repeated[0]!r} is there twice; give each once")
    if unknown := [column for column in header if column not in needed + known]:
        raise InputError(f"{path}: unknown column {unknown[0]!r}; known are {', '.join(needed + known)}")
    if missing := [column for column in needed if column not in header]:
        raise InputError(f"{path}: has no column {missing[0]!r}; found {', '.join(header)}")
    return [(line, {name: cell for name, cell in zip(header, cells, strict=True) if cell}) for line, cells in rows]
