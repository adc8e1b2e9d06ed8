package sources

import (
	"bufio"
	"encoding/csv"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/xuri/excelize/v2"
)

// templateHeaders are the columns of the manifest template; all are guessed
// without configuration.
func templateHeaders() []string {
	return []string{"MAC address", "Serial no.", "Part no.", "Batch"}
}

// TemplateCSV writes an empty manifest: the header row only, so that no example
// device ever reaches the server.
func TemplateCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	c.UseCRLF = true // Excel's own line ends
	if err := c.Write(templateHeaders()); err != nil {
		return err
	}
	c.Flush()
	return c.Error()
}

// TemplateXLSX writes an empty manifest as a workbook whose columns are
// formatted as text, so that Excel leaves serial numbers alone.
func TemplateXLSX(w io.Writer) error {
	f := excelize.NewFile()
	defer f.Close()
	const sheet = "Devices"
	if err := f.SetSheetName("Sheet1", sheet); err != nil {
		return err
	}
	text, err := f.NewStyle(&excelize.Style{NumFmt: 49}) // "@", ECMA-376 part 1, 18.8.30
	if err != nil {
		return err
	}
	bold, err := f.NewStyle(&excelize.Style{NumFmt: 49, Font: &excelize.Font{Bold: true}})
	if err != nil {
		return err
	}
	headers := templateHeaders()
	last, err := excelize.ColumnNumberToName(len(headers))
	if err != nil {
		return err
	}
	if err := f.SetColStyle(sheet, "A:"+last, text); err != nil {
		return err
	}
	if err := f.SetColWidth(sheet, "A", last, 22); err != nil {
		return err
	}
	if err := f.SetSheetRow(sheet, "A1", &headers); err != nil {
		return err
	}
	if err := f.SetCellStyle(sheet, "A1", last+"1", bold); err != nil {
		return err
	}
	if err := f.SetPanes(sheet, &excelize.Panes{Freeze: true, YSplit: 1, TopLeftCell: "A2", ActivePane: "bottomLeft"}); err != nil {
		return err
	}
	return f.Write(w)
}

// maxGenerated is the number of addresses in one OUI.
const maxGenerated = 1 << 24

// Generate writes a CSV manifest of n invented devices with unique addresses
// and serial numbers, the same for the same seed. The addresses are of the OUI
// that IEEE uses in its examples (AC-DE-48): universal ones that no product
// has.
func Generate(w io.Writer, n int, seed uint64) error {
	if n < 0 || n > maxGenerated {
		return fmt.Errorf("cannot generate %d devices: one OUI has %d addresses", n, maxGenerated)
	}
	out := bufio.NewWriterSize(w, 1<<16)
	if _, err := out.WriteString(strings.Join(templateHeaders(), ",") + "\n"); err != nil {
		return err
	}
	// An odd factor permutes the numbers below 2^24, so nothing repeats.
	rng := rand.New(rand.NewPCG(seed, 0x6b65796d696c6c))
	factor, offset := rng.Uint32()|1, rng.Uint32()
	first := 1_000_000 + rng.IntN(8_000_000)
	var line []byte
	for i := range n {
		nic := (uint32(i)*factor + offset) % maxGenerated
		mac := MAC{0xac, 0xde, 0x48, byte(nic >> 16), byte(nic >> 8), byte(nic)}
		line = append(line[:0], mac.String()...)
		line = append(line, ",SN"...)
		line = strconv.AppendInt(line, int64(first+i), 10)
		line = append(line, ",KM-100-"...)
		line = append(line, byte('A'+i%3), ',')
		line = strconv.AppendInt(line, int64(i/500+1), 10)
		line = append(line, '\n')
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
	return out.Flush()
}
