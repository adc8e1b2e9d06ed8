"""Writes the workbooks of a differential test by XlsxWriter.

write_xlsxwriter.py SPEC.json DIR: one workbook a case, DIR/NAME.xlsx.
write_xlsxwriter.py SPEC.json FILE.xlsx: one workbook with a sheet a case, but for
those that concern the workbook.
"""
import datetime
import json
import sys
import warnings

import xlsxwriter

COLUMNS = {"mac": 0, "serial": 1, "note": 2}


def put(book, sheet, at, case):
    kind, value = case["type"], case["value"]
    style = book.add_format({"num_format": case["format"]}) if case["format"] else None
    if kind == "text":
        sheet.write_string(*at, value, style)
    elif kind == "number":
        sheet.write_number(*at, float(value) if "." in value or "e" in value else int(value), style)
    elif kind == "bool":
        sheet.write_boolean(*at, value == "true", style)
    elif kind == "date":
        style = style or book.add_format({"num_format": "yyyy-mm-dd"})
        sheet.write_datetime(*at, datetime.datetime.fromisoformat(value), style)
    elif kind == "formula":
        sheet.write_formula(*at, "=" + value, style, case["result"])
    elif kind == "error":
        sheet.write_formula(*at, "=NA()", style, value)
    elif kind == "rich":
        bold = book.add_format({"bold": True})
        half = len(value) // 2
        sheet.write_rich_string(*at, value[:half], bold, value[half:])
    elif kind == "blank":
        sheet.write_blank(*at, None, style or book.add_format({"bold": True}))


def extra(book, sheet, at, case):
    what = case["extra"]
    if what == "merge":
        sheet.merge_range(2, 2, 3, 2, "x")
    elif what == "hidden-row":
        sheet.set_row(2, None, None, {"hidden": True})
    elif what == "hidden-column":
        sheet.set_column(2, 2, None, None, {"hidden": True})
    elif what == "comment":
        sheet.write_comment(*at, "a comment")
    elif what == "link":
        sheet.write_url(*at, "https://example.com/", None, case["value"])
    elif what == "filter":
        sheet.autofilter(0, 0, 3, 2)
    elif what == "freeze":
        sheet.freeze_panes(1, 0)
    elif what == "second-sheet":
        book.add_worksheet("Notes").write(0, 0, "nothing here")
    elif what == "hidden-sheet":
        old = book.add_worksheet("Old")
        old.write(0, 0, "old")
        old.hide()
    elif what == "formatted-below":
        for row in range(4, 8):
            sheet.write_blank(row, 2, None, book.add_format({"num_format": 44}))
    elif what == "beside":
        sheet.write(2, 6, "lost")


def write(book, sheet, case):
    skip = 1 if case["extra"] == "gap" else 0
    column = COLUMNS[case["column"]]
    for number, row in enumerate(case["rows"]):
        number += skip if number > 1 else 0
        for c, value in enumerate(row):
            if number == 2 + skip and c == column:
                put(book, sheet, (number, c), case)
            elif value:
                sheet.write_string(number, c, value)
    extra(book, sheet, (2 + skip, column), case)


def main():
    warnings.simplefilter("ignore")
    with open(sys.argv[1], encoding="utf-8") as f:
        cases = json.load(f)
    options = {"strings_to_numbers": False, "strings_to_formulas": False, "strings_to_urls": False,
               "default_date_format": "yyyy-mm-dd"}
    if sys.argv[2].endswith(".xlsx"):
        book = xlsxwriter.Workbook(sys.argv[2], options)
        for case in cases:
            if case["extra"] not in ("1904", "second-sheet", "hidden-sheet"):
                write(book, book.add_worksheet(case["name"]), case)
        book.close()
        return
    for case in cases:
        options["date_1904"] = case["extra"] == "1904"
        options["constant_memory"] = len(case["name"]) % 2 == 0 and case["extra"] == ""
        book = xlsxwriter.Workbook(f"{sys.argv[2]}/{case['name']}.xlsx", options)
        write(book, book.add_worksheet(), case)
        book.close()


main()
