// Writes the workbooks of a differential test by ExcelJS or SheetJS.
//
// node write_node.js exceljs|sheetjs SPEC.json DIR: one workbook a case, DIR/NAME.xlsx.
'use strict';
const fs = require('fs');
const [, , program, spec, dir] = process.argv;
const cases = JSON.parse(fs.readFileSync(spec, 'utf8'));
const columns = { mac: 0, serial: 1, note: 2 };

async function byExcelJS(c, path) {
  const ExcelJS = require('exceljs');
  const book = new ExcelJS.Workbook();
  const sheet = book.addWorksheet('Devices');
  const skip = c.extra === 'gap' ? 1 : 0;
  c.rows.forEach((row, n) => row.forEach((v, i) => { if (v) sheet.getCell(n + 1 + (n > 1 ? skip : 0), i + 1).value = v; }));
  const cell = sheet.getCell(3 + skip, columns[c.column] + 1);
  switch (c.type) {
    case 'text': cell.value = c.value; break;
    case 'number': cell.value = Number(c.value); break;
    case 'bool': cell.value = c.value === 'true'; break;
    case 'date': cell.value = new Date(c.value + 'Z'); break;
    case 'formula': cell.value = { formula: c.value, result: c.result }; break;
    case 'error': cell.value = { error: c.value }; break;
    case 'rich': cell.value = { richText: [{ text: c.value.slice(0, 2) }, { text: c.value.slice(2), font: { bold: true } }] }; break;
    case 'blank': cell.value = null; cell.font = { bold: true }; break;
  }
  if (c.format) cell.numFmt = c.format;
  switch (c.extra) {
    case 'merge': sheet.mergeCells('C3:C4'); break;
    case 'hidden-row': sheet.getRow(3).hidden = true; break;
    case 'hidden-column': sheet.getColumn(3).hidden = true; break;
    case 'comment': cell.note = 'a comment'; break;
    case 'link': cell.value = { text: c.value, hyperlink: 'https://example.com/' }; break;
    case 'filter': sheet.autoFilter = 'A1:C4'; break;
    case 'freeze': sheet.views = [{ state: 'frozen', ySplit: 1 }]; break;
    case 'second-sheet': book.addWorksheet('Notes').getCell('A1').value = 'nothing here'; break;
    case 'hidden-sheet': book.addWorksheet('Old', { state: 'hidden' }).getCell('A1').value = 'old'; break;
    case '1904': book.properties.date1904 = true; break;
    case 'formatted-below': for (let r = 5; r < 9; r++) sheet.getCell(r, 3).numFmt = '0.00'; break;
    case 'beside': sheet.getCell('G3').value = 'lost'; break;
  }
  await book.xlsx.writeFile(path, { useSharedStrings: c.name.length % 2 === 0, useStyles: true });
}

function bySheetJS(c, path) {
  const XLSX = require('xlsx');
  const rows = c.rows.map((row) => row.map((v) => (v === '' ? null : v)));
  if (c.extra === 'gap') rows.splice(2, 0, [null]);
  const sheet = XLSX.utils.aoa_to_sheet(rows);
  const at = 'ABC'[columns[c.column]] + (c.extra === 'gap' ? 4 : 3);
  let cell = null;
  switch (c.type) {
    case 'text': cell = { t: 's', v: c.value }; break;
    case 'number': cell = { t: 'n', v: Number(c.value) }; break;
    case 'bool': cell = { t: 'b', v: c.value === 'true' }; break;
    case 'date': cell = { t: 'n', v: new Date(c.value + 'Z') / 86400000 + (c.extra === '1904' ? 24107 : 25569), z: 'yyyy-mm-dd' }; break;
    case 'formula': cell = { t: 's', f: c.value, v: c.result }; break;
    case 'error': cell = { t: 'e', v: 42, w: c.value }; break;
    case 'rich': return; // not written by the free edition
    case 'blank': cell = { t: 'z' }; break;
  }
  if (c.format) cell.z = c.format;
  sheet[at] = cell;
  const book = XLSX.utils.book_new();
  XLSX.utils.book_append_sheet(book, sheet, 'Devices');
  switch (c.extra) {
    case 'merge': sheet['!merges'] = [XLSX.utils.decode_range('C3:C4')]; break;
    case 'hidden-row': sheet['!rows'] = [{}, {}, { hidden: true }]; break;
    case 'hidden-column': sheet['!cols'] = [{}, {}, { hidden: true }]; break;
    case 'comment': XLSX.utils.cell_add_comment(cell, 'a comment'); break;
    case 'link': XLSX.utils.cell_set_hyperlink(cell, 'https://example.com/'); break;
    case 'filter': sheet['!autofilter'] = { ref: 'A1:C4' }; break;
    case 'second-sheet': XLSX.utils.book_append_sheet(book, XLSX.utils.aoa_to_sheet([['nothing here']]), 'Notes'); break;
    case 'hidden-sheet':
      XLSX.utils.book_append_sheet(book, XLSX.utils.aoa_to_sheet([['old']]), 'Old');
      book.Workbook = { Sheets: [{ Hidden: 0 }, { Hidden: 1 }] };
      break;
    case '1904': book.Workbook = { WBProps: { date1904: true } }; break;
    case 'beside': sheet.G3 = { t: 's', v: 'lost' }; sheet['!ref'] = 'A1:G4'; break;
    case 'freeze': case 'formatted-below': return;
  }
  XLSX.writeFile(book, path, { bookSST: c.name.length % 2 === 0, compression: true });
}

(async () => {
  for (const c of cases) {
    const path = `${dir}/${c.name}.xlsx`;
    try {
      if (program === 'exceljs') await byExcelJS(c, path);
      else bySheetJS(c, path);
    } catch (e) {
      process.stderr.write(`${c.name}: ${e.message}\n`);
    }
  }
})();
