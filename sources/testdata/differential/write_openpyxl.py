"""Writes the workbooks of a differential test by openpyxl.

write_openpyxl.py SPEC.json DIR: one workbook a case, DIR/NAME.xlsx.
"""
import datetime
import json
import sys

import openpyxl
from openpyxl.comments import Comment
from openpyxl.utils.datetime import CALENDAR_MAC_1904

COLUMNS = {"mac": "A", "serial": "B", "note": "C"}


def put(sheet, cell, case):
    kind, value = case["type"], case["value"]
    if kind == "text":
        cell.value = value
        cell.data_type = "s"
    elif kind == "number":
        cell.value = float(value) if "." in value or "e" in value else int(value)
    elif kind == "bool":
        cell.value = value == "true"
    elif kind == "date":
        cell.value = datetime.datetime.fromisoformat(value)
    elif kind == "formula":
        cell.value = "=" + value
    elif kind == "error":
        cell.value = value
        cell.data_type = "e"
    elif kind == "blank":
        cell.value = None
    elif kind == "rich":
        return False  # this version has no rich text
    if case["format"]:
        cell.number_format = case["format"]
    return True


def extra(book, sheet, cell, case):
    what = case["extra"]
    if what == "merge":
        sheet.merge_cells("C3:C4")
    elif what == "hidden-row":
        sheet.row_dimensions[3].hidden = True
    elif what == "hidden-column":
        sheet.column_dimensions["C"].hidden = True
    elif what == "comment":
        cell.comment = Comment("a comment", "author")
    elif what == "link":
        cell.hyperlink = "https://example.com/"
    elif what == "filter":
        sheet.auto_filter.ref = "A1:C4"
    elif what == "freeze":
        sheet.freeze_panes = "A2"
    elif what == "second-sheet":
        book.create_sheet("Notes")["A1"] = "nothing here"
    elif what == "hidden-sheet":
        book.create_sheet("Old")["A1"] = "old"
        book["Old"].sheet_state = "hidden"
    elif what == "1904":
        book.epoch = CALENDAR_MAC_1904
    elif what == "formatted-below":
        for row in range(5, 9):
            sheet.cell(row, 3).number_format = '_(* #,##0.00_);_(* "-"??_);_(@_)'
    elif what == "beside":
        sheet["G3"] = "lost"
    else:
        return what == ""
    return True


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        cases = json.load(f)
    for case in cases:
        book = openpyxl.Workbook()
        sheet = book.active
        skip = 1 if case["extra"] == "gap" else 0
        for number, row in enumerate(case["rows"], 1):
            for column, value in zip("ABC", row):
                cell = sheet[f"{column}{number + (skip if number > 2 else 0)}"]
                cell.value = value
                if value:
                    cell.data_type = "s"
        cell = sheet[f"{COLUMNS[case['column']]}{3 + skip}"]
        if case["extra"] == "1904":
            book.epoch = CALENDAR_MAC_1904
        try:
            done = put(sheet, cell, case)
        except (ValueError, openpyxl.utils.exceptions.IllegalCharacterError):
            continue
        if done and (case["extra"] == "gap" or extra(book, sheet, cell, case)):
            book.save(f"{sys.argv[2]}/{case['name']}.xlsx")


main()
